// GGUF files that lie are refused by name, before memory is taken for what they claim.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readContainer } from '../../../../workers/model/gguf/container.ts';
import { readGguf } from '../../../../workers/model/gguf/model.ts';
import { PartedFile } from '../../../../workers/model/gguf/parts.ts';
import { seededRandom } from '../checkpoint.ts';
import { temporaryFolder } from '../kit.ts';
import { ggufBytes, typed, type Meta, type RawTensor, type Spoilt } from './write.ts';

const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));
let numFiles = 0;
function write(bytes: Uint8Array): string {
  const file = path.join(root, `f${++numFiles}.gguf`);
  fs.writeFileSync(file, bytes);
  return file;
}
const read = (bytes: Uint8Array): ReturnType<typeof readContainer> => readContainer(new PartedFile([write(bytes)]));

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const tensor = (changes: Partial<RawTensor> = {}): RawTensor => {
  return { name: 'a', dims: [2, 2], type: 0, bytes: floats(1, 2, 3, 4), ...changes };
};
const meta: Meta = { 'general.architecture': 'llama', 'x.flag': true, 'x.names': ['a', 'b'] };

const hexBytes = (hex: string): Buffer => Buffer.from(hex, 'hex');

describe('readContainer', () => {
  it.each([2, 3])('reads metadata and tensors of version %i', (version) => {
    const second = tensor({ name: 'b', dims: [3], bytes: floats(5, 6, 7) });
    const { meta: found, tensors } = read(ggufBytes(meta, [tensor(), second], { version }));
    expect([...found]).toEqual(Object.entries(meta));
    const b = tensors.get('b')!;
    expect(b.dims).toEqual([3]);
    expect([...new Float32Array(b.file.read(b.offset, b.bytes).buffer)]).toEqual([5, 6, 7]);
  });

  it('reads every number of metadata', () => {
    const numbers: Meta = {
      u8: typed.raw(0, hexBytes('ff')),
      i8: typed.raw(1, hexBytes('ff')),
      u16: typed.raw(2, hexBytes('ffff')),
      i16: typed.raw(3, hexBytes('feff')),
      i32: typed.raw(5, hexBytes('fdffffff')),
      f32: typed.f32(1.5),
      u64: typed.raw(10, hexBytes('0100000001000000')),
      i64: typed.raw(11, hexBytes('fcffffffffffffff')),
      f64: typed.raw(12, hexBytes('000000000000f83f')),
    };
    const found = read(ggufBytes(numbers, [])).meta;
    expect([...found.values()]).toEqual([255, -1, 65535, -2, -3, 1.5, 2 ** 32 + 1, -4, 1.5]);
  });

  const spoilt = (changes: Spoilt, entries: Meta = meta, tensors = [tensor()]): Buffer =>
    ggufBytes(entries, tensors, changes);
  it.each<[what: string, bytes: Buffer, why: string]>([
    ['another kind of file', spoilt({ magic: 'GGML' }), 'it is no GGUF file'],
    ['an empty file', Buffer.alloc(0), 'it ends within its first bytes'],
    ['version 1', spoilt({ version: 1 }), 'it is of GGUF version 1'],
    ['the other order of bytes', spoilt({ version: 0x03000000 }), 'for big-endian machines'],
    ['too many tensors', spoilt({ numTensors: 2n ** 40n }), 'it claims 1099511627776 tensors'],
    ['a count that is no exact number', spoilt({ numTensors: 2n ** 63n }), 'which cannot be right'],
    ['too many entries', spoilt({ numEntries: 2n ** 40n }), 'it claims 1099511627776 metadata entries'],
    ['more entries than there are', spoilt({ numEntries: 9n }), 'x'],
    ['a list longer than the file', spoilt({}, { list: typed.claiming(2n ** 33n) }), 'list claims 8589934592 entries'],
    [
      'a list of unknown type',
      spoilt({}, { list: typed.raw(9, Buffer.from([77, 0, 0, 0, ...Buffer.alloc(8)])) }),
      'an array of type',
    ],
    ['a list of lists', spoilt({}, { list: typed.raw(9, Buffer.from([9, 0, 0, 0, ...Buffer.alloc(8)])) }), 'of type 9'],
    ['an unknown type', spoilt({}, { odd: typed.raw(13, Buffer.alloc(4)) }), 'odd has type 13, not known'],
    ['a text longer than the file', spoilt({}, { t: typed.raw(8, Buffer.alloc(8, 0x11)) }), 't is 1229782938247303441'],
    [
      'a text that ends too late',
      spoilt({}, { t: typed.raw(8, Buffer.from('ffff000000000000', 'hex')) }),
      'it ends within t',
    ],
    ['an alignment of 24', spoilt({}, { 'general.alignment': 24 }), 'general.alignment is 24; a power of two'],
    ['an alignment of 0', spoilt({}, { 'general.alignment': 0 }), 'general.alignment is 0'],
    ['an alignment of text', spoilt({}, { 'general.alignment': 'x' }), 'general.alignment is "x"'],
    ['no dimensions', ggufBytes(meta, [tensor({ dims: [] })]), 'tensor a has 0 dimensions'],
    ['five dimensions', ggufBytes(meta, [tensor({ dims: [1, 1, 1, 2, 2] })]), 'tensor a has 5 dimensions'],
    ['an empty dimension', ggufBytes(meta, [tensor({ dims: [0, 4] })]), 'tensor a has the shape [0, 4]'],
    ['a product beyond numbers', ggufBytes(meta, [tensor({ dims: [2 ** 40, 2 ** 40] })]), 'tensor a has the shape'],
    ['an unknown tensor type', ggufBytes(meta, [tensor({ type: 99 })]), 'tensor a has type 99; F32, F16, '],
    ['a tensor type that is not read', ggufBytes(meta, [tensor({ type: 19 })]), 'tensor a has type IQ1_S'],
    [
      'part of a block',
      ggufBytes(meta, [tensor({ type: 8, dims: [2, 33] })]),
      'rows of 33 values, which are no whole blocks of Q8_0',
    ],
    ['an offset between alignments', ggufBytes(meta, [tensor({ offset: 4 })]), 'tensor a lies at 4, no multiple of 32'],
    ['an offset outside', ggufBytes(meta, [tensor({ offset: 4096 })]), 'it is cut off'],
    ['a tensor longer than the file', ggufBytes(meta, [tensor({ dims: [64, 64] })]), 'it is cut off'],
    ['two tensors of one name', ggufBytes(meta, [tensor(), tensor()]), 'tensor a appears twice'],
    ['overlapping tensors', ggufBytes(meta, [tensor(), tensor({ name: 'b', offset: 0 })]), 'tensor b overlaps a'],
  ])('refuses %s', (_, bytes, why) => {
    expect(() => read(bytes)).toThrow(why === 'x' ? /f\d+\.gguf: / : why);
    expect(() => read(bytes)).toThrow(/f\d+\.gguf/);
  });

  it('refuses two entries of one name', () => {
    const bytes = ggufBytes({ ab: 1, ac: 2 }, []);
    bytes.write('b', bytes.lastIndexOf('ac') + 1);
    expect(() => read(bytes)).toThrow('two metadata entries ab');
  });

  it('either reads or refuses a file cut at any length and with any byte changed, and never hangs', () => {
    const whole = ggufBytes({ ...meta, 'x.list': [0.5, 1.5] }, [tensor(), tensor({ name: 'b' })]);
    for (let length = 0; length < whole.length - 16; length++) {
      expect(() => read(whole.subarray(0, length))).toThrow(/f\d+\.gguf: /);
    }
    const random = seededRandom(20261122);
    for (let i = 0; i < 400; i++) {
      const changed = Buffer.from(whole);
      changed[Math.floor(random() * changed.length)] = Math.floor(random() * 256);
      try {
        read(changed);
      } catch (error) {
        expect(String(error), `change ${i}`).toMatch(/f\d+\.gguf: /);
      }
    }
  });
});

