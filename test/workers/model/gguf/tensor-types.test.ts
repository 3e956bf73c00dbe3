// GGUF's block forms against an independent engine, to the bit.
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { tensorTypes } from '../../../../workers/model/gguf/tensor-types.ts';
import { toFloats } from '../../../../workers/model/weights/source.ts';
import { blockTypes, randomBlocks } from './write.ts';

const SEED = 20261122;
const BLOCKS = 64;

/** SHA-256 (its first half) of what ggml's dequantize_row functions (node-llama-cpp 3.22.1) make of the same blocks, as float32. */
const expected: Record<string, string> = {
  Q4_0: '3f7e573911e73f1e31cf0027a53c6358',
  Q4_1: '1a99692404defed28f959517c874c5a1',
  Q5_0: '5d63f9d82882d6efffa0c3a5e5c6ac48',
  Q5_1: 'a6d59993db0f975e4662efaa9115f161',
  Q8_0: '6cbabfebcb1f3174c8c1a62b483eb029',
  Q2_K: '269f9302d57e6eaab881784f334d8cbf',
  Q3_K: '8d50693d8988d1ad1ab69d30ba808761',
  Q4_K: '350c404644eacc4d00e0a0d219fbb4e9',
  Q5_K: '8c634083cfbe51e44617d013139361b0',
  Q6_K: '12e253d5f101708332c98b9660f6b146',
  IQ2_XXS: 'f82ba5fd53f724c2d12631f213da43d2',
  IQ4_NL: '8e78d6e0b8c51c9333edd947f167db9f',
  IQ4_XS: 'e25cc96a9c113bc55d41baa278e5a966',
};

function valuesOf(id: number, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const values = tensorTypes.get(id)!.read(bytes);
  const length = values.data.length;
  return toFloats({ ...values, name: 'x', dims: [1, length] });
}

describe('A GGUF block form', () => {
  it('has an expected reading here', () => {
    expect(blockTypes.map(([, { name }]) => name).sort()).toEqual(Object.keys(expected).sort());
  });

  it.each(blockTypes)('%i holds the values the format’s own engine reads from it', (id, { name, blockValues }) => {
    const bytes = randomBlocks(id, BLOCKS, SEED + id, 0.01);
    const values = valuesOf(id, bytes);
    expect(values).toHaveLength(BLOCKS * blockValues);
    const hash = createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex');
    expect(hash.slice(0, 32)).toBe(expected[name]);
  });

  it('of four bits is read as its definition says, by hand', () => {
    // Scale 0.5; low nibbles 0 to 15 are the first sixteen values, high nibbles 15 to 0 the others.
    const block = Uint8Array.from([0x00, 0x38, ...Array.from({ length: 16 }, (_, i) => i | ((15 - i) << 4))]);
    const rising = Array.from({ length: 16 }, (_, i) => (i - 8) / 2);
    expect([...valuesOf(2, block)]).toEqual([...rising, ...rising.toReversed()]);
  });

  it('of floats is read as it is', () => {
    expect([...valuesOf(0, new Uint8Array(Float32Array.of(1.5, -2).buffer))]).toEqual([1.5, -2]);
    expect([...valuesOf(1, Uint8Array.of(0x00, 0x3e))]).toEqual([1.5]);
    expect([...valuesOf(30, Uint8Array.of(0xc0, 0x3f))]).toEqual([1.5]);
  });
});
