// Speculation on real weights: several tokens in one run are, bit for bit, single steps; so no answer may differ.
// SPECULATION_PROMPTS=400 asks as many questions of 128 tokens and more; the default keeps the test short.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaultSampling, type SamplingParams } from '../../protocol/sampling.ts';
import type { CompiledModel, KvArray } from '../../workers/messages/models.ts';
import { compileModel } from '../../workers/model/compile.ts';
import { Outputs } from '../../workers/outputs.ts';
import { Sequence } from '../../workers/sequence.ts';
import { Speculator } from '../../workers/speculator.ts';
import { TextModel } from '../../workers/text/text-model.ts';
import { seededRandom } from './model/checkpoint.ts';
import { DEFAULT_MODEL, open, type Opened } from './model/kit.ts';

const SEED = Number(process.env['SEED'] ?? 20261122);
const NUM_PROMPTS = Number(process.env['SPECULATION_PROMPTS'] ?? 24);
const MAX_LEN = 1024;
const WORDS = 'river 春天 stone 城市 music bread 月亮 city robot 水果 teacher window'.split(' ');

const cacheDir = mkdtempSync(path.join(tmpdir(), 'tokenwire-model-'));
let compiled: CompiledModel;
let opened: Opened;
let text: TextModel;

beforeAll(async () => {
  compiled = await compileModel({ model: DEFAULT_MODEL, cacheDir, maxContext: MAX_LEN });
  opened = open(compiled, { numSlots: 3, maxLen: MAX_LEN }, { verify: true });
  text = TextModel.load(compiled.textDir);
});

afterAll(() => {
  opened.model.dispose();
  rmSync(cacheDir, { recursive: true });
});

interface Answer {
  ids: number[];
  drafted: number;
  accepted: number;
}

/** Prefills `ids` and decodes in `slot`, with guesses when a speculator is given. */
function answer(slot: number, ids: number[], sampling: SamplingParams, speculator: Speculator | null): Answer {
  const { model } = opened;
  const meta = {
    id: 1,
    flag: 0,
    tenant: '',
    session: '',
    class: 'chat' as const,
    choice: 0,
    weight: 1,
    toolNames: [],
    grammar: null,
    logprobs: null,
    sampling,
  };
  const start = {
    meta: { ...meta, queueDeadline: Infinity, deadline: Infinity },
    ids: [...ids],
    numPrompt: ids.length,
  };
  const context = {
    text,
    grammars: null,
    vocabSize: model.vocabSize,
    maxLen: MAX_LEN,
    generated: new SharedArrayBuffer(4),
  };
  const sequence = new Sequence({ ...start, seed: sampling.seed ?? 1, home: -1, homeLength: 0 }, context);
  const out = new Outputs();
  let cause = sequence.accept(model.prefill(slot, ids, 0, true)!, 0, out);
  while (cause === null) {
    cause =
      speculator === null
        ? sequence.accept(model.decode(slot, 1, [sequence.ids.at(-1)!], [sequence.past]), 0, out)
        : speculator.step(slot, sequence, MAX_LEN - sequence.past, out);
  }
  const { draftedTokens: drafted, acceptedTokens: accepted } = out.stats;
  return { ids: sequence.ids.slice(ids.length), drafted, accepted };
}

/** The KV of the first `length` positions of a slot. */
function memory(slot: number, length: number): KvArray[] {
  const { numKvHeads, headDim } = compiled.shape;
  return opened.kv.flatMap((view) =>
    Array.from({ length: numKvHeads }, (_, head) => {
      const start = (slot * numKvHeads + head) * MAX_LEN * headDim;
      return view.subarray(start, start + length * headDim);
    }),
  );
}

function prompts(next: () => number): number[][] {
  return Array.from({ length: NUM_PROMPTS }, (_, i) => {
    const words = Array.from({ length: 4 + Math.floor(next() * 30) }, () => WORDS[Math.floor(next() * WORDS.length)]);
    const ask = ['Tell me a story about', '请重复这句话：', 'Repeat this text:', 'Explain'][i % 4];
    const content = `${ask} ${words.join(' ')}`;
    const messages = [{ role: 'user' as const, content }];
    const prompt = { kind: 'chat' as const, messages, tools: [], history: null, truncation: 'error' as const };
    return text.encodePrompt(prompt, MAX_LEN).tokenIds;
  });
}

