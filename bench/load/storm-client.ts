// The clients of bench `storm` in one process (forked by client-process.ts): all open a connection, some ask for an
// answer, all lose their connection at once, and all come back at once, those with an answer to resume it.
import { setTimeout as sleep } from 'node:timers/promises';
import { percentile } from '../statistics.ts';
import { NativeLink } from './native-link.ts';
import type { NativeObserver } from './native-link.ts';

export type StormJob =
  /** Opens `clients` connections, `atOnce` at a time; the first `resuming` of them each ask for an answer. */
  | { op: 'prepare'; url: string; clients: number; resuming: number; atOnce: number; maxTokens: number }
  | { op: 'drop' }
  /** All come back; the job ends when each has its welcome and, where it had an answer, its Resumed. */
  | { op: 'storm'; url: string; atOnce: number }
  /** Waits for the ends of the resumed answers, then closes. */
  | { op: 'finish'; timeoutMs: number };

export interface StormResult {
  open: number;
  /** Answers that went on where they were cut off; of `finish`: answers that came to their end. */
  recovered: number;
  failed: number;
  /** Some of the errors. */
  errors: string[];
  wallMs: number;
  /** From the first attempt of all until this client was back. */
  backP50Ms: number;
  backP99Ms: number;
  cpuShare: number;
}

interface Client {
  link: NativeLink | null;
  answer: { response: string; epoch: string; seq: number; isEnded: boolean; error: string | null } | null;
}

const MAX_ERRORS = 3;
let clients: Client[] = [];

async function runJob(job: StormJob): Promise<StormResult> {
  const result = { recovered: 0, failed: 0, errors: [] as string[] };
  const times: number[] = [];
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const fail = (error: unknown): void => {
    if (++result.failed <= MAX_ERRORS) result.errors.push(String(error));
  };
  /** Every client does `work`, `atOnce` at a time. */
  const all = async (atOnce: number, work: (client: Client, index: number) => Promise<void>): Promise<void> => {
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < clients.length) {
        const index = next++;
        try {
          await work(clients[index]!, index);
          times.push(performance.now() - startMs);
        } catch (error) {
          fail(error);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(atOnce, clients.length) }, worker));
  };

  if (job.op === 'prepare') {
    clients = Array.from({ length: job.clients }, () => ({ link: null, answer: null }));
    await all(job.atOnce, async (client, index) => {
      client.link = await NativeLink.open(job.url);
      if (index < job.resuming) await ask(client, index, job.maxTokens);
    });
  } else if (job.op === 'drop') {
    for (const client of clients) client.link?.drop();
  } else if (job.op === 'storm') {
    await all(job.atOnce, async (client) => {
      client.link = await NativeLink.open(job.url);
      if (client.answer !== null && (await resume(client))) result.recovered++;
    });
  } else {
    const resumed = clients.flatMap(({ answer }) => answer ?? []);
    const endMs = performance.now() + job.timeoutMs;
    while (performance.now() < endMs && !resumed.every(({ isEnded, error }) => isEnded || error !== null))
      await sleep(50);
    result.recovered = resumed.filter(({ isEnded }) => isEnded).length;
    for (const { isEnded, error } of resumed) if (!isEnded) fail(error ?? `no end in ${job.timeoutMs} ms`);
    for (const client of clients) client.link?.close();
  }

  const wallMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(cpu);
  return {
    ...result,
    open: clients.filter(({ link }) => link !== null).length,
    wallMs,
    backP50Ms: percentile(times, 0.5),
    backP99Ms: percentile(times, 0.99),
    cpuShare: (user + system) / 1000 / wallMs,
  };
}

/** Notes what arrives of the answer. */
function watch(client: Client, onError: (message: string) => void): NativeObserver {
  return {
    onText(_atMs, events) {
      if (client.answer !== null) client.answer.seq += events;
    },
    onDone() {
      if (client.answer === null) return;
      client.answer.seq++;
      client.answer.isEnded = true;
    },
    onError(message) {
      if (client.answer !== null) client.answer.error = message;
      onError(message);
    },
  };
}

function ask(client: Client, index: number, maxTokens: number): Promise<void> {
  const sampling = { temperature: 0, maxTokens, ignoreEos: true };
  const messages = [{ role: 'user' as const, content: `client ${index} of ${process.pid}` }];
  return new Promise((resolve, reject) => {
    client.link!.create(
      0,
      { messages, sampling },
      {
        ...watch(client, (message) => reject(new Error(message))),
        onCreated(_handle, response, epoch) {
          client.answer = { response, epoch, seq: 0, isEnded: false, error: null };
          resolve();
        },
      },
    );
  });
}

function resume(client: Client): Promise<boolean> {
  const { response, epoch, seq } = client.answer!;
  return new Promise((resolve, reject) => {
    client.link!.resume(
      0,
      { response, epoch, lastSeq: seq },
      {
        ...watch(client, (message) => reject(new Error(message))),
        onResumed: resolve,
      },
    );
  });
}

process.on('message', (job: StormJob) => {
  runJob(job).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ ready: true });
