// The default model's real weights: accuracy against the float reference, and the identities the engine relies on.
import fs from 'node:fs';
import path from 'node:path';
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { kvBytesPerToken, kvTypes } from '../../../workers/messages/models.ts';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import type { SlotLayout } from '../../../workers/messages/shared.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { llamaSpec } from '../../../workers/model/specs/llama.ts';
import { openOnnxWeights } from '../../../workers/model/weights/onnx.ts';
import { seededRandom } from './checkpoint.ts';
import type { ThreadJob } from './decode-thread.ts';
import {
  argmax,
  copyPrefix,
  DEFAULT_MODEL,
  greedy,
  klDivergence,
  open,
  temporaryFolder,
  textTools,
  type Opened,
} from './kit.ts';
import { Reference } from './reference.ts';

const PROMPTS = [
  'What is the capital of France?',
  '你好，请介绍一下你自己。',
  'Why is the sky blue?',
  '请写一首关于春天的短诗。',
  'Give me three tips for learning a language.',
  '什么是人工智能？',
  'How do I make a cup of tea?',
  '中国的首都是哪里？',
  'Explain what a computer program is.',
  '请推荐三种健康的早餐。',
  'What are the benefits of exercise?',
  '为什么要读书？',
  'Write a short story about a cat.',
  '请解释一下光合作用。',
  'What is the largest ocean on Earth?',
  '如何保持健康的生活方式？',
  'Describe the city of London.',
  '请把“我爱你”翻译成英文。',
  'Who wrote Romeo and Juliet?',
  '请介绍一下长城。',
  'How does a car engine work?',
  '世界上最高的山是什么？',
  'Tell me a joke.',
  '请写一封感谢信。',
];
// Many positions keep chance small: one share of 500 positions has a spread of 0.5 %.
const MAX_ANSWER = 28;
const SEED = 20261122;

const cacheDir = temporaryFolder();
afterAll(() => fs.rmSync(cacheDir, { recursive: true }));
let compiled: CompiledModel;
let opened: Opened;

/** What the float reference is matched to: 8-bit KV memory costs some of it (workers/model/README). */
const BOUNDS = { float32: { agreement: 0.98, divergence: 0.006 }, int8: { agreement: 0.96, divergence: 0.008 } };

function randomIds(length: number, seed: number): number[] {
  const random = seededRandom(seed);
  return Array.from({ length }, () => Math.floor(random() * compiled.shape.vocabSize));
}

interface ReferenceAnswer {
  ids: number[];
  /** Logits after the prompt and after each token of the greedy answer. */
  rows: Float32Array[];
}

let answers: ReferenceAnswer[] | undefined;

/** What the float reference answers: it takes most of a minute, and both kinds of KV memory are held to it. */
function referenceAnswers(): ReferenceAnswer[] {
  if (answers !== undefined) return answers;
  const text = textTools(compiled.textDir);
  const configFile = path.join(compiled.textDir, 'config.json');
  const config = JSON.parse(fs.readFileSync(configFile, 'utf8')) as Record<string, unknown>;
  const reference = new Reference(llamaSpec(config, configFile), openOnnxWeights(compiled.textDir)!);
  answers = PROMPTS.map((prompt) => {
    const ids = text.encodeChat(prompt);
    reference.reset();
    for (const id of ids.slice(0, -1)) reference.next(id, false);
    const rows = [reference.next(ids.at(-1)!)];
    while (rows.length < MAX_ANSWER) {
      const wanted = argmax(rows.at(-1)!);
      if (compiled.eosTokenIds.includes(wanted)) break;
      rows.push(reference.next(wanted));
    }
    return { ids, rows };
  });
  return answers;
}

const forms = kvTypes.flatMap((kvType) => (['blocks', 'rows'] as const).map((products) => [kvType, products] as const));

