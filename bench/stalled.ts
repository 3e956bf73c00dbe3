// Bench `stalled`: many native clients ask for an answer and never acknowledge it, half of them without reading at all.
// What does each cost in memory, and what do clients that read notice? Measured without, with and again without them.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from './bench.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import type { SocketJob, SocketResult } from './load/socket-client.ts';
import type { Report } from './report.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { percentile } from './statistics.ts';

const READERS = 8;
const READER_TOKENS = 300;
const AT_ONCE = 64;
const WARM_UP_MS = 4000;
/** More than credit and backlog, so that no stalled answer comes to its end. */
const STALLED_TOKENS = 1800;
const POLL_MS = 250;
const SETTLE_MS = 1500;

interface Gaps {
  mean: number;
  p50: number;
  p99: number;
}

export const bench: Bench = {
  flags: {
    stalled: { kind: 'integer', fallback: '1000', meaning: 'clients that stall' },
    slots: { kind: 'integer', fallback: '512', meaning: 'slots; half of them are rows that decode' },
    step: { kind: 'integer', fallback: '3', meaning: "ms of the fake model's step" },
    rounds: { kind: 'integer', fallback: '3', meaning: 'rounds of the readers per measurement' },
    wait: { kind: 'integer', fallback: '50000', meaning: 'ms at most until all are set aside' },
  },
  async run(flags, report) {
    const stalled = flags.integer('stalled');
    const settings = {
      MODEL: `fake:stepMs=${flags.integer('step')}`,
      SLOTS: String(flags.integer('slots')),
      MAX_CONTEXT: '2048',
      WORKERS: '1',
    };
    const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings });
    const readers = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
    const stallers = await ClientProcess.start<SocketJob, SocketResult>('socket-client.ts');
    const rounds = flags.integer('rounds');
    const at = { stalled, slots: flags.integer('slots') };
    try {
      // Ordinary clients in every row make the server load, compile and touch what a full house needs anyway.
      const rows = Math.min(stalled, Math.floor(flags.integer('slots') / 2));
      await stallers.run({ op: 'open', url: server.streamUrl, count: rows, atOnce: AT_ONCE });
      await stallers.run({ op: 'stream', rampMs: 5000, forMs: WARM_UP_MS, maxTokens: STALLED_TOKENS });
      await read(readers, server, 1);
      const before = await read(readers, server, rounds);
      await sleep(SETTLE_MS);
      const rssBefore = server.memoryKb('VmRSS');
      const opened = await stallers.run({ op: 'open', url: server.streamUrl, count: stalled, atOnce: AT_ONCE });
      const asked = await stallers.run({ op: 'stall', maxTokens: STALLED_TOKENS });
      const failed = opened.failed + asked.failed;
      if (failed > 0) throw new Error(`${failed} failed: ${[...opened.errors, ...asked.errors].join('; ')}`);
      const beganMs = performance.now();
      report.add('left running or waiting', await untilSetAside(server, flags.integer('wait')), 'answers', at);
      report.add('set aside after', performance.now() - beganMs, 'ms', at);
      await sleep(SETTLE_MS);
      const grownKb = server.memoryKb('VmRSS') - rssBefore;
      const withStalled = await read(readers, server, rounds);
      report.add('memory per stalled client', grownKb / stalled, 'KiB', at);
      await stallers.run({ op: 'close' });
      await sleep(SETTLE_MS);
      const after = await read(readers, server, rounds);
      compare(report, at, before, withStalled, after);
    } finally {
      await Promise.all([readers.stop(), stallers.stop()]);
      await server.stop();
    }
  },
};

/** Gaps of clients that read, milliseconds. */
async function read(client: ClientProcess<LoadJob, LoadResult>, server: ServerProcess, rounds: number): Promise<Gaps> {
  const gaps: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const result = await client.run({
      url: server.url,
      transport: 'native',
      sockets: READERS,
      streams: READERS,
      mode: 'burst',
      forMs: 0,
      prompts: Array.from({ length: READERS }, (_, i) => `reader ${i}`),
      maxTokens: READER_TOKENS,
      class: 'voice',
    });
    if (result.failed > 0) throw new Error(`${result.failed} readers failed: ${result.errors.join('; ')}`);
    for (const { arrivals } of result.records) {
      for (let i = 1; i < arrivals.length; i++) gaps.push(arrivals[i]!.atMs - arrivals[i - 1]!.atMs);
    }
  }
  const mean = gaps.reduce((a, b) => a + b, 0) / gaps.length;
  return { mean, p50: percentile(gaps, 0.5), p99: percentile(gaps, 0.99) };
}

/** Waits until nothing runs or waits; returns what still does after `waitMs`. */
async function untilSetAside(server: ServerProcess, waitMs: number): Promise<number> {
  const endMs = performance.now() + waitMs;
  let numQuiet = 0;
  for (;;) {
    const metrics = await server.metrics();
    const busy = metrics.value('requests_running') + metrics.value('requests_waiting');
    // The gauges lag behind: one zero may be a moment between two steps.
    numQuiet = busy === 0 ? numQuiet + 1 : 0;
    if (numQuiet === 3 || performance.now() > endMs) return busy;
    await sleep(POLL_MS);
  }
}

function compare(report: Report, at: Record<string, number>, before: Gaps, during: Gaps, after: Gaps): void {
  for (const name of ['mean', 'p50', 'p99'] as const) {
    report.add(`gap of readers, ${name}, without`, before[name], 'ms', at);
    report.add(`gap of readers, ${name}, with`, during[name], 'ms', at);
    report.add(`gap of readers, ${name}, without again`, after[name], 'ms', at);
    report.add(`ratio, ${name}`, during[name] / ((before[name] + after[name]) / 2), 'x', at);
  }
}