const part = (no: number, count: number, tensors: RawTensor[], total = 2): string => {
  const split = { 'split.no': no, 'split.count': count, 'split.tensors.count': total };
  return write(ggufBytes(no === 0 ? { ...meta, ...split } : split, tensors));
};

describe('readGguf', () => {
  it('puts split files together, with the metadata of the first', () => {
    const model = readGguf([[part(0, 2, [tensor()])], [part(1, 2, [tensor({ name: 'b' })])]]);
    expect(model.architecture).toBe('llama');
    expect([...model.tensors.keys()]).toEqual(['a', 'b']);
  });

  it('reads pieces whose concatenation is a file, also where a tensor lies in two', () => {
    const bytes = ggufBytes(meta, [tensor()]);
    for (const cut of [5, 60, bytes.length - 24, bytes.length - 5]) {
      const model = readGguf([[write(bytes.subarray(0, cut)), write(bytes.subarray(cut))]]);
      const { file, offset, bytes: length } = model.tensors.get('a')!;
      expect([...new Float32Array(file.read(offset, length).buffer)]).toEqual([1, 2, 3, 4]);
    }
    expect(() => readGguf([[write(bytes.subarray(0, bytes.length - 24))]])).toThrow('it is cut off');
  });

  it('refuses parts that do not belong together', () => {
    const [a, b] = [[tensor()], [tensor({ name: 'b' })]];
    expect(() => readGguf([[part(0, 3, a)], [part(1, 3, b)]])).toThrow('part 1 of 3, but it was found as 1 of 2');
    expect(() => readGguf([[part(1, 2, b)], [part(0, 2, a)]])).toThrow('part 2 of 2, but it was found as 1 of 2');
    expect(() => readGguf([[part(0, 2, a)], [part(1, 2, a)]])).toThrow('tensor a is in another part too');
    expect(() => readGguf([[part(0, 2, a, 5)], [part(1, 2, b)]])).toThrow('is 5, but the parts hold 2');
    expect(() => readGguf([[part(0, 2, a)]])).toThrow('part 1 of 2');
  });
});
