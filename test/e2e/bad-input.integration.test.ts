// Everything a broken or hostile client may send, through real sockets to a real process: it gets the documented error
// and costs its own lane or connection, and nobody else notices.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encode } from '../../protocol/codec.ts';
import { Limits, PROTOCOL_VERSION } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage } from '../../protocol/messages.ts';
import { random } from '../support/random.ts';
import { Bystanders } from './support/bystander.ts';
import { chat, exchange, tcp } from './support/http-client.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

let server: TestServer;
let bystanders: Bystanders;
/** Says nothing from the beginning. */
let silent: NativeClient;
let silentForMs: Promise<number>;

beforeAll(async () => {
  server = await TestServer.start({ MODEL: 'fake:stepMs=1', MAX_CONTEXT: '2048' });
  silent = await NativeClient.connect(server.streamUrl, { greets: false });
  const sinceMs = performance.now();
  silentForMs = silent.closed.then(() => performance.now() - sinceMs);
  bystanders = await Bystanders.learn(server, 150);
});

afterAll(async () => {
  await server.idle();
  expect(await server.stop()).toEqual({ code: 0, signal: null });
  // Level 50 and above are our own bugs.
  expect(server.output).not.toMatch(/"level":[56]0/);
});

const hi = { messages: [{ role: 'user' as const, content: 'Hi' }] };
/** A frame outside of the types. */
const wrong = (...frame: unknown[]): Uint8Array => encode(frame as unknown as ClientMessage);
const create = (requestId: string, options: object, lane = 0): Uint8Array => wrong(Op.Create, lane, requestId, options);

describe('A connection', () => {
  const whole = create('r1', hi);
  it.each<[title: string, bytes: Uint8Array | string, code: string, close: number, isGreeted?: boolean]>([
    ['bytes that are no MessagePack', Uint8Array.of(0xc1), 'invalid_frame', 1007],
    ['nothing at all', new Uint8Array(), 'invalid_frame', 1007],
    ['half a frame', whole.slice(0, whole.length - 3), 'invalid_frame', 1007],
    ['a frame with something behind it', Uint8Array.of(...whole, 0), 'invalid_frame', 1007],
    ['a map instead of a frame', Uint8Array.of(0x80), 'invalid_frame', 1007],
    ['a lane that is no number', wrong(Op.Ping, 'x', 1), 'invalid_frame', 1007],
    ['65 nested arrays', Uint8Array.from({ length: 65 }, () => 0x91), 'invalid_frame', 1007],
    ['a text message', 'hello', 'invalid_frame', 1003],
    ['a request before hello', whole, 'invalid_frame', 1007, false],
    ['a version below all', wrong(Op.Hello, 0, 0, {}), 'version_unsupported', 1008, false],
  ])('ends on %s with the documented error and close code', async (_title, bytes, code, close, isGreeted = true) => {
    await bystanders.watch(async () => {
      const client = await NativeClient.connect(server.streamUrl, { greets: isGreeted });
      client.sendRaw(bytes);
      expect(await client.error(null)).toMatchObject({ code, retryable: false });
      expect(await client.closed).toEqual({ code: close, reason: code });
    });
  });

  it('drops without a word when one message is beyond what the transport takes', async () => {
    await bystanders.watch(async () => {
      const client = await NativeClient.connect(server.streamUrl);
      client.sendRaw(new Uint8Array(Limits.transportBytes + 1));
      expect((await client.closed).code).toBe(1006);
    });
  });

  it('may try hello again after a malformed one', async () => {
    const client = await NativeClient.connect(server.streamUrl, { greets: false });
    client.sendRaw(wrong(Op.Hello, 0, PROTOCOL_VERSION, { client: 7 }));
    expect(await client.error(null)).toMatchObject({ code: 'invalid_request', param: 'client' });
    client.send([Op.Hello, 0, PROTOCOL_VERSION + 6, {}]);
    expect((await client.next(Op.Welcome))[2]).toBe(PROTOCOL_VERSION);
    await client.close();
  });

  it('that sends unmasked or broken WebSocket frames costs nobody else anything', async () => {
    const upgrade =
      'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n' +
      'sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';
    const frames = [
      [0x82, 3, 1, 2, 3], // unmasked
      [0xf2, 0x80, 0, 0, 0, 0], // reserved bits
      [0x87, 0x80, 0, 0, 0, 0], // reserved opcode
      [0x80, 0x80, 0, 0, 0, 0], // continuation of nothing
      [0x89, 0xfe, 0xff, 0xff], // a ping of 65535 bytes
      [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // 2^64 - 1 bytes
    ];
    await bystanders.watch(async () => {
      for (const frame of frames) {
        const socket = await tcp(server.port);
        socket.on('data', () => undefined);
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.write(Buffer.concat([Buffer.from(upgrade), Buffer.from(frame)]));
        // Either it is cut, or it waits for the rest of a frame as any slow sender.
        await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, 100))]);
        socket.destroy();
      }
    });
  });

  it('that never says hello is closed after the hello timeout', async () => {
    expect(await silent.closed).toEqual({ code: 1008, reason: 'unauthorized' });
    const afterMs = await silentForMs;
    expect(afterMs).toBeGreaterThan(Limits.helloTimeoutMs - 500);
    expect(afterMs).toBeLessThan(Limits.helloTimeoutMs + 20_000);
  });

  it.each([20261122, 7, 99])('survives or ends cleanly on 150 damaged frames (seed %i)', async (seed) => {
    const next = random(seed);
    const pick = (count: number): number => Math.floor(next() * count);
    const samples = [
      whole,
      wrong(Op.OpenSession, 0, 's', { system: 'x', sampling: { temperature: 1 } }),
      wrong(Op.Ack, 0, 1, 1),
      wrong(Op.Cancel, 0, 1),
      wrong(Op.OpenLane, 3, { class: 'chat' }),
    ];
    const codes = new Set<number>();
    await bystanders.watch(async () => {
      let client: NativeClient | null = null;
      for (let i = 0; i < 150; i++) {
        client ??= await NativeClient.connect(server.streamUrl);
        const bytes = Uint8Array.from(samples[pick(samples.length)]!);
        for (let damage = 0; damage <= pick(3); damage++) bytes[pick(bytes.length)] = pick(256);
        client.sendRaw(bytes);
        if (pick(4) > 0) continue;
        client.send([Op.Ping, 0, i]);
        const pong = client
          .next(Op.Pong, (frame) => frame[2] === i)
          .then(
            () => null,
            () => undefined,
          );
        const code = (await pong) === null ? null : (await client.closed).code;
        if (code === null) continue;
        codes.add(code);
        client = null;
      }
      await client?.close();
    });
    for (const code of codes) expect([1007, 1003]).toContain(code);
  });
});

