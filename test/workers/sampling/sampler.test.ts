import { describe, expect, it } from 'vitest';
import { defaultSampling, type SamplingParams } from '../../../protocol/sampling.ts';
import { draw, type DrawParams } from '../../../workers/sampling/draw.ts';
import { uniform } from '../../../workers/sampling/rng.ts';
import { Sampler } from '../../../workers/sampling/sampler.ts';

const off: DrawParams = { temperature: 1, topK: 0, topP: 1, minP: 0 };

/** Bell-shaped logits, reproducible. */
function randomRow(seed: number, vocabSize: number, spread = 3): Float32Array {
  return Float32Array.from({ length: vocabSize }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform(seed, 2 * i)));
    return spread * radius * Math.cos(2 * Math.PI * uniform(seed, 2 * i + 1));
  });
}

/** The plain reading of the parameters, by sorting: probability of each token. */
function reference(logits: Float32Array, params: DrawParams): Map<number, number> {
  let sorted = Array.from(logits, (logit, id) => ({ id, logit })).filter(({ logit }) => logit > -Infinity);
  sorted.sort((a, b) => b.logit - a.logit || a.id - b.id);
  if (params.topK > 0) sorted = sorted.slice(0, params.topK);
  const max = sorted[0]?.logit ?? 0;
  const weighed = sorted.map(({ id, logit }) => ({ id, weight: Math.exp((logit - max) / params.temperature) }));
  const total = weighed.reduce((sum, { weight }) => sum + weight, 0);
  let before = 0;
  const kept = weighed.filter(({ weight }, i) => {
    const isIn = i === 0 || ((params.topP === 1 || before < params.topP * total) && weight >= params.minP);
    before += weight;
    return isIn;
  });
  const keptTotal = kept.reduce((sum, { weight }) => sum + weight, 0);
  return new Map(kept.map(({ id, weight }) => [id, weight / keptTotal]));
}

function frequencies(logits: Float32Array, params: DrawParams, numDraws: number, seed: number): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = 0; i < numDraws; i++) {
    const id = draw(logits, 0, logits.length, params, uniform(seed, i));
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}

function sampler(params: Partial<SamplingParams>, vocabSize: number, seed = 1, prompt: number[] = []): Sampler {
  return new Sampler({ ...defaultSampling, ...params }, seed, vocabSize, prompt, []);
}

describe('draw', () => {
  const cases: [string, DrawParams][] = [
    ['nothing set', off],
    ['temperature 0.5', { ...off, temperature: 0.5 }],
    ['temperature 2', { ...off, temperature: 2 }],
    ['top-k 5', { ...off, topK: 5 }],
    ['top-k above the vocabulary', { ...off, topK: 1000 }],
    ['top-p 0.7', { ...off, topP: 0.7 }],
    ['top-p 0', { ...off, topP: 0 }],
    ['min-p 0.1', { ...off, minP: 0.1 }],
    ['min-p 1', { ...off, minP: 1 }],
    ['top-k 20, top-p 0.8', { ...off, topK: 20, topP: 0.8 }],
    ['top-p 0.9, min-p 0.2', { ...off, topP: 0.9, minP: 0.2 }],
    ['top-k 10, top-p 0.9, min-p 0.05, temperature 1.5', { temperature: 1.5, topK: 10, topP: 0.9, minP: 0.05 }],
  ];

  it.each(cases)('has the distribution of the definition: %s', (_, params) => {
    const seed = 20_261_122;
    const logits = randomRow(seed, 50, 2);
    const expected = reference(logits, params);
    const numDraws = 20_000;
    const counts = frequencies(logits, params, numDraws, seed);
    for (const id of counts.keys()) expect(expected.has(id), `seed ${seed}: token ${id} is outside`).toBe(true);
    // Chi-square over cells of at least 5 expected draws; mean is the number of cells, its spread sqrt(2 cells).
    let chi = 0;
    let cells = 0;
    for (const [id, p] of expected) {
      if (p * numDraws < 5) continue;
      cells++;
      chi += ((counts.get(id) ?? 0) - p * numDraws) ** 2 / (p * numDraws);
    }
    expect(chi, `seed ${seed}: chi-square ${chi} of ${cells} cells`).toBeLessThan(cells + 4 * Math.sqrt(2 * cells) + 4);
  });

  it('keeps exactly the tokens of the definition on random rows of all shapes', () => {
    const seed = 77;
    for (let round = 0; round < 300; round++) {
      const pick = (n: number, list: readonly number[]): number =>
        list[Math.floor(uniform(seed, round * 10 + n) * list.length)] ?? 0;
      const logits = randomRow(round, pick(0, [2, 7, 100, 700]), pick(1, [0, 0.001, 1, 5, 40]));
      // Ties, and tokens that are ruled out.
      for (let i = 0; i < logits.length; i += 3) logits[i] = Math.round(logits[i] ?? 0);
      for (let i = 1; i < logits.length; i += 11) logits[i] = -Infinity;
      const params = {
        temperature: pick(2, [0.1, 0.7, 1, 2]),
        topK: pick(3, [0, 2, 40]),
        topP: pick(4, [1, 0.999, 0.9, 0.3]),
        minP: pick(5, [0, 0, 0.03]),
      };
      const expected = reference(logits, params);
      // Walking u through [0, 1) meets every token that weighs more than the step.
      const met = new Set<number>();
      for (let u = 0; u < 1; u += 1 / 1024) met.add(draw(logits, 0, logits.length, params, u));
      const where = `seed ${seed}, round ${round}, ${JSON.stringify(params)}`;
      for (const id of met) expect(expected.has(id), `${where}: ${id} is outside`).toBe(true);
      for (const [id, p] of expected) if (p > 2 / 1024) expect(met.has(id), `${where}: ${id} is missing`).toBe(true);
    }
  });

  it('draws the hand-computed token of a small row', () => {
    // Weights 4, 2, 1, 1: borders at 0.5, 0.75, 0.875.
    const logits = Float32Array.from([Math.log(4), Math.log(2), 0, 0]);
    expect([0, 0.49, 0.51, 0.74, 0.76, 0.88, 0.999].map((u) => draw(logits, 0, 4, off, u))).toEqual([
      0, 0, 1, 1, 2, 3, 3,
    ]);
    // top-p 0.6 keeps 4 and 2: border at 2/3.
    const narrow = { ...off, topP: 0.6 };
    expect([0.66, 0.67, 0.999].map((u) => draw(logits, 0, 4, narrow, u))).toEqual([0, 1, 1]);
    // Of equal tokens at the border, the lower id stays.
    expect(draw(logits, 0, 4, { ...off, topK: 3 }, 0.999)).toBe(2);
    expect(draw(logits, 0, 4, { ...off, topP: 0.8 }, 0.999)).toBe(2);
  });

  it('copes with rows at the edge of the numbers', () => {
    const only = new Float32Array(100).fill(-Infinity);
    only[63] = -5;
    const huge = Float32Array.from([3e38, -3e38, 2.9e38, 0]);
    const infinite = Float32Array.from([0, Infinity, 5]);
    const holes = Float32Array.from([NaN, 1, NaN, -Infinity]);
    const variants: DrawParams[] = [
      off,
      { ...off, topK: 2 },
      { ...off, topP: 0.5 },
      { ...off, minP: 0.5 },
      { ...off, temperature: 1e-6 },
      { ...off, temperature: 1e-6, topP: 0.9, topK: 3 },
    ];
    for (const params of variants) {
      for (const u of [0, 0.5, 1 - 2 ** -53]) {
        expect(draw(only, 0, 100, params, u)).toBe(63);
        expect(draw(huge, 0, 4, params, u)).toBe(0);
        expect(draw(infinite, 0, 3, params, u)).toBe(1);
        expect(draw(holes, 0, 4, params, u)).toBe(1);
      }
      for (const bad of [NaN, -Infinity]) {
        const broken = new Float32Array(8).fill(bad);
        expect(() => draw(broken, 0, 8, params, 0.5)).toThrow('no finite value');
      }
    }
  });
});

