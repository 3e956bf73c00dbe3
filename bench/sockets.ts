// Bench `sockets`: memory of idle connections and how long opening takes, then many connections that all stream from the
// fake model. The connections live in client processes of their own; the file-descriptor limit bounds their number.
import { setTimeout as sleep } from 'node:timers/promises';
import { readMachine } from '../src/machine.ts';
import type { Bench } from './bench.ts';
import { ClientProcess } from './load/client-process.ts';
import type { SocketJob, SocketResult } from './load/socket-client.ts';
import type { Report } from './report.ts';
import { cpuShares, defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, sum } from './statistics.ts';

/** Descriptors a process needs besides its connections; the server keeps 500 free (MAX_CONNECTIONS). */
const RESERVED_DESCRIPTORS = 600;
const AT_ONCE = 64;
/** Until the server's memory has settled after many handshakes. */
const SETTLE_MS = 2500;
/** More than any stream gets to while it is measured. */
const MAX_TOKENS = 4000;

type Client = ClientProcess<SocketJob, SocketResult>;

export const bench: Bench = {
  flags: {
    idle: { kind: 'list', fallback: '1000,10000', meaning: 'idle connections' },
    streaming: { kind: 'integer', fallback: '1000', meaning: 'connections that all stream' },
    step: { kind: 'integer', fallback: '20', meaning: "ms of the fake model's step" },
    ms: { kind: 'integer', fallback: '5000', meaning: 'time of streaming' },
    clients: { kind: 'integer', fallback: '2', meaning: 'client processes' },
  },
  async run(flags, report) {
    const numClients = Math.max(1, flags.integer('clients'));
    const limit = readMachine().fileDescriptors;
    const most = Math.min(limit - RESERVED_DESCRIPTORS, numClients * (limit - RESERVED_DESCRIPTORS));
    for (const wanted of flags.list('idle')) {
      if (wanted > most) report.add('connections left out', wanted - most, 'connections', { descriptorLimit: limit });
      await measureIdle(report, numClients, Math.min(wanted, most));
    }
    const streaming = Math.min(flags.integer('streaming'), most);
    if (streaming > 0) await measureStreams(report, numClients, streaming, flags.integer('step'), flags.integer('ms'));
  },
};

async function withClients(numClients: number, work: (clients: Client[]) => Promise<void>): Promise<void> {
  const starting = Array.from({ length: numClients }, () =>
    ClientProcess.start<SocketJob, SocketResult>('socket-client.ts'),
  );
  const clients = await Promise.all(starting);
  try {
    await work(clients);
  } finally {
    await Promise.all(clients.map((client) => client.stop()));
  }
}

async function open(clients: Client[], url: string, total: number): Promise<SocketResult[]> {
  const share = Math.ceil(total / clients.length);
  const jobs = clients.map((client, i) => {
    const count = Math.max(0, Math.min(share, total - i * share));
    return client.run({ op: 'open', url, count, atOnce: AT_ONCE });
  });
  const results = await Promise.all(jobs);
  const failed = sum(results.map((result) => result.failed));
  if (failed > 0)
    throw new Error(`${failed} connections failed: ${results.flatMap(({ errors }) => errors).join('; ')}`);
  return results;
}

async function measureIdle(report: Report, numClients: number, connections: number): Promise<void> {
  const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings: { MODEL: 'fake:' } });
  try {
    await withClients(numClients, async (clients) => {
      // The first connections make the server load and compile what all others use.
      await open(clients, server.streamUrl, 200);
      await sleep(SETTLE_MS);
      const before = server.memoryKb('VmRSS');
      const results = await open(clients, server.streamUrl, connections);
      await sleep(SETTLE_MS);
      const at = { connections };
      report.add('memory per idle connection', ((server.memoryKb('VmRSS') - before) * 1024) / connections, 'bytes', at);
      report.add('open, p50', largest(results.map(({ openP50Ms }) => openP50Ms)), 'ms', { ...at, atOnce: AT_ONCE });
      report.add('open, p99', largest(results.map(({ openP99Ms }) => openP99Ms)), 'ms', { ...at, atOnce: AT_ONCE });
      const wallMs = largest(results.map((result) => result.wallMs));
      report.add('opened', (connections * 1000) / wallMs, 'connections/s', at);
      report.client(largest(results.map(({ cpuShare }) => cpuShare)), { ...at, while: 'opening' });
      const cpuBefore = server.cpu();
      const begun = performance.now();
      await sleep(SETTLE_MS);
      const cpuAfter = server.cpu();
      if (cpuBefore === null || cpuAfter === null) return;
      const { main } = cpuShares(cpuBefore, cpuAfter, performance.now() - begun);
      report.add('main thread CPU, all idle', main * 100, '% of a core', at);
    });
  } finally {
    await server.stop();
  }
}

async function measureStreams(
  report: Report,
  numClients: number,
  connections: number,
  stepMs: number,
  forMs: number,
): Promise<void> {
  // Half of the slots are rows that decode. A step of the fake model keeps a core busy, so there is only one worker.
  const slots = Math.min(4096, 2 * connections + 8);
  const settings = { MODEL: `fake:stepMs=${stepMs}`, SLOTS: String(slots), WORKERS: '1' };
  const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings });
  try {
    await withClients(numClients, async (clients) => {
      await open(clients, server.streamUrl, connections);
      // A busy worker admits one prompt per step.
      const rampMs = 5000 + 2 * connections * stepMs;
      const job: SocketJob = { op: 'stream', rampMs, forMs, maxTokens: MAX_TOKENS };
      const results = await Promise.all(clients.map((client) => client.run(job)));
      const at = { connections, stepMs };
      const wallMs = largest(results.map((result) => result.wallMs));
      report.add('streaming', sum(results.map(({ streaming }) => streaming)), 'connections', at);
      const failed = sum(results.map((result) => result.failed));
      report.add('failed', failed, 'answers', at);
      report.add('delivered', (sum(results.map(({ events }) => events)) * 1000) / wallMs, 'tokens/s', at);
      report.add('frames', (sum(results.map(({ frames }) => frames)) * 1000) / wallMs, 'frames/s', at);
      report.add('gap p50', largest(results.map(({ gapP50Ms }) => gapP50Ms)), 'ms', at);
      report.add('gap p99', largest(results.map(({ gapP99Ms }) => gapP99Ms)), 'ms', at);
      report.client(largest(results.map(({ cpuShare }) => cpuShare)), { ...at, clients: numClients });
    });
  } finally {
    await server.stop();
  }
}
