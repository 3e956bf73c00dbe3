import { describe, expect, it } from 'vitest';
import { expOfNegative } from '../../../workers/sampling/fast-exp.ts';

describe('expOfNegative', () => {
  it('agrees with Math.exp to eleven digits', () => {
    let worst = 0;
    for (let x = 0; x > -87.9; x -= 0.000_73) worst = Math.max(worst, Math.abs(expOfNegative(x) / Math.exp(x) - 1));
    expect(worst).toBeLessThan(1e-11);
  });

  it('is exactly 1 at zero and 0 for what is too small, -Infinity and NaN', () => {
    expect([0, -0, -88, -1000, -Infinity, NaN].map(expOfNegative)).toEqual([1, 1, 0, 0, 0, 0]);
  });

  it('never falls when x rises', () => {
    let last = 0;
    for (let x = -30; x <= 0; x += 0.000_11) {
      const value = expOfNegative(x);
      if (value < last) throw new Error(`falls at ${x}`);
      last = value;
    }
    expect(last).toBeLessThanOrEqual(1);
  });
});