describe('Sampler', () => {
  it('takes the largest logit and the lowest id on ties when greedy', () => {
    const greedy = sampler({ temperature: 0 }, 5);
    expect(greedy.isGreedy).toBe(true);
    expect(greedy.sample(Float32Array.from([1, 7, 3, 7, NaN]), 0)).toBe(1);
    expect(sampler({ topK: 1 }, 5).isGreedy).toBe(true);
    expect(sampler({}, 5).isGreedy).toBe(false);
    expect(() => greedy.sample(new Float32Array(5).fill(NaN), 0)).toThrow('no finite value');
  });

  it('depends only on its own row', () => {
    const vocabSize = 40;
    const rows = [0, 1, 2].map((i) => randomRow(i + 5, vocabSize));
    const batch = new Float32Array(3 * vocabSize);
    rows.forEach((row, i) => batch.set(row, i * vocabSize));
    const params = { topP: 0.9, repetitionPenalty: 1.3, presencePenalty: 0.4, logitBias: { 3: 2 } };
    const before = batch.slice();
    rows.forEach((row, i) => {
      const alone = sampler(params, vocabSize, 9, [1, 2]);
      const inBatch = sampler(params, vocabSize, 9, [1, 2]);
      for (let step = 0; step < 50; step++) {
        expect(inBatch.sample(batch, i * vocabSize)).toBe(alone.sample(row, 0));
      }
    });
    expect(batch).toEqual(before);
  });

  it('goes on with the same tokens after being rebuilt from the ids at any step', () => {
    const vocabSize = 60;
    const prompt = [1, 2, 3, 3];
    for (const params of [
      {},
      { temperature: 0.8, topK: 20, topP: 0.95 },
      { repetitionPenalty: 1.2, frequencyPenalty: 0.7, presencePenalty: 0.3 },
      { temperature: 0, frequencyPenalty: 1 },
    ]) {
      const all = { ...defaultSampling, ...params };
      const steady = new Sampler(all, -77, vocabSize, prompt, []);
      const answer: number[] = [];
      for (let step = 0; step < 80; step++) {
        const row = randomRow(step, vocabSize);
        const rebuilt = new Sampler(all, -77, vocabSize, prompt, answer);
        const expected = steady.sample(row, 0);
        expect(rebuilt.sample(row, 0)).toBe(expected);
        answer.push(expected);
      }
    }
  });

  it('gives other seeds other tokens, and the same seed the same', () => {
    const row = randomRow(3, 200);
    const run = (seed: number): number[] => {
      const one = sampler({}, 200, seed);
      return Array.from({ length: 30 }, () => one.sample(row, 0));
    };
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
    expect(run(-1)).not.toEqual(run(1));
  });

  it('is greedy in effect at a tiny temperature', () => {
    const row = randomRow(4, 500);
    const cold = sampler({ temperature: 1e-6 }, 500);
    const greedy = sampler({ temperature: 0 }, 500);
    for (let i = 0; i < 20; i++) expect(cold.sample(row, 0)).toBe(greedy.sample(row, 0));
  });

  it('stops repeating itself under a frequency penalty', () => {
    const greedy = sampler({ temperature: 0, frequencyPenalty: 2 }, 3);
    const row = Float32Array.from([5, 4, 0]);
    expect(Array.from({ length: 4 }, () => greedy.sample(row, 0))).toEqual([0, 1, 0, 1]);
  });
});