describe('verification on real weights', () => {
  it('exists for 2, 4 and 8 tokens', () => {
    expect(opened.model.verifySizes).toEqual([2, 4, 8]);
  });

  it(`gives logits and KV memory of single steps, bit for bit, from 0 to 1,000 tokens of context (seed ${SEED})`, () => {
    const { model } = opened;
    const { vocabSize } = compiled.shape;
    const next = seededRandom(SEED);
    const ids = Array.from({ length: MAX_LEN }, () => Math.floor(next() * vocabSize));
    for (const past of [0, 1, 7, 63, 64, 200, 511, 1000]) {
      if (past > 1) for (const slot of [0, 1, 2]) model.prefill(slot, ids.slice(0, past), 0, false);
      else if (past === 1) for (const slot of [0, 1, 2]) model.decode(slot, 1, ids, [0]);
      for (const size of model.verifySizes) {
        const tokens = ids.slice(past, past + size);
        const expected = tokens.map((token, i) => model.decode(0, 1, [token], [past + i]).slice());
        const found = model.verify(1, tokens, past);
        for (const [i, row] of expected.entries()) {
          expect(found.subarray(i * vocabSize, (i + 1) * vocabSize), `past ${past}, size ${size}`).toEqual(row);
        }
        expect(memory(1, past + size)).toEqual(memory(0, past + size));
        // Another slot, through the same sessions, and over what a rejected guess left behind.
        model.verify(2, tokens.toReversed(), past);
        expect(model.verify(2, tokens, past).slice(0, vocabSize)).toEqual(expected[0]);
      }
    }
    expect(model.hookMisses).toBe(0);
  });

  it(`changes no answer, greedy or sampled, and no KV memory (${NUM_PROMPTS} prompts, seed ${SEED})`, () => {
    const speculator = new Speculator(opened.model);
    let drafted = 0;
    let accepted = 0;
    let tokens = 0;
    for (const [i, ids] of prompts(seededRandom(SEED)).entries()) {
      const variants: Partial<SamplingParams>[] = [
        { temperature: 0 },
        { temperature: 0, repetitionPenalty: 1.1 },
        { temperature: 0.3, topP: 0.9, topK: 20, seed: i },
        { temperature: 1, seed: i, presencePenalty: 0.5, logitBias: { 1000: 2 } },
      ];
      const sampling = { ...defaultSampling, maxTokens: 128 + (i % 60), ignoreEos: true, ...variants[(i >> 2) % 4] };
      const expected = answer(0, ids, sampling, null);
      const found = answer(1, ids, sampling, speculator);
      expect(found.ids, `prompt ${i}`).toEqual(expected.ids);
      const length = ids.length + expected.ids.length - 1;
      expect(memory(1, length), `KV of prompt ${i}`).toEqual(memory(0, length));
      drafted += found.drafted;
      accepted += found.accepted;
      tokens += found.ids.length;
    }
    console.log(`${tokens} tokens in ${NUM_PROMPTS} answers, ${drafted} guessed, ${accepted} of them right`);
    expect(accepted).toBeGreaterThan(tokens / 20);
  }, 1_000_000);

  it('refuses sizes it has no graph for, and what does not fit, and goes on afterwards', () => {
    const { model } = opened;
    expect(() => model.verify(0, [1, 2, 3], 0)).toThrow('3 tokens cannot be verified');
    expect(() => model.verify(0, [1, 6400], 0)).toThrow('token 6400');
    expect(() => model.verify(3, [1, 2], 0)).toThrow('slots 3 to 3');
    expect(() => model.verify(0, [1, 2], MAX_LEN - 1)).toThrow('do not fit a slot');
    expect(model.verify(0, [1, 2], 0).every(Number.isFinite)).toBe(true);
    const plain = open(compiled, { numSlots: 1, maxLen: 64 }, { role: 'decode' });
    expect(plain.model.verifySizes).toEqual([]);
    expect(() => plain.model.verify(0, [1, 2], 0)).toThrow('without verify');
    plain.model.dispose();
  });

  it('computes the same with two threads, and when the no-copy hook is not there', () => {
    const tokens = [5, 6, 7, 8];
    const prompt = Array.from({ length: 40 }, (_, i) => 11 + 7 * i);
    opened.model.prefill(0, prompt, 0, false);
    const expected = opened.model.verify(0, tokens, prompt.length).slice();
    for (const options of [{ threads: 2 }, { forceCopy: true }]) {
      const other = open(compiled, { numSlots: 1, maxLen: MAX_LEN }, { verify: true, ...options });
      other.model.prefill(0, prompt, 0, false);
      expect(other.model.verify(0, tokens, prompt.length)).toEqual(expected);
      const singles = tokens.flatMap((token, i) => [...other.model.decode(0, 1, [token], [prompt.length + i])]);
      expect(singles).toEqual([...expected]);
      other.model.dispose();
    }
  });
});
