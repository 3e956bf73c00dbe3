// Bench `storm`: all clients lose their connections at once and come back at once, some of them to resume a running
// answer. The goal is all of 10,000 within five seconds and none refused. The file-descriptor limit of one process, the
// server's, bounds their number.
import { setTimeout as sleep } from 'node:timers/promises';
import { readMachine } from '../src/machine.ts';
import type { Bench } from './bench.ts';
import { ClientProcess } from './load/client-process.ts';
import type { StormJob, StormResult } from './load/storm-client.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, sum } from './statistics.ts';

/** Descriptors a process needs besides its connections; the server keeps 500 free (MAX_CONNECTIONS). */
const RESERVED_DESCRIPTORS = 600;
const PREPARE_AT_ONCE = 64;
/** Until the server has heard of all lost connections. */
const LOST_MS = 1000;
const FINISH_MS = 60_000;

export const bench: Bench = {
  flags: {
    connections: { kind: 'integer', fallback: '10000', meaning: 'clients that come back' },
    resuming: { kind: 'integer', fallback: '1000', meaning: 'clients of these that resume an answer, at most 1000' },
    tokens: { kind: 'integer', fallback: '200', meaning: 'length of these answers' },
    step: { kind: 'integer', fallback: '10', meaning: "ms of the fake model's step" },
    clients: { kind: 'integer', fallback: '4', meaning: 'client processes' },
    'at-once': { kind: 'integer', fallback: '10000', meaning: 'attempts under way at once, over all processes' },
  },
  async run(flags, report) {
    const { fileDescriptors } = readMachine();
    const connections = Math.min(flags.integer('connections'), fileDescriptors - RESERVED_DESCRIPTORS);
    const numClients = Math.max(1, flags.integer('clients'));
    const share = (total: number): number => Math.ceil(total / numClients);
    const resuming = Math.min(share(flags.integer('resuming')) * numClients, connections);
    const settings = {
      MODEL: `fake:stepMs=${flags.integer('step')}`,
      SLOTS: '2048',
      WORKERS: '1',
      MAX_CONTEXT: '2048',
    };
    const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings });
    const starting = Array.from({ length: numClients }, () =>
      ClientProcess.start<StormJob, StormResult>('storm-client.ts'),
    );
    const clients = await Promise.all(starting);
    const all = async (what: string, job: StormJob): Promise<StormResult[]> => {
      const results = await Promise.all(clients.map((client) => client.run(job)));
      const failed = sum(results.map((result) => result.failed));
      if (failed > 0) {
        throw new Error(`${failed} clients failed to ${what}: ${results.flatMap(({ errors }) => errors).join('; ')}`);
      }
      return results;
    };
    const url = server.streamUrl;
    try {
      await all('prepare', {
        op: 'prepare',
        url,
        clients: share(connections),
        resuming: share(resuming),
        atOnce: share(PREPARE_AT_ONCE),
        maxTokens: flags.integer('tokens'),
      });
      await all('drop', { op: 'drop' });
      await sleep(LOST_MS);
      const running = (await server.metrics()).value('requests_running');
      const results = await all('come back', { op: 'storm', url, atOnce: share(flags.integer('at-once')) });
      const at = { connections: sum(results.map(({ open }) => open)), descriptorLimit: fileDescriptors };
      report.add('all back after', largest(results.map(({ wallMs }) => wallMs)), 'ms', { ...at, running });
      report.add('back, p50', largest(results.map(({ backP50Ms }) => backP50Ms)), 'ms', at);
      report.add('back, p99', largest(results.map(({ backP99Ms }) => backP99Ms)), 'ms', at);
      report.add('resumed', sum(results.map(({ recovered }) => recovered)), 'answers', { ...at, resuming });
      report.client(largest(results.map(({ cpuShare }) => cpuShare)), { ...at, clients: numClients });
      const ended = await all('finish', { op: 'finish', timeoutMs: FINISH_MS });
      report.add('came to their end', sum(ended.map(({ recovered }) => recovered)), 'answers', { ...at, resuming });
    } finally {
      await Promise.all(clients.map((client) => client.stop()));
      await server.stop();
    }
  },
};
