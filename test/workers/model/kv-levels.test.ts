// Scales of 8-bit KV memory in the weights around it: nothing but the units may change.
import { describe, expect, it } from 'vitest';
import { kvLevels } from '../../../workers/model/kv-levels.ts';

const SHAPE = { numHeads: 4, numKvHeads: 2, headDim: 2, queryScale: 0.5, qkNorm: false };
const SCALES = { k: Float32Array.of(1, 2, 4, 8), v: Float32Array.of(0.25, 0.5, 2, 4) };

describe('kvLevels', () => {
  it('gives keys and values the units of their channels, and takes them back in queries and results', () => {
    const { q, k, v, result } = kvLevels(SHAPE, SCALES);
    expect(k).toEqual(Float32Array.of(1, 1 / 2, 1 / 4, 1 / 8));
    expect(v).toEqual(Float32Array.of(4, 2, 1 / 2, 1 / 4));
    // Two query heads share each key head; the queries' own scale is kept.
    expect(q).toEqual(Float32Array.of(0.5, 1, 0.5, 1, 2, 4, 2, 4));
    expect(result).toEqual(Float32Array.of(0.25, 0.5, 0.25, 0.5, 2, 4, 2, 4));
  });

  it('uses the largest scale of a channel for all heads where these share the weights of a norm', () => {
    const { q, k, v } = kvLevels({ ...SHAPE, qkNorm: true }, SCALES);
    expect(k).toEqual(Float32Array.of(1 / 4, 1 / 8, 1 / 4, 1 / 8));
    expect(q).toEqual(Float32Array.of(2, 4, 2, 4, 2, 4, 2, 4));
    expect(v).toEqual(kvLevels(SHAPE, SCALES).v);
  });
});
