// Round trips, ownership of bytes, and the size of deltas.
import { describe, expect, it } from 'vitest';
import { decode, encode, encodeCopy, MAX_NESTING, MAX_PARTS, readFrameHead } from '../../protocol/codec.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage, Delta, ServerMessage } from '../../protocol/messages.ts';
import { parseClientMessage } from '../../protocol/validate.ts';
import { clientMessage, Random, serverMessage } from './generate.ts';

const SEED = 20_261_122;

/** A frame from hex, spaces allowed. */
function frame(hex: string): Uint8Array {
  return new Uint8Array((hex.replaceAll(' ', '').match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)));
}

/** An array of `count` empty maps. */
function emptyMaps(count: number): Uint8Array {
  const bytes = new Uint8Array(5 + count).fill(0x80);
  bytes[0] = 0xdd;
  new DataView(bytes.buffer).setUint32(1, count);
  return bytes;
}

const nested = (levels: number) => frame(`${'91'.repeat(levels)}c0`);

describe('codec', { timeout: 60_000 }, () => {
  it(`gives back every server message as it was (1,000 of seed ${SEED})`, () => {
    const random = new Random(SEED);
    for (let i = 0; i < 1000; i++) {
      const message = serverMessage(random, i);
      expect(decode(encode(message)), `case ${i}`).toEqual(message);
    }
  });

  it(`gives back every client message as it was and the validator accepts it (1,000 of seed ${SEED + 1})`, () => {
    const random = new Random(SEED + 1);
    for (let i = 0; i < 1000; i++) {
      const message = clientMessage(random, i);
      const value = decode(encode(message));
      expect(value, `case ${i}`).toEqual(message);
      expect(parseClientMessage(value), `case ${i}`).toEqual({ ok: true, message });
    }
  });

  it('never changes the bytes of a frame it has returned', () => {
    const random = new Random(SEED + 2);
    const kept = Array.from({ length: 2000 }, (_, i) => {
      const bytes = encode(serverMessage(random, i));
      return { bytes, before: bytes.toString() };
    });
    for (const { bytes, before } of kept) expect(bytes.toString()).toBe(before);
  });

  it('copies into memory of its own on request', () => {
    const message: ServerMessage = [Op.Pong, 0, 'x'];
    const copy = encodeCopy(message);
    expect(copy.buffer.byteLength).toBe(copy.byteLength);
    expect(decode(copy)).toEqual(message);
  });

  it('keeps nothing of the bytes it decoded', () => {
    const random = new Random(SEED + 3);
    for (let i = 0; i < 200; i++) {
      const message = clientMessage(random, i);
      const bytes = encodeCopy(message);
      const value = decode(bytes);
      bytes.fill(0xc1);
      structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
      expect(value).toEqual(message);
    }
  });

  it('decodes a frame that lies inside a larger buffer', () => {
    const bytes = encode([Op.Ping, 7, 'nonce']);
    const larger = new Uint8Array(bytes.length + 64).fill(0xff);
    larger.set(bytes, 32);
    expect(decode(larger.subarray(32, 32 + bytes.length))).toEqual([Op.Ping, 7, 'nonce']);
  });

  it('leaves undefined fields out of maps and writes them as nil in tuples', () => {
    const message = [Op.Hello, 0, 1, { token: undefined, client: 'c' }] as ClientMessage;
    expect(decode(encode(message))).toStrictEqual([Op.Hello, 0, 1, { client: 'c' }]);
    expect(decode(encode([Op.Ping, 0, undefined] as unknown as ClientMessage))).toStrictEqual([Op.Ping, 0, null]);
  });

  it('carries strings with lone surrogates and invalid UTF-8 without failing', () => {
    for (const text of ['\ud800', 'a\udc00b', '\ud83d'.repeat(500)]) {
      expect(parseClientMessage(decode(encode([Op.Ping, 0, text.slice(0, 128)]))).ok).toBe(true);
    }
    expect(typeof (decode(frame('93 0d 00 a2 ff fe')) as unknown[])[2]).toBe('string');
  });

  it('spends at most 16 bytes per delta in a batch of 16', () => {
    const words = [' the', ' cat', 'tion', ' of', 'ing', ' and', ' sat', '你', ' on', 'ed', ' it', ',', ' was', '。'];
    const random = new Random(SEED + 4);
    let bytes = 0;
    for (let batch = 0; batch < 100; batch++) {
      const deltas = Array.from({ length: 16 }, (_, i): Delta => [
        i * 8 + 1,
        random.int(1, 65_535),
        random.pick(words),
      ]);
      bytes += encode([Op.Deltas, 0, deltas]).byteLength;
    }
    expect(bytes / 1600).toBeLessThanOrEqual(16);
  });

  it('accepts the deepest nesting allowed and refuses one level more', () => {
    expect(() => decode(nested(MAX_NESTING))).not.toThrow();
    expect(() => decode(nested(MAX_NESTING + 1))).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
    expect(() => decode(nested(200_000))).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
    expect(() => decode(frame(`${'81a16b'.repeat(MAX_NESTING + 1)}c0`))).toThrow(
      expect.objectContaining({ code: 'invalid_frame' }),
    );
  });

  it('bounds the arrays, maps and map entries of one frame', () => {
    expect(decode(emptyMaps(MAX_PARTS - 1))).toHaveLength(MAX_PARTS - 1);
    expect(() => decode(emptyMaps(MAX_PARTS))).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
    expect(() => decode(frame('df 0001ffff a0'))).toThrow(/ends too early/);
    expect(() => decode(frame('df 00020000 a0'))).toThrow(/map entries/);
  });

  it('takes integers up to 2^53 - 1 in any format and refuses those beyond', () => {
    expect(decode(frame('cf 001fffffffffffff'))).toBe(Number.MAX_SAFE_INTEGER);
    expect(decode(frame('d3 ffe0000000000001'))).toBe(Number.MIN_SAFE_INTEGER);
    expect(decode(frame('d3 fffffffffffffffe'))).toBe(-2);
    for (const hex of ['cf 0020000000000000', 'd3 ffe0000000000000', 'd3 8000000000000000', 'cf ffffffffffffffff']) {
      expect(() => decode(frame(hex)), hex).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
    }
  });

  it('refuses every MessagePack type outside the subset', () => {
    for (const type of [0xc1, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8]) {
      const bytes = new Uint8Array(40).fill(0);
      bytes.set([0x92, type]);
      expect(() => decode(bytes), type.toString(16)).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
    }
  });

  it('refuses every frame that was cut short or has a byte too many', () => {
    const whole = encodeCopy(clientMessage(new Random(SEED + 5), 9));
    for (let length = 0; length < whole.length; length++) {
      expect(() => decode(whole.subarray(0, length)), `${length} bytes`).toThrow(
        expect.objectContaining({ code: 'invalid_frame' }),
      );
    }
    expect(() => decode(new Uint8Array([...whole, 0]))).toThrow(expect.objectContaining({ code: 'invalid_frame' }));
  });
});

describe('readFrameHead', () => {
  it('reads op, lane and requestId without the rest of the frame', () => {
    const bytes = encode([Op.Create, 70_000, 'r1', { messages: [{ role: 'user', content: 'x'.repeat(5000) }] }]);
    expect(readFrameHead(bytes.subarray(0, 20))).toEqual({ op: Op.Create, lane: 70_000, requestId: 'r1' });
    expect(readFrameHead(encode([Op.Cancel, 3, 9]))).toEqual({ op: Op.Cancel, lane: 3, requestId: null });
    expect(readFrameHead(frame('dd 00000003 0d 05 d90141'))).toEqual({ op: Op.Ping, lane: 5, requestId: 'A' });
  });

  it('gives null for what is no frame', () => {
    for (const hex of [
      '',
      '90',
      '91 0d',
      '93',
      '93 0d',
      '93 ff 00 01',
      '81 a16b 01',
      'c1',
      '93 a1 41 00 01',
      'dd 0000',
    ]) {
      expect(readFrameHead(frame(hex)), hex).toBeNull();
    }
  });
});
