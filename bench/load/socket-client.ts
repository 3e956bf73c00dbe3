// Many native connections in one process (forked by client-process.ts): opens its share, holds them, and on request
// lets each of them (or each of their lanes) stream one answer, or ask for one and never acknowledge it. Several such
// processes share the work of the benches `sockets`, `stalled` and `delay`.
import { setTimeout as sleep } from 'node:timers/promises';
import type { LatencyClass } from '../../protocol/messages.ts';
import { percentile } from '../statistics.ts';
import { NativeLink } from './native-link.ts';

export type SocketJob =
  /** `lanes` of this class on each connection; without, answers stream on lane 0. */
  | { op: 'open'; url: string; count: number; atOnce: number; lanes?: { count: number; class: LatencyClass } }
  /** Every connection asks for an answer and stalls: every second one reads nothing, the others never acknowledge. */
  | { op: 'stall'; maxTokens: number }
  /** Every connection or lane streams one long answer; measured for forMs once all stream or rampMs are over, then cut off. */
  | { op: 'stream'; rampMs: number; forMs: number; maxTokens: number }
  | { op: 'close' };

export interface SocketResult {
  open: number;
  /** Connections or lanes that streamed, or that stalled. */
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
/** Where answers stream. */
const seats: { link: NativeLink; lane: number }[] = [];

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
  else if (job.op === 'stall') await timed(notes, () => stall(job.maxTokens, notes));
  else closeAll();
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

function closeAll(): void {
  seats.length = 0;
  for (const link of links.splice(0)) link.close();
}

async function open(job: Extract<SocketJob, { op: 'open' }>, notes: Notes): Promise<void> {
  let left = job.count;
  const openNext = async (): Promise<void> => {
    while (left-- > 0) {
      const begun = performance.now();
      try {
        const link = await NativeLink.open(job.url);
        links.push(link);
        if (job.lanes === undefined) seats.push({ link, lane: 0 });
        for (let lane = 1; lane <= (job.lanes?.count ?? 0); lane++) {
          link.openLane(lane, job.lanes!.class);
          seats.push({ link, lane });
        }
        notes.openTimes.push(performance.now() - begun);
      } catch (error) {
        fail(notes, error);
      }
    }
  };
  await Promise.all(Array.from({ length: job.atOnce }, openNext));
}

async function stall(maxTokens: number, notes: Notes): Promise<void> {
  const sampling = { temperature: 0, maxTokens, ignoreEos: true };
  const asked = links.map((link, index) => {
    return new Promise<void>((resolve) => {
      const options = {
        messages: [{ role: 'user' as const, content: `stalled ${index} of ${process.pid}` }],
        sampling,
      };
      link.create(0, options, {
        onCreated() {
          link.stall(index % 2 === 0);
          notes.streaming++;
          resolve();
        },
        onText: () => undefined,
        onDone: () => undefined,
        onError(message) {
          fail(notes, message);
          resolve();
        },
      });
    });
  });
  await Promise.all(asked);
}

async function stream(job: { rampMs: number; forMs: number; maxTokens: number }, notes: Notes): Promise<void> {
  let isMeasuring = false;
  const sampling = { temperature: 0, maxTokens: job.maxTokens, ignoreEos: true };
  const begun = seats.map(({ link, lane }, index) => {
    let lastMs = NaN;
    return new Promise<void>((resolve) => {
      const options = { messages: [{ role: 'user' as const, content: `stream ${index}` }], sampling };
      link.create(lane, options, {
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
  closeAll();
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
