// Log-probabilities on real weights against a softmax in double precision over the very rows they were told of.
import fs from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaultSampling } from '../../protocol/sampling.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import { compileModel } from '../../workers/model/compile.ts';
import { Outputs } from '../../workers/outputs.ts';
import { Sequence } from '../../workers/sequence.ts';
import { TextModel } from '../../workers/text/text-model.ts';
import { DEFAULT_MODEL, open, temporaryFolder, textTools, type Opened } from './model/kit.ts';

const cacheDir = temporaryFolder();
let compiled: CompiledModel;
let opened: Opened;

beforeAll(async () => {
  compiled = await compileModel({ model: DEFAULT_MODEL, cacheDir, maxContext: 256 });
  opened = open(compiled, { numSlots: 2, maxLen: 256 });
});
afterAll(() => {
  opened.model.dispose();
  fs.rmSync(cacheDir, { recursive: true });
});

describe('Log-probabilities of the default model', () => {
  it('are the log-softmax of its logits, and their tokens the answer', () => {
    const { model } = opened;
    const text = TextModel.load(compiled.textDir);
    const ids = textTools(compiled.textDir).encodeChat('请写一首关于春天的短诗。');
    const meta = { id: 1, flag: 0, choice: 0, tenant: '', weight: 1, session: '', class: 'chat' as const };
    const sampling = { ...defaultSampling, temperature: 0.8, repetitionPenalty: 1.1, seed: 5, maxTokens: 40 };
    const limits = { queueDeadline: Infinity, deadline: Infinity };
    const sequence = new Sequence(
      {
        meta: { ...meta, ...limits, sampling, toolNames: [], grammar: null, logprobs: 20 },
        ids: [...ids],
        numPrompt: ids.length,
        seed: 5,
        home: -1,
        homeLength: 0,
      },
      { text, grammars: null, vocabSize: model.vocabSize, maxLen: 256, generated: new SharedArrayBuffer(4) },
    );
    const out = new Outputs();
    const rows: Float64Array[] = [];
    let logits = model.prefill(0, ids, 0, true)!;
    for (;;) {
      rows.push(Float64Array.from(logits.subarray(0, model.vocabSize)));
      if (sequence.accept(logits, 0, out, model.top) !== null) break;
      logits = model.decode(0, 1, [sequence.ids.at(-1)!], [sequence.past]);
    }
    const { logprobs = [], events } = out.take();
    const tokens = logprobs.flat();
    const generated = sequence.ids.slice(ids.length).filter((id) => text.tokenBytes(id).length > 0);
    expect(tokens.length).toBeGreaterThan(10);
    expect(tokens.map(([token]) => token)).toEqual(
      generated.slice(0, tokens.length).map((id) => text.tokenName(id)[0]),
    );
    for (const [step, [, logprob, , top]] of tokens.entries()) {
      const row = rows[step]!;
      const max = row.reduce((a, b) => Math.max(a, b));
      const total = row.reduce((sum, value) => sum + Math.exp(value - max), 0);
      const expected = row.map((value) => value - max - Math.log(total));
      expect(logprob).toBeCloseTo(expected[generated[step]!]!, 5);
      const best = Array.from(expected.keys()).sort((a, b) => expected[b]! - expected[a]! || a - b);
      expect(top.map(([token]) => token)).toEqual(best.slice(0, 20).map((id) => text.tokenName(id)[0]));
      for (const [i, [, value]] of top.entries()) expect(value).toBeCloseTo(expected[best[i]!]!, 5);
    }
    const shown = events.filter((event, i) => i % 4 === 3 && event !== '').join('');
    const bytes = Buffer.from(tokens.flatMap(([, , own]) => own ?? []));
    expect(bytes.toString('utf8')).toBe(shown);
  });
});
