// Many native connections in one process (forked by client-process.ts): opens its share, holds them, and on request
// lets each of them stream one answer after the other. Several such processes share the work of bench `sockets`.
import { setTimeout as sleep } from 'node:timers/promises';
import { percentile } from '../statistics.ts';
import { NativeLink } from './native-link.ts';

export type SocketJob =
  | { op: 'open'; url: string; count: number; atOnce: number }
  /** Every connection streams one long answer; measured for forMs once all stream or rampMs are over, then cut off. */
  | { op: 'stream'; rampMs: number; forMs: number; maxTokens: number }
  | { op: 'close' };

export interface SocketResult {
  open: number;
  /** Connections that streamed. */
  streaming: number;
  failed: number;
  /** Some of the errors. */
  errors: string[];
  /** Of opening one connection: connect, upgrade, hello. */
  openP50Ms: number;
  openP99Ms: number;
  events: number;
  frames: number;
  wallMs: number;
  gapP50Ms: number;
  gapP99Ms: number;
  cpuShare: number;
}

const MAX_ERRORS = 3;
const links: NativeLink[] = [];

type Notes = Pick<SocketResult, 'streaming' | 'failed' | 'errors' | 'events' | 'frames' | 'wallMs' | 'cpuShare'> & {
  openTimes: number[];
  gaps: number[];
};

async function runJob(job: SocketJob): Promise<SocketResult> {
  const notes: Notes = {
    streaming: 0,
    failed: 0,
    errors: [],
    events: 0,
    frames: 0,
    wallMs: 0,
    cpuShare: 0,
    openTimes: [],
    gaps: [],
  };
  if (job.op === 'open') await timed(notes, () => open(job, notes));
  else if (job.op === 'stream') await stream(job, notes);
  else for (const link of links.splice(0)) link.close();
  const { openTimes, gaps, ...counts } = notes;
  return {
    ...counts,
    open: links.length,
    openP50Ms: percentile(openTimes, 0.5),
    openP99Ms: percentile(openTimes, 0.99),
    gapP50Ms: percentile(gaps, 0.5),
    gapP99Ms: percentile(gaps, 0.99),
  };
}

async function timed(notes: Notes, work: () => Promise<unknown>): Promise<void> {
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const frames = countFrames();
  await work();
  notes.wallMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(cpu);
  notes.cpuShare = (user + system) / 1000 / notes.wallMs;
  notes.frames = countFrames() - frames;
}

function fail(notes: Notes, error: unknown): void {
  if (++notes.failed <= MAX_ERRORS) notes.errors.push(String(error));
}

async function open(job: { url: string; count: number; atOnce: number }, notes: Notes): Promise<void> {
  let left = job.count;
  const openNext = async (): Promise<void> => {
    while (left-- > 0) {
      const begun = performance.now();
      try {
        links.push(await NativeLink.open(job.url));
        notes.openTimes.push(performance.now() - begun);
      } catch (error) {
        fail(notes, error);
      }
    }
  };
  await Promise.all(Array.from({ length: job.atOnce }, openNext));
}

async function stream(job: { rampMs: number; forMs: number; maxTokens: number }, notes: Notes): Promise<void> {
  let isMeasuring = false;
  const sampling = { temperature: 0, maxTokens: job.maxTokens, ignoreEos: true };
  const begun = links.map((link, index) => {
    let lastMs = NaN;
    return new Promise<void>((resolve) => {
      const options = { messages: [{ role: 'user' as const, content: `connection ${index}` }], sampling };
      link.create(0, options, {
        onText(atMs, count) {
          if (Number.isNaN(lastMs)) {
            notes.streaming++;
            resolve();
          } else if (isMeasuring) {
            notes.events += count;
            notes.gaps.push(atMs - lastMs);
          }
          lastMs = atMs;
        },
        onDone: () => resolve(),
        onError(message) {
          if (links.includes(link)) fail(notes, message);
          resolve();
        },
      });
    });
  });
  await Promise.race([Promise.all(begun), sleep(job.rampMs)]);
  await timed(notes, async () => {
    isMeasuring = true;
    await sleep(job.forMs);
    isMeasuring = false;
  });
  for (const link of links.splice(0)) link.close();
}

function countFrames(): number {
  return links.reduce((total, link) => total + link.numFrames, 0);
}

process.on('message', (job: SocketJob) => {
  runJob(job).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ ready: true });