describe.each(forms)('default model with %s KV memory, products in %s', (kvType, products) => {
  beforeAll(async () => {
    const kv = { type: kvType, memoryBytes: 0 };
    compiled = await compileModel({ model: DEFAULT_MODEL, cacheDir, maxContext: 512, kv, products });
    opened = open(compiled, { numSlots: 9, maxLen: 512 });
  });

  afterAll(() => opened.model.dispose());

  it('prefills with a graph of its own, and decodes with the products that were asked for', () => {
    expect(compiled.prefillPath).not.toBe(compiled.decodePath);
    expect(path.basename(compiled.decodePath)).toBe(products === 'rows' ? 'rows.onnx' : 'model.onnx');
  });

  it('says that Paris is the capital of France', () => {
    const text = textTools(compiled.textDir);
    const ids = text.encodeChat('What is the capital of France?');
    expect(text.decode(greedy(opened.model, 0, ids, 40, compiled.eosTokenIds))).toContain('Paris');
  });

  it(`chooses the float reference’s token at ${100 * BOUNDS[kvType].agreement} % of its positions or more, and every run avoids the copy`, () => {
    let positions = 0;
    let agreed = 0;
    let divergence = 0;
    for (const { ids, rows } of referenceAnswers()) {
      let found = opened.model.prefill(0, ids, 0, true)!;
      for (const [i, expected] of rows.entries()) {
        const wanted = argmax(expected);
        positions++;
        divergence += klDivergence(expected, found);
        if (argmax(found) === wanted) agreed++;
        if (i < rows.length - 1) found = opened.model.decode(0, 1, [wanted], [ids.length + i]);
      }
    }
    const share = `${((100 * agreed) / positions).toFixed(2)} %`;
    const kl = (divergence / positions).toFixed(5);
    console.log(
      `${kvType}, ${products}: argmax agreement ${agreed} of ${positions} positions, ${PROMPTS.length} prompts = ${share}, KL ${kl}`,
    );
    expect(divergence / positions).toBeLessThanOrEqual(BOUNDS[kvType].divergence);
    expect(positions).toBeGreaterThanOrEqual(300);
    expect(agreed / positions).toBeGreaterThanOrEqual(BOUNDS[kvType].agreement);
    expect(opened.model.hookMisses).toBe(0);
  }, 900_000);

  it(`gives each row of a ragged batch the bits it gets alone (seed ${SEED})`, () => {
    const { model } = opened;
    const lengths = [2, 5, 17, 33, 64, 100, 129, 200];
    for (const [slot, length] of lengths.entries()) model.prefill(slot, randomIds(length, SEED + slot), 0, false);
    for (let step = 0; step < 6; step++) {
      const tokens = randomIds(lengths.length, SEED + 100 + step);
      for (const [first, n] of [
        [0, 8],
        [2, 3],
        [5, 2],
      ] as const) {
        const batch = model.decode(first, n, tokens.slice(first), lengths.slice(first)).slice();
        for (let row = 0; row < n; row++) {
          const slot = first + row;
          const alone = model.decode(slot, 1, [tokens[slot]!], [lengths[slot]!]);
          const { vocabSize } = compiled.shape;
          expect(batch.subarray(row * vocabSize, (row + 1) * vocabSize)).toEqual(alone);
        }
      }
      for (let row = 0; row < lengths.length; row++) lengths[row]!++;
    }
  });

  it(`prefills in chunks of 7, 64 and 128 exactly as in one piece (seed ${SEED})`, () => {
    const { model } = opened;
    const ids = randomIds(300, SEED);
    const whole = model.prefill(0, ids, 0, true)!.slice();
    const keys = opened.kv.map((view) => view.slice(0, view.length / opened.layout.numSlots));
    for (const chunk of [7, 64, 128]) {
      let last: Float32Array | undefined;
      for (let at = 0; at < ids.length; at += chunk) {
        const isLast = at + chunk >= ids.length;
        last = model.prefill(1, ids.slice(at, at + chunk), at, isLast);
        expect(last === undefined).toBe(!isLast);
      }
      expect(last).toEqual(whole);
      for (const [i, view] of opened.kv.entries()) {
        const slot = keys[i]!.length;
        const used = ids.length * compiled.shape.headDim;
        expect(view.subarray(slot, slot + used)).toEqual(keys[i]!.subarray(0, used));
      }
    }
  });

  it(`prefills on two threads exactly as on one, with either graph (seed ${SEED})`, () => {
    for (const prefillPath of [compiled.prefillPath, compiled.decodePath]) {
      const { model, kv } = open({ ...compiled, prefillPath }, { numSlots: 2, maxLen: 512 }, { threadsAlone: 2 });
      for (const [length, chunk] of [
        [2, 2],
        [33, 33],
        [64, 64],
        [300, 100],
        [500, 500],
      ] as const) {
        const ids = randomIds(length, SEED + length);
        const [one, two] = [0, 1].map((slot) => {
          for (let at = 0; at + chunk < length; at += chunk) {
            model.prefill(slot, ids.slice(at, at + chunk), at, false, slot === 1);
          }
          const at = length - chunk;
          return model.prefill(slot, ids.slice(at), at, true, slot === 1)!.slice();
        });
        expect(two).toEqual(one);
      }
      for (const view of kv) expect(view.subarray(view.length / 2)).toEqual(view.subarray(0, view.length / 2));
      model.dispose();
    }
  });

  it(`continues from a copied prefix as from the original (seed ${SEED})`, () => {
    const { model } = opened;
    const ids = randomIds(90, SEED + 7);
    const rest = randomIds(20, SEED + 8);
    model.prefill(4, ids, 0, false);
    copyPrefix(opened, compiled, 4, 8, ids.length);
    const original = model.prefill(4, rest, ids.length, true)!.slice();
    expect(model.prefill(8, rest, ids.length, true)).toEqual(original);
    const step = model.decode(4, 1, [77], [110]).slice();
    expect(model.decode(8, 1, [77], [110])).toEqual(step);
  });

  it('computes the same when the no-copy hook is not there, and counts it', () => {
    const copying = open(compiled, { numSlots: 3, maxLen: 256 }, { forceCopy: true });
    const ids = randomIds(40, SEED);
    const plain = open(compiled, { numSlots: 3, maxLen: 256 });
    for (const slot of [0, 1, 2]) {
      const expected = plain.model.prefill(slot, ids.slice(slot), 0, true)!.slice();
      expect(copying.model.prefill(slot, ids.slice(slot), 0, true)).toEqual(expected);
    }
    for (let step = 0; step < 3; step++) {
      const past = [40 + step, 39 + step, 38 + step];
      const expected = plain.model.decode(0, 3, [5, 6, 7], past).slice();
      expect(copying.model.decode(0, 3, [5, 6, 7], past)).toEqual(expected);
    }
    expect(copying.kv).toEqual(plain.kv);
    expect([copying.model.hookMisses, plain.model.hookMisses]).toEqual([6, 0]);
    copying.model.dispose();
    plain.model.dispose();
  });

  it(`gives the same tokens from three threads that load at once over one KV memory (seed ${SEED})`, async () => {
    const { shape } = compiled;
    const layout: SlotLayout = { rowsPerWorker: 1, numWorkers: 3, numSlots: 3, maxLen: 128, budgetTokens: 384 };
    const bytes = (layout.numSlots * layout.maxLen * kvBytesPerToken(shape)) / (2 * shape.numLayers);
    const shared = {
      kv: Array.from({ length: 2 * shape.numLayers }, () => new SharedArrayBuffer(bytes)),
      flags: new SharedArrayBuffer(4),
      owners: new SharedArrayBuffer(12),
      marks: new SharedArrayBuffer(16),
      generated: new SharedArrayBuffer(4 * layout.numSlots),
      order: new SharedArrayBuffer(8),
      busy: new SharedArrayBuffer(4),
      soloRows: new SharedArrayBuffer(4),
      loadLock: new SharedArrayBuffer(4),
    };
    const prompts = [0, 1, 2].map((slot) => randomIds(20 + slot, SEED + slot));
    const results = await Promise.all(
      prompts.map((prompt, slot) => runThread({ compiled, shared, layout, slot, prompt, steps: 30 })),
    );
    for (const [slot, prompt] of prompts.entries()) {
      expect(results[slot]).toEqual({ answer: greedy(opened.model, 0, prompt, 30, []), hookMisses: 0 });
    }
    expect(process.env['ORT_GQA_DISABLE_FLASH_ATTENTION']).toBeUndefined();
  });

  it('refuses rows, tokens and lengths that do not exist, and goes on afterwards', () => {
    const { model } = opened;
    expect(() => model.decode(8, 2, [1, 1], [0, 0])).toThrow('slots 8 to 9');
    expect(() => model.decode(0, 0, [], [])).toThrow('at least one row');
    expect(() => model.decode(0, 1, [6400], [3])).toThrow('token 6400');
    expect(() => model.decode(0, 1, [NaN], [3])).toThrow('token NaN');
    expect(() => model.decode(0, 1, [1], [512])).toThrow('do not fit a slot of 512');
    expect(() => model.prefill(0, randomIds(20, 1), 500, true)).toThrow('do not fit a slot of 512');
    expect(() => model.prefill(0, [], 0, true)).toThrow('at least one token');
    expect(model.prefill(0, [1, 2, 3], 0, true)!.every(Number.isFinite)).toBe(true);
  });

  it('opens with one role only, and refuses the other', () => {
    const decoder = open(compiled, { numSlots: 1, maxLen: 64 }, { role: 'decode' });
    expect(() => decoder.model.prefill(0, [1, 2], 0, true)).toThrow('without prefill');
    decoder.model.dispose();
    const prefiller = open(compiled, { numSlots: 1, maxLen: 64 }, { role: 'prefill' });
    expect(() => prefiller.model.decode(0, 1, [1], [0])).toThrow('without decode');
    prefiller.model.dispose();
  });
});

function runThread(job: ThreadJob): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('decode-thread.ts', import.meta.url), { workerData: job, env: SHARE_ENV });
    let result: unknown;
    worker.on('message', (message) => (result = message));
    worker.on('error', reject);
    worker.on('exit', () => resolve(result));
  });
}
