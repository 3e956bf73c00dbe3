// Bench `vocabulary`: a decode step and the sampling of its rows with a vocabulary of 151,936, with the likeliest tokens
// selected by a graph and without, on a seeded random checkpoint of four layers. One thread; both take turns, and of each
// the best round counts, since other work on the machine only adds.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defaultSampling, type SamplingParams } from '../protocol/sampling.ts';
import { compileModel } from '../workers/model/compile.ts';
import { OnnxModel } from '../workers/model/onnx-model.ts';
import { Sampler } from '../workers/sampling/sampler.ts';
import type { Bench } from './bench.ts';
import { findShape, makeCheckpoint } from './make-checkpoint.ts';

const MAX_LEN = 256;
const PAST = 128;

/** The logits of random weights are flat; a low temperature gives them the shape of a trained model's. */
const TEMPERATURE = 0.1;
const kinds: Readonly<Record<string, Partial<SamplingParams>>> = {
  greedy: { temperature: 0 },
  'top-k 20, top-p 0.8': { temperature: TEMPERATURE, topK: 20, topP: 0.8 },
  'top-p 0.9': { temperature: TEMPERATURE, topP: 0.9 },
  'temperature alone': { temperature: TEMPERATURE },
};

export const bench: Bench = {
  flags: {
    shape: { kind: 'text', fallback: 'vocabulary', meaning: 'of make-checkpoint.ts' },
    batches: { kind: 'list', fallback: '1,8,16', meaning: 'rows decoded together' },
    rounds: { kind: 'integer', fallback: '9', meaning: 'interleaved repetitions' },
  },
  async run(flags, report) {
    const folder = mkdtempSync(join(tmpdir(), 'tokenwire-bench-vocabulary-'));
    try {
      const directory = join(folder, 'checkpoint');
      makeCheckpoint(directory, findShape(flags.text('shape')), flags.integer('seed'));
      const compiled = await compileModel({ model: directory, cacheDir: join(folder, 'cache'), maxContext: MAX_LEN });
      const { numLayers, numKvHeads, headDim, vocabSize } = compiled.shape;
      const rows = Math.max(...flags.list('batches'));
      const kv = Array.from({ length: 2 * numLayers }, () => new Float32Array(rows * numKvHeads * MAX_LEN * headDim));
      const layout = { numSlots: rows, maxLen: MAX_LEN };
      const models = [true, false].map(
        (selectTop) => new OnnxModel(compiled, kv, layout, { threads: 1, role: 'decode', selectTop }),
      );
      for (const batch of flags.list('batches')) {
        for (const [kind, params] of Object.entries(kinds)) {
          const times = models.map((model) => ({ model, stepMs: [] as number[], sampleMs: [] as number[] }));
          for (let round = -1; round < flags.integer('rounds'); round++) {
            const chosen = times.map(({ model, stepMs, sampleMs }) => {
              const samplers = Array.from(
                { length: batch },
                (_, row) => new Sampler({ ...defaultSampling, ...params }, round + row + 1, vocabSize, [], []),
              );
              const tokens = samplers.map((_, row) => (977 * (row + 1) * (round + 2)) % vocabSize);
              const begun = performance.now();
              const logits = model.decode(
                0,
                batch,
                tokens,
                Array.from(tokens, () => PAST),
              );
              const decoded = performance.now();
              const ids = samplers.map((sampler, row) => sampler.sample(logits, row * vocabSize, model.top));
              // The first round warms up.
              if (round >= 0) {
                stepMs.push(decoded - begun);
                sampleMs.push(performance.now() - decoded);
              }
              return ids.join();
            });
            if (chosen[0] !== chosen[1]) throw new Error(`${kind}: other tokens with the selection than without`);
          }
          const at = { batch, kind, vocabulary: vocabSize };
          const [selected, whole] = times.map(({ stepMs, sampleMs }) => ({
            sample: Math.min(...sampleMs),
            total: Math.min(...stepMs.map((ms, i) => ms + sampleMs[i]!)),
          }));
          report.add('sampling, whole rows', whole!.sample, 'ms', at);
          report.add('sampling, selected', selected!.sample, 'ms', at);
          report.add('step and sampling, whole rows', whole!.total, 'ms', at);
          report.add('step and sampling, selected', selected!.total, 'ms', at);
          report.add('whole rows / selected', whole!.total / selected!.total, 'x', at);
        }
      }
      for (const model of models) model.dispose();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
