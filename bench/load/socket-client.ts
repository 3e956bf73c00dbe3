// Many native connections in one process (forked by client-process.ts): opens its share, holds them, and on request
// lets each of them stream one answer after the other. Several such processes share the work of bench `sockets`.
import { percentile } from '../statistics.ts';
import { NativeLink } from './native-link.ts';

export type SocketJob =
  | { op: 'open'; url: string; count: number; atOnce: number }
  /** Every connection streams answers for so long. */
  | { op: 'stream'; forMs: number; maxTokens: number }
  | { op: 'close' };

export interface SocketResult {
  open: number;
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

async function runJob(job: SocketJob): Promise<SocketResult> {
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const errors: string[] = [];
  const openTimes: number[] = [];
  const gaps: number[] = [];
  let events = 0;
  let failed = 0;
  const framesBefore = countFrames();
  const fail = (error: unknown): void => {
    if (++failed <= MAX_ERRORS) errors.push(String(error));
  };

  if (job.op === 'open') {
    let left = job.count;
    const openNext = async (): Promise<void> => {
      while (left-- > 0) {
        const begun = performance.now();
        try {
          links.push(await NativeLink.open(job.url));
          openTimes.push(performance.now() - begun);
        } catch (error) {
          fail(error);
        }
      }
    };
    await Promise.all(Array.from({ length: job.atOnce }, openNext));
  } else if (job.op === 'stream') {
    const endMs = startMs + job.forMs;
    const streamOn = (link: NativeLink, index: number): Promise<void> =>
      new Promise((resolve) => {
        let turn = 0;
        const next = (): void => {
          let lastMs = NaN;
          const messages = [{ role: 'user' as const, content: `connection ${index} turn ${turn++}` }];
          const sampling = { temperature: 0, maxTokens: job.maxTokens, ignoreEos: true };
          link.create(
            0,
            { messages, sampling },
            {
              onText(atMs, count) {
                events += count;
                if (!Number.isNaN(lastMs)) gaps.push(atMs - lastMs);
                lastMs = atMs;
              },
              onDone: () => (performance.now() < endMs ? next() : resolve()),
              onError(message) {
                fail(message);
                resolve();
              },
            },
          );
        };
        next();
      });
    await Promise.all(links.map(streamOn));
  } else {
    for (const link of links.splice(0)) link.close();
  }

  const wallMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(cpu);
  return {
    open: links.length,
    failed,
    errors,
    openP50Ms: percentile(openTimes, 0.5),
    openP99Ms: percentile(openTimes, 0.99),
    events,
    frames: countFrames() - framesBefore,
    wallMs,
    gapP50Ms: percentile(gaps, 0.5),
    gapP99Ms: percentile(gaps, 0.99),
    cpuShare: (user + system) / 1000 / wallMs,
  };
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
