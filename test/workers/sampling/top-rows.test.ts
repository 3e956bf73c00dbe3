// Sampling from a graph's likeliest tokens against sampling from the whole row, which has tests of its own.
import { describe, expect, it } from 'vitest';
import { defaultSampling, type SamplingParams } from '../../../protocol/sampling.ts';
import { argmax, draw } from '../../../workers/sampling/draw.ts';
import { uniform } from '../../../workers/sampling/rng.ts';
import { Sampler } from '../../../workers/sampling/sampler.ts';
import { drawFromTop, NOT_ENOUGH, topArgmax, type TopRows } from '../../../workers/sampling/top-rows.ts';

const SEED = 20_261_122;
const SIZE = 64;

/** Bell-shaped logits with ties, and in some rows tokens that stand out or are ruled out. */
function randomRow(seed: number, vocabSize: number): Float32Array {
  const spread = [0.2, 1, 3, 8][Math.floor(uniform(seed, 0) * 4)]!;
  const row = Float32Array.from({ length: vocabSize }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform(seed, 2 * i + 2)));
    return spread * radius * Math.cos(2 * Math.PI * uniform(seed, 2 * i + 3));
  });
  if (uniform(seed, 1) < 0.5) for (let i = 0; i < vocabSize; i += 3) row[i] = Math.round(row[i]!);
  if (seed % 3 === 0) for (let i = seed % 7; i < vocabSize; i += 97) row[i] = row[i]! + 6 * spread;
  if (seed % 5 === 0) for (let i = 1; i < vocabSize; i += 2) row[i] = -Infinity;
  return row;
}

function topOf(rows: readonly Float32Array[]): TopRows {
  const values = new Float32Array(rows.length * SIZE);
  const ids = new Int32Array(rows.length * SIZE);
  for (const [row, logits] of rows.entries()) {
    const best = Array.from(logits, (value, id) => ({ value, id })).sort((a, b) => b.value - a.value || a.id - b.id);
    for (let i = 0; i < SIZE; i++) {
      values[row * SIZE + i] = best[i]!.value;
      ids[row * SIZE + i] = best[i]!.id;
    }
  }
  return { size: SIZE, values, ids };
}

describe('drawFromTop', () => {
  it(`gives the token of the whole row, or says that it cannot know (seed ${SEED})`, () => {
    const vocabSize = 1000;
    const answered = new Map<string, number>();
    for (let round = 0; round < 400; round++) {
      const logits = randomRow(SEED + round, vocabSize);
      const top = topOf([logits]);
      expect(topArgmax(top, 0)).toBe(argmax(logits, 0, vocabSize));
      const pick = (n: number, list: readonly number[]): number =>
        list[Math.floor(uniform(SEED, round * 8 + n) * list.length)]!;
      const params = {
        temperature: pick(0, [0.1, 0.7, 1, 2]),
        topK: pick(1, [0, 0, 2, 20, 64, 65, 1000, 5000]),
        topP: pick(2, [1, 1, 0.99, 0.9, 0.3, 0]),
        minP: pick(3, [0, 0, 0.01, 0.2, 1]),
      };
      for (let u = 0; u < 1; u += 1 / 64) {
        const id = drawFromTop(top, 0, logits, 0, vocabSize, params, u);
        if (id === NOT_ENOUGH) continue;
        const where = `seed ${SEED}, round ${round}, u ${u}, ${JSON.stringify(params)}`;
        expect(id, where).toBe(draw(logits, 0, vocabSize, params, u));
        const kind = params.topK in { 2: 1, 20: 1, 64: 1 } ? 'top-k' : params.topP < 1 ? 'top-p' : 'min-p';
        answered.set(kind, (answered.get(kind) ?? 0) + 1);
      }
    }
    for (const kind of ['top-k', 'top-p', 'min-p']) expect(answered.get(kind), kind).toBeGreaterThan(1000);
  });

  it.each([
    ['temperature alone', { topK: 0, topP: 1, minP: 0 }],
    ['top-k beyond the candidates', { topK: 65, topP: 0.5, minP: 0 }],
    ['top-p that a flat row does not reach', { topK: 0, topP: 0.9, minP: 0 }],
    ['min-p that a flat row does not fall below', { topK: 0, topP: 1, minP: 0.1 }],
  ])('asks for the whole row: %s', (_title, params) => {
    const logits = Float32Array.from({ length: 500 }, (_, i) => i / 1000);
    expect(drawFromTop(topOf([logits]), 0, logits, 0, 500, { temperature: 1, ...params }, 0.5)).toBe(NOT_ENOUGH);
  });

  it('asks for the whole row where rounding could move the border of top-p', () => {
    // Weights 1/2, 1/4, 1/4 and a border exactly on the first.
    const logits = new Float32Array(100).fill(-Infinity);
    logits.set([Math.log(2), 0, 0]);
    const params = { temperature: 1, topK: 0, topP: Math.fround(0.5), minP: 0 };
    expect(drawFromTop(topOf([logits]), 0, logits, 0, 100, params, 0.1)).toBe(NOT_ENOUGH);
    expect(drawFromTop(topOf([logits]), 0, logits, 0, 100, { ...params, topP: 0.5001 }, 0.1)).toBe(0);
  });

  it('leaves rows of NaN and rows without a number to the whole row, which throws', () => {
    for (const value of [NaN, -Infinity]) {
      const logits = new Float32Array(200).fill(value);
      const top = { size: SIZE, values: new Float32Array(SIZE).fill(value), ids: new Int32Array(SIZE) };
      expect(topArgmax(top, 0)).toBe(NOT_ENOUGH);
      const sampler = new Sampler({ ...defaultSampling, topK: 5 }, 1, 200, [], []);
      expect(() => sampler.sample(logits, 0, top)).toThrow('no finite value');
    }
  });
});

describe('Sampler with the likeliest tokens', () => {
  const kinds: Partial<SamplingParams>[] = [
    { temperature: 0 },
    { temperature: 0.7, topK: 20, topP: 0.8 },
    { temperature: 1, topP: 0.9 },
    { temperature: 0.8, minP: 0.1 },
    { temperature: 1 },
    { temperature: 0.7, topK: 20, repetitionPenalty: 1.3, presencePenalty: 0.5 },
    { temperature: 0, logitBias: { 7: 100 } },
    { temperature: 0, frequencyPenalty: 1 },
  ];

  it(`gives the same answer as without, for every kind of request in every row of a batch (seed ${SEED})`, () => {
    const vocabSize = 700;
    const make = (): Sampler[] =>
      kinds.map((kind, i) => new Sampler({ ...defaultSampling, ...kind }, SEED + i, vocabSize, [1, 2, 3], []));
    const [withTop, without] = [make(), make()];
    for (let step = 0; step < 60; step++) {
      const rows = kinds.map((_, i) => randomRow(step * 10 + i, vocabSize));
      const batch = new Float32Array(rows.length * vocabSize);
      for (const [i, row] of rows.entries()) batch.set(row, i * vocabSize);
      const top = topOf(rows);
      for (let i = 0; i < kinds.length; i++) {
        const at = `seed ${SEED}, step ${step}, ${JSON.stringify(kinds[i])}`;
        expect(withTop[i]!.sample(batch, i * vocabSize, top), at).toBe(without[i]!.sample(batch, i * vocabSize));
      }
    }
  });
});
