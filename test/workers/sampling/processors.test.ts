import { describe, expect, it } from 'vitest';
import { defaultSampling, type SamplingParams } from '../../../protocol/sampling.ts';
import { processorKinds } from '../../../workers/sampling/processors.ts';
import { Sampler } from '../../../workers/sampling/sampler.ts';
import { TokenCounts } from '../../../workers/sampling/token-counts.ts';

const VOCAB = 6;

function applied(params: Partial<SamplingParams>, prompt: number[], answer: number[], row: number[]): number[] {
  const all = { ...defaultSampling, ...params };
  const counts = new TokenCounts(VOCAB, prompt, answer);
  const logits = Float32Array.from(row);
  for (const kind of processorKinds) if (kind.isActive(all)) kind.create(all, counts).apply(logits);
  return Array.from(logits);
}

describe('logits processors', () => {
  const row = [1, 2, -3, 4, 0, -1];

  it.each(processorKinds.map((kind) => [kind.name, kind] as const))('%s is inactive at its default', (_, kind) => {
    expect(kind.isActive(defaultSampling)).toBe(false);
    expect(kind.isActive({ ...defaultSampling, logitBias: {} })).toBe(false);
  });

  it('logit bias adds to the named tokens only', () => {
    expect(applied({ logitBias: { 1: -100, 4: 2.5 } }, [], [], row)).toEqual([1, -98, -3, 4, 2.5, -1]);
  });

  it('repetition penalty divides positive and multiplies negative logits of prompt and answer, once each', () => {
    expect(applied({ repetitionPenalty: 2 }, [1, 2, 1], [2, 3], row)).toEqual([1, 1, -6, 2, 0, -1]);
  });

  it('presence penalty counts a token of the answer once and leaves the prompt alone', () => {
    expect(applied({ presencePenalty: 0.5 }, [0, 1], [3, 3, 5], row)).toEqual([1, 2, -3, 3.5, 0, -1.5]);
  });

  it('frequency penalty counts every occurrence in the answer', () => {
    expect(applied({ frequencyPenalty: 0.5 }, [0, 1], [3, 3, 5], row)).toEqual([1, 2, -3, 3, 0, -1.5]);
  });

  it('negative penalties invite repetition', () => {
    expect(applied({ presencePenalty: -1, frequencyPenalty: -1 }, [], [0, 0], row)).toEqual([4, 2, -3, 4, 0, -1]);
  });

  it('bias comes before the penalties, so the penalty acts on the biased logit', () => {
    expect(applied({ logitBias: { 1: 2 }, repetitionPenalty: 2 }, [1], [], row)).toEqual([1, 2, -3, 4, 0, -1]);
  });

  it.each([
    ['beyond the vocabulary', { 6: 1 }],
    ['a negative id', { '-1': 1 }],
    ['no number', { hello: 1 }],
    ['a fraction', { '1.5': 1 }],
    ['a leading zero', { '01': 1 }],
    ['a bias that is no number', { 1: NaN }],
  ])('refuses a logit bias for %s', (_, logitBias) => {
    expect(() => new Sampler({ ...defaultSampling, logitBias }, 1, VOCAB, [], [])).toThrow(
      expect.objectContaining({ code: 'invalid_request', param: 'logit_bias' }),
    );
  });
});

describe('TokenCounts', () => {
  it('lists distinct ids, grows, and ignores ids outside the vocabulary', () => {
    const counts = new TokenCounts(2000, [5, 5, 9999], [7, 5]);
    for (let id = 0; id < 2000; id++) counts.add(id);
    counts.add(4000);
    expect(counts.numSeen).toBe(2000);
    expect(Array.from(counts.seenIds.subarray(0, 3))).toEqual([5, 7, 0]);
    expect([counts.answerCounts[5], counts.answerCounts[7], counts.answerCounts[1]]).toEqual([2, 2, 1]);
  });
});
