// The GGUF export, read back by a small reader of its own, and the order of rotary rows against a known answer.
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeCheckpoint, shapes } from '../../bench/make-checkpoint.ts';
import { exportGguf } from '../../bench/peers/gguf-export.ts';
import { interleaveHeads } from '../../bench/peers/gguf-layout.ts';
import { encodeQ8, writeGguf } from '../../bench/peers/gguf-writer.ts';
import { float16ToFloat32 } from '../../workers/model/floats.ts';
import { tinyTensors, writeSafetensors } from '../workers/model/checkpoint.ts';
import { tinyConfig } from '../workers/model/families.ts';
import { openSafetensors } from '../../workers/model/weights/safetensors.ts';
import { toFloats } from '../../workers/model/weights/source.ts';

interface Gguf {
  meta: Map<string, unknown>;
  tensors: Map<string, { dims: number[]; type: number; offset: number }>;
  /** Absolute position of the tensor data. */
  dataAt: number;
  bytes: Buffer;
}

/** Reads what the format's specification says, not what the writer does. */
function readGguf(bytes: Buffer): Gguf {
  let at = 0;
  const u32 = (): number => bytes.readUInt32LE((at += 4) - 4);
  const u64 = (): number => Number(bytes.readBigUInt64LE((at += 8) - 8));
  const text = (): string => {
    const length = u64();
    return bytes.toString('utf8', at, (at += length));
  };
  const value = (type: number): unknown => {
    if (type === 4) return u32();
    if (type === 5) return bytes.readInt32LE((at += 4) - 4);
    if (type === 6) return bytes.readFloatLE((at += 4) - 4);
    if (type === 7) return bytes.readUInt8(at++) === 1;
    if (type === 8) return text();
    if (type !== 9) throw new Error(`unexpected value type ${type}`);
    const element = u32();
    return Array.from({ length: u64() }, () => value(element));
  };
  expect(bytes.toString('latin1', 0, 4)).toBe('GGUF');
  at = 4;
  expect(u32()).toBe(3);
  const numTensors = u64();
  const numMeta = u64();
  const meta = new Map<string, unknown>();
  for (let i = 0; i < numMeta; i++) meta.set(text(), value(u32()));
  const tensors: Gguf['tensors'] = new Map();
  for (let i = 0; i < numTensors; i++) {
    const name = text();
    const dims = Array.from({ length: u32() }, u64);
    tensors.set(name, { dims, type: u32(), offset: u64() });
  }
  return { meta, tensors, dataAt: Math.ceil(at / 32) * 32, bytes };
}

/** One tensor of two rows. */
function writeOne(file: string, columns: number, length: number): void {
  const read = (): Float32Array => new Float32Array(length);
  writeGguf(file, new Map(), [{ name: 'odd', dims: [2, columns], encoding: 'q8_0', read }]);
}

