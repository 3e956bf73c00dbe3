// The part of bench `delay` on the fake model in a real worker: many lanes, a quarter in each latency class and each
// socket of one class, all streaming at once. Measured by the server's histogram while every lane streams.
import { setTimeout as sleep } from 'node:timers/promises';
import type { LatencyClass } from '../protocol/messages.ts';
import { ClientProcess } from './load/client-process.ts';
import type { SocketJob, SocketResult } from './load/socket-client.ts';
import type { Report } from './report.ts';
import { cpuShares, defaultCacheDir, histogramQuantile, ServerProcess } from './server-process.ts';

/** With the goal of DESIGN, seconds. */
const classes: readonly [LatencyClass, number][] = [
  ['voice', 0.002],
  ['ide', 0.002],
  ['chat', 0.02],
  ['batch', 0.02],
];
const SOCKETS_PER_CLASS = 2;
const MAX_TOKENS = 6000;
const POLL_MS = 200;

/** `stepMs`: time of one step of all rows. Throws when not all lanes stream in time. */
export async function measureLanes(report: Report, lanes: number, stepMs: number, forMs: number): Promise<void> {
  const perSocket = Math.ceil(lanes / classes.length / SOCKETS_PER_CLASS);
  const total = perSocket * SOCKETS_PER_CLASS * classes.length;
  const settings = {
    MODEL: `fake:stepMs=${stepMs}`,
    // Half of the slots are rows, and while urgent classes run one row in eight is kept free for them.
    SLOTS: String(Math.min(4096, Math.max(2048, 2 * Math.ceil((total * 8) / 7) + 64))),
    MAX_CONTEXT: '8192',
    WORKERS: '1',
  };
  const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings });
  const client = await ClientProcess.start<SocketJob, SocketResult>('socket-client.ts');
  try {
    for (const [latencyClass] of classes) {
      await client.run({
        op: 'open',
        url: server.streamUrl,
        count: SOCKETS_PER_CLASS,
        atOnce: 1,
        lanes: { count: perSocket, class: latencyClass },
      });
    }
    // A busy worker admits one prompt per step.
    const rampMs = 5000 + 3 * total * stepMs;
    const streaming = client.run({ op: 'stream', rampMs, forMs: forMs + 2000, maxTokens: MAX_TOKENS });
    const endMs = performance.now() + rampMs;
    let before = await server.metrics();
    while (before.value('requests_running') < total) {
      if (performance.now() > endMs) {
        throw new Error(`${before.value('requests_running')} of ${total} lanes stream after ${rampMs} ms`);
      }
      await sleep(POLL_MS);
      before = await server.metrics();
    }
    const cpuBefore = server.cpu();
    const begunMs = performance.now();
    await sleep(forMs);
    const cpuAfter = server.cpu();
    const wallMs = performance.now() - begunMs;
    const after = await server.metrics();
    const result = await streaming;
    if (result.failed > 0) throw new Error(`${result.failed} answers failed, such as: ${result.errors.join('; ')}`);
    const common = { lanes: total, sockets: classes.length * SOCKETS_PER_CLASS, stepMs, model: 'fake' };
    for (const [latencyClass, goal] of classes) {
      const at = { ...common, class: latencyClass };
      const label = `class="${latencyClass}"`;
      const [from, to] = [before, after].map((metrics) => metrics.buckets('token_to_write_seconds', label)) as [
        Map<number, number>,
        Map<number, number>,
      ];
      const count = (bound: number): number => (to.get(bound) ?? 0) - (from.get(bound) ?? 0);
      report.add('token to write p50', histogramQuantile(from, to, 0.5) * 1000, 'ms', at);
      report.add('token to write p99', histogramQuantile(from, to, 0.99) * 1000, 'ms', at);
      report.add('written in time', (100 * count(goal)) / count(Infinity), '%', { ...at, withinMs: goal * 1000 });
    }
    report.add('delivered', (result.events * 1000) / result.wallMs, 'tokens/s', common);
    if (cpuBefore !== null && cpuAfter !== null) {
      report.add('main thread CPU', cpuShares(cpuBefore, cpuAfter, wallMs).main * 100, '% of a core', common);
    }
    report.client(result.cpuShare, common);
  } finally {
    await client.stop();
    await server.stop();
  }
}