describe('A lane', () => {
  it.each<[title: string, bytes: Uint8Array, error: object]>([
    ['an unknown op', wrong(31, 1, 'q', {}), { code: 'unsupported' }],
    [
      'a frame above the limit',
      create('q', { messages: [{ role: 'user', content: 'x'.repeat(Limits.messageBytes) }] }, 1),
      { code: 'too_large' },
    ],
    ['an unknown model', create('q', { ...hi, model: 'gpt-4' }, 1), { code: 'unknown_model', param: 'model' }],
    ['an unknown session', create('q', { ...hi, session: 'nobody' }, 1), { code: 'unknown_session' }],
    ['the history of no session', wrong(Op.History, 1, 'q', 'nobody'), { code: 'unknown_session' }],
    ['an unknown option', create('q', { ...hi, colour: 'red' }, 1), { code: 'invalid_request', param: 'colour' }],
    ['no messages', create('q', {}, 1), { code: 'invalid_request', param: 'messages' }],
    [
      'sampling out of range',
      create('q', { ...hi, sampling: { temperature: 9 } }, 1),
      { code: 'invalid_request', param: 'sampling.temperature' },
    ],
    ['a handle that never was', wrong(Op.Cancel, 1, 77), { code: 'unknown_response', param: 'handle' }],
    ['an ack of the future', wrong(Op.Ack, 1, 1, 1_000_000), { code: 'invalid_request', param: 'seq' }],
    ['a second hello', wrong(Op.Hello, 0, 1, {}), { code: 'invalid_request' }],
    ['opening it again', wrong(Op.OpenLane, 1, {}), { code: 'invalid_request', param: 'lane' }],
    ['closing one that is not open', wrong(Op.CloseLane, 9), { code: 'invalid_request', param: 'lane' }],
    ['a request on one that is not open', create('q', hi, 9), { code: 'invalid_request', param: 'lane' }],
  ])('answers %s with its error, and the other lanes go on', async (_title, bytes, error) => {
    const client = await NativeClient.connect(server.streamUrl);
    await client.openLane(1);
    await client.openLane(2);
    const neighbour = bystanders.start(client, 2);
    await neighbour.hasText();
    client.sendRaw(bytes);
    const [, , , got] = await client.next(Op.Error);
    expect(got).toMatchObject({ ...error, retryable: false });
    await bystanders.isWhole(neighbour);
    // The lane itself is as good as before.
    await client.say('!!say fine !!', {}, 1).done();
    expect(client.violations).toEqual([]);
    await client.close();
  });

  it.each(['auto', 'error'] as const)('answers a prompt beyond the context with its error (%s)', async (truncation) => {
    const client = await NativeClient.connect(server.streamUrl);
    await client.openLane(1);
    const neighbour = bystanders.start(client);
    const messages = [{ role: 'user' as const, content: 'x'.repeat(4000) }];
    expect(await client.create({ messages, truncation }, 1).error()).toMatchObject({ code: 'context_too_long' });
    await client.say('!!say fine !!', {}, 1).done();
    await bystanders.isWhole(neighbour);
    expect(client.violations).toEqual([]);
    await client.close();
  });

  it('is refused beyond the limit, and free again after closing one', async () => {
    const client = await NativeClient.connect(server.streamUrl);
    const neighbour = bystanders.start(client);
    for (let lane = 1; lane <= Limits.lanesPerConnection + 1; lane++) client.send([Op.OpenLane, lane, {}]);
    expect(await client.error(null)).toMatchObject({ code: 'too_many_lanes' });
    expect(client.frames.filter(([op]) => op === Op.LaneOpened)).toHaveLength(Limits.lanesPerConnection);
    client.send([Op.CloseLane, 5]);
    await client.openLane(1000);
    await bystanders.isWhole(neighbour);
    await client.close();
  });

  it('gets a response refused beyond the live handles, and the others go on', async () => {
    const client = await NativeClient.connect(server.streamUrl);
    const neighbour = bystanders.start(client);
    const more = Array.from({ length: Limits.handlesPerConnection + 7 }, () => client.say('x', { ignoreEos: true }));
    const last = more.slice(-8);
    expect((await Promise.all(last.map((answer) => answer.error()))).map(({ code }) => code)).toEqual(
      last.map(() => 'rate_limited'),
    );
    await bystanders.isWhole(neighbour);
    expect(client.violations).toEqual([]);
    // Done: whatever runs or waits is cancelled, and the queue is empty again.
    await client.close();
    await server.idle();
  });
});

