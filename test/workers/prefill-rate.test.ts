import { describe, expect, it } from 'vitest';
import { PrefillRate } from '../../workers/prefill-rate.ts';

/** The default model on one thread: a quarter of a millisecond per token, and attention over the past. */
const PER_TOKEN = 0.25;
const PER_PAST = 0.0002;
const costMs = (numTokens: number, past: number): number => numTokens * PER_TOKEN + PER_PAST * past * (numTokens + 10);

/** Runs a prompt as prefill does; returns the time of its longest chunk. */
function longestChunk(rate: PrefillRate, from: number, to: number, budgetMs: number): number {
  let longest = 0;
  for (let past = from; past < to;) {
    const numTokens = Math.min(to - past, Math.max(8, Math.min(512, rate.tokensWithin(budgetMs, past))));
    const ms = costMs(numTokens, past);
    rate.add(numTokens, past, ms);
    longest = Math.max(longest, ms);
    past += numTokens;
  }
  return longest;
}

function calibrated(): PrefillRate {
  const rate = new PrefillRate();
  rate.add(32, 0, costMs(32, 0));
  return rate;
}

describe('PrefillRate', () => {
  it('keeps the chunks of a 6,000-token prompt within their time, down to the last', () => {
    expect(longestChunk(calibrated(), 0, 6000, 24)).toBeLessThanOrEqual(28);
  });

  it('does not size a chunk far into a long prompt by the rate of a short one', () => {
    const rate = calibrated();
    longestChunk(rate, 0, 6000, 24);
    longestChunk(rate, 0, 400, 24);
    expect(costMs(rate.tokensWithin(24, 5000), 5000)).toBeLessThanOrEqual(25);
    expect(rate.tokensWithin(24, 0)).toBeGreaterThan(90);
  });

  it('expects attention before it has seen any: the first chunk after a long cached prefix is not ten times too long', () => {
    const rate = calibrated();
    const ms = costMs(rate.tokensWithin(24, 6000), 6000);
    expect(ms).toBeLessThan(48);
    expect(calibrated().tokensWithin(24, 6000)).toBeLessThan(calibrated().tokensWithin(24, 0) / 3);
  });

  it('estimates a long prompt as the sum of its chunks', () => {
    const rate = calibrated();
    longestChunk(rate, 0, 6000, 24);
    const expected = 6000 * PER_TOKEN + (PER_PAST * 6000 ** 2) / 2;
    expect(rate.spanMs(0, 6000) / expected).toBeCloseTo(1, 1);
    expect(rate.spanMs(5, 5)).toBe(0);
  });

  it('takes the best of the latest chunks, so that one preempted chunk changes nothing', () => {
    const rate = calibrated();
    const before = rate.tokensWithin(24, 0);
    rate.add(90, 0, 400);
    expect(rate.tokensWithin(24, 0)).toBe(before);
    for (let i = 0; i < 6; i++) rate.add(90, 0, 90);
    expect(rate.tokensWithin(24, 0)).toBe(24);
  });

  it('recovers from a calibration on a crowded machine by the short chunks that follow from it', () => {
    const rate = new PrefillRate();
    rate.add(32, 0, 60);
    rate.add(15, 17, 5.5);
    expect(rate.tokensWithin(24, 0)).toBeGreaterThan(60);
    rate.add(8, 17, 6);
    expect(rate.tokensWithin(24, 0)).toBeGreaterThan(60);
  });

  it('comes back from a calibration on a busy machine, wherever the next prompt begins', () => {
    for (const from of [0, 1000]) {
      const rate = new PrefillRate();
      rate.add(32, 0, 45);
      longestChunk(rate, from, from + 400, 24);
      expect(rate.tokensWithin(24, 0)).toBeGreaterThan(from === 0 ? 90 : 40);
      longestChunk(rate, 0, 200, 24);
      expect(rate.tokensWithin(24, 0)).toBeGreaterThan(90);
    }
  });

  it('does not take the attention of the first 500 tokens for what a token costs without', () => {
    for (const isFarKnown of [false, true]) {
      const rate = calibrated();
      if (isFarKnown) longestChunk(rate, 0, 1500, 24);
      longestChunk(rate, 0, 500, 24);
      expect(costMs(rate.tokensWithin(24, 400), 400)).toBeGreaterThan(21);
      expect(costMs(rate.tokensWithin(24, 0), 0)).toBeLessThanOrEqual(28);
    }
  });

  it('says when even one token takes longer than that', () => {
    expect(calibrated().tokensWithin(24, 1_000_000)).toBeLessThan(1);
  });
});
