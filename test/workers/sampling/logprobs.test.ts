import { describe, expect, it } from 'vitest';
import { likeliest, logSumExp } from '../../../workers/sampling/logprobs.ts';

/** In double precision and the plain way. */
function direct(row: readonly number[]): number[] {
  const max = Math.max(...row);
  const sum = row.reduce((total, logit) => total + Math.exp(logit - max), 0);
  return row.map((logit) => logit - max - Math.log(sum));
}

describe('logprobs', () => {
  it('are the log-softmax of the row, which lies anywhere in the logits', () => {
    const row = Array.from({ length: 500 }, (_, i) => Math.sin(i * 7.3) * 12);
    const logits = Float32Array.from([99, 99, ...row, 99]);
    const lse = logSumExp(logits, 2, row.length);
    const expected = direct(Array.from(logits.subarray(2, 502)));
    const best = expected.map((logprob, id) => ({ logprob, id })).sort((a, b) => b.logprob - a.logprob);
    const found = likeliest(logits, 2, row.length, lse, 17, 20);
    expect(found.logprob).toBeCloseTo(expected[17]!, 5);
    expect(found.ids).toEqual(best.slice(0, 20).map(({ id }) => id));
    for (const [i, logprob] of found.logprobs.entries()) expect(logprob).toBeCloseTo(best[i]!.logprob, 5);
  });

  it('sum to one over all tokens, also with logits far apart', () => {
    const logits = Float32Array.from([800, 799, -800, 0]);
    const { logprobs } = likeliest(logits, 0, 4, logSumExp(logits, 0, 4), 0, 4);
    expect(logprobs.reduce((sum, logprob) => sum + Math.exp(logprob), 0)).toBeCloseTo(1, 6);
  });

  it('say -9999 where JSON has no number, and never name an impossible alternative', () => {
    const logits = Float32Array.from([1, -Infinity, NaN, 1]);
    const lse = logSumExp(logits, 0, 4);
    const found = likeliest(logits, 0, 4, lse, 1, 4);
    const half = Math.round(-Math.LN2 * 1e6) / 1e6;
    expect(found).toEqual({ logprob: -9999, ids: [0, 3], logprobs: [half, half] });
    expect(likeliest(logits, 0, 4, lse, 0, 0)).toEqual({ logprob: half, ids: [], logprobs: [] });
  });

  it('are plain zero for a certain token', () => {
    const logits = Float32Array.from([100, 0]);
    expect(Object.is(likeliest(logits, 0, 2, logSumExp(logits, 0, 2), 0, 0).logprob, 0)).toBe(true);
  });
});
