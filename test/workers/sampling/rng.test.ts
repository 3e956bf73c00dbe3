import { describe, expect, it } from 'vitest';
import { threefry, uniform } from '../../../workers/sampling/rng.ts';

describe('rng', () => {
  it('gives the known answers of Threefry-2x32-20', () => {
    const out = new Uint32Array(2);
    const block = (...words: [number, number, number, number]): number[] => {
      threefry(...words, out);
      return Array.from(out);
    };
    expect(block(0, 0, 0, 0)).toEqual([0x6b200159, 0x99ba4efe]);
    expect(block(-1, -1, -1, -1)).toEqual([0x1cb996fc, 0xbb002be7]);
    expect(block(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3)).toEqual([0xc4923a9c, 0x483df7a0]);
  });

  it('stays in [0, 1) and has the mean and spread of a uniform number', () => {
    let sum = 0;
    let squares = 0;
    const n = 100_000;
    for (let step = 0; step < n; step++) {
      const u = uniform(42, step);
      if (u < 0 || u >= 1) throw new Error(`out of range: ${u}`);
      sum += u;
      squares += u * u;
    }
    expect(sum / n).toBeCloseTo(1 / 2, 2);
    expect(squares / n).toBeCloseTo(1 / 3, 2);
  });

  it('tells seeds apart that differ only in sign or above 32 bits', () => {
    const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, -(2 ** 32), 2 ** 53 - 1, -(2 ** 53) + 1];
    expect(new Set(seeds.map((seed) => uniform(seed, 0))).size).toBe(seeds.length);
  });
});