describe('HTTP', () => {
  it('answers a message of 400,000 words with its error, over both doors, while others stream', async () => {
    const words = 'word '.repeat(400_000);
    await bystanders.watch(async () => {
      const http = await chat(server.url, words, { stream: true });
      expect(http).toMatchObject({ status: 400, error: 'context_length_exceeded' });
      const client = await NativeClient.connect(server.streamUrl);
      expect(await client.say(words).error()).toMatchObject({ code: 'too_large' });
      await client.say('!!say fine !!').done();
      await client.close();
    });
  });

  it('stays healthy under 10,000 junk requests, in bounded memory', async () => {
    const kinds = [
      'GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n{"a',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15\r\n\r\n{"messages":[]}',
      'DELETE /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 2\r\n\r\n{}',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\nx',
      '\u0000\u0001\u0002\u0003\r\n\r\n',
      'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\r\n',
    ];
    const startedMs = performance.now();
    const before = await server.memoryMiB();
    let sent = 0;
    const worker = async (): Promise<void> => {
      // Silence is an answer too, but not one to wait for.
      while (sent < 10_000) await exchange(server.port, kinds[sent++ % kinds.length]!, 40);
    };
    await bystanders.watch(() => Promise.all(Array.from({ length: 40 }, worker)).then(() => undefined));
    const tookMs = performance.now() - startedMs;
    const grownMiB = (await server.memoryMiB()) - before;
    console.log(`10,000 junk requests: ${Math.round(tookMs)} ms, memory +${grownMiB.toFixed(0)} MiB`);
    expect(grownMiB).toBeLessThan(150);
    expect(await chat(server.url, '!!say fine !!')).toMatchObject({ status: 200, text: 'fine ' });
  });
});