describe('GGUF writer', () => {
  let folder: string;
  beforeAll(() => {
    folder = fs.mkdtempSync(join(tmpdir(), 'tokenwire-gguf-'));
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  it('writes metadata of every type and aligned tensors', () => {
    const file = join(folder, 'all.gguf');
    writeGguf(
      file,
      new Map([
        ['a', { type: 'u32', value: 4_000_000_000 }],
        ['b', { type: 'f32', value: 0.5 }],
        ['c', { type: 'bool', value: false }],
        ['d', { type: 'string', value: 'Grüße' }],
        ['e', { type: 'strings', value: ['x', ''] }],
        ['f', { type: 'i32s', value: [1, -3] }],
      ]),
      [
        { name: 'one', dims: [3], encoding: 'f32', read: () => Float32Array.of(1, 2, 3) },
        { name: 'two', dims: [2, 4], encoding: 'f16', read: () => Float32Array.from({ length: 8 }, (_, i) => i) },
      ],
    );
    const { meta, tensors, dataAt, bytes } = readGguf(fs.readFileSync(file));
    expect([...meta.values()]).toEqual([4_000_000_000, 0.5, false, 'Grüße', ['x', ''], [1, -3]]);
    expect(tensors.get('two')).toEqual({ dims: [4, 2], type: 1, offset: 32 });
    expect(bytes.readFloatLE(dataAt + 8)).toBe(3);
    expect(bytes.readUInt16LE(dataAt + 32 + 2)).toBe(0x3c00);
    expect(bytes.length).toBe(dataAt + 64);
  });

  it('refuses rows that are no whole blocks, and tensors of another size than they say', () => {
    expect(() => writeOne(join(folder, 'bad.gguf'), 33, 66)).toThrow(
      'tensor odd has 33 columns, q8_0 needs a multiple of 32',
    );
    expect(() => writeOne(join(folder, 'bad.gguf'), 32, 63)).toThrow('tensor odd has 63 values, its shape needs 64');
  });

  it('quantises a block to its largest value over 127', () => {
    const bytes = encodeQ8(Float32Array.from({ length: 64 }, (_, i) => (i < 32 ? i * -127 : 0)));
    const scale = float16ToFloat32(Uint16Array.of(bytes[0]! | (bytes[1]! << 8)))[0]!;
    expect(scale).toBe(31);
    expect(Array.from(new Int8Array(bytes.buffer, 2, 32).slice(-2))).toEqual([-123, -127]);
    expect(bytes.subarray(34).every((byte) => byte === 0)).toBe(true);
  });

  it('moves rotary pairs beside each other within each head', () => {
    // Two heads of six rows of two columns; a row's values name it.
    const rows = Float32Array.from({ length: 24 }, (_, i) => Math.floor(i / 2));
    const moved = interleaveHeads(rows, 2, 6);
    expect(Array.from(moved).filter((_, i) => i % 2 === 0)).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    expect(Array.from(moved).filter((_, i) => i % 2 === 1)).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  });

  it('exports a checkpoint with its tokenizer, and its query rows are those of the checkpoint', () => {
    const model = join(folder, 'tiny');
    makeCheckpoint(model, shapes['tiny']!, 5);
    const file = join(folder, 'tiny.gguf');
    exportGguf(model, file, 'f16');
    const { meta, tensors, dataAt, bytes } = readGguf(fs.readFileSync(file));
    expect(meta.get('general.architecture')).toBe('llama');
    expect(meta.get('llama.attention.head_count_kv')).toBe(2);
    expect(meta.get('tokenizer.ggml.pre')).toBe('gpt-2');
    expect(meta.get('tokenizer.ggml.tokens')).toHaveLength(6400);
    expect((meta.get('tokenizer.ggml.tokens') as string[])[1]).toBe('<|im_start|>');
    expect((meta.get('tokenizer.ggml.token_type') as number[]).slice(0, 4)).toEqual([3, 3, 3, 1]);
    expect((meta.get('tokenizer.ggml.merges') as string[])[0]).toBe('Ġ t');
    expect(tensors.size).toBe(3 + 2 * 9);
    expect(tensors.get('blk.1.attn_k.weight')!.dims).toEqual([64, 32]);
    expect(tensors.get('blk.0.attn_norm.weight')!.type).toBe(0);
    // Row 1 of the file is row 8 of the checkpoint: the other half of the first rotary pair.
    const source = toFloats(openSafetensors(model)!.read('model.layers.0.self_attn.q_proj.weight', [64, 64]));
    const at = dataAt + tensors.get('blk.0.attn_q.weight')!.offset + 64 * 2;
    const row = float16ToFloat32(
      new Uint16Array(bytes.buffer.slice(bytes.byteOffset + at, bytes.byteOffset + at + 128)),
    );
    row.forEach((value, i) => expect(value).toBeCloseTo(source[8 * 64 + i]!, 3));
  });

  it.each([
    ['mistral', {}, 'the window of layer 0'],
    ['gemma 2', {}, 'a query scale of its own'],
    ['gemma 3', { query_pre_attn_scalar: 32 }, 'the base of layer 0'],
    ['gemma 3', { query_pre_attn_scalar: 32, sliding_window_pattern: 2 }, 'the base of layer 0'],
    ['gemma 2', { layer_types: Array.from({ length: 3 }, () => 'full_attention') }, 'the window of layer 0'],
    ['smollm 3', { no_rope_layers: [0, 1, 1, 0] }, 'the positions of layer 0'],
  ])('refuses a tiny %s with %o, which llama.cpp would compute otherwise', (family, changes, why) => {
    const model = fs.mkdtempSync(join(folder, 'family-'));
    fs.writeFileSync(join(model, 'config.json'), JSON.stringify({ ...tinyConfig(family), ...changes }));
    const file = join(model, 'x.gguf');
    expect(() => exportGguf(model, file, 'f32')).toThrow(`${why} cannot be exported to GGUF`);
    expect(fs.readdirSync(model)).toEqual(['config.json']);
  });

  it('stacks, norms and scales as the other architectures want it', () => {
    const model = fs.mkdtempSync(join(folder, 'phi-'));
    const config = { ...tinyConfig('phi 3'), sliding_window: null };
    writeSafetensors(model, config, tinyTensors(config, 3), 'F32');
    const vocab = { a: 0 };
    fs.writeFileSync(join(model, 'tokenizer.json'), JSON.stringify({ model: { type: 'BPE', vocab, merges: [] } }));
    exportGguf(model, join(model, 'x.gguf'), 'f32');
    const { meta, tensors } = readGguf(fs.readFileSync(join(model, 'x.gguf')));
    expect(meta.get('general.architecture')).toBe('phi3');
    expect(tensors.get('blk.0.attn_qkv.weight')!.dims).toEqual([64, 192]);
    expect(tensors.get('blk.0.ffn_up.weight')!.dims).toEqual([64, 256]);
    expect(tensors.has('blk.0.attn_q.weight')).toBe(false);
  });

  it('refuses an architecture it does not know and leaves no half file', () => {
    const model = join(folder, 'other');
    fs.mkdirSync(model);
    fs.writeFileSync(join(model, 'config.json'), '{"model_type":"gpt_neox"}');
    expect(() => exportGguf(model, join(folder, 'other.gguf'), 'q8_0')).toThrow('model_type is "gpt_neox"; supported');
    expect(fs.readdirSync(folder).filter((name) => name.startsWith('other.gguf'))).toEqual([]);
  });
});
