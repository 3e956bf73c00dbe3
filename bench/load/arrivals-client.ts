// An open-loop load generator (forked by client-process.ts): requests of many flows arrive at random times, whatever
// becomes of those before, as at a house that is too full. A flow is one class of one tenant; it never tries again.
import type { LatencyClass } from '../../protocol/messages.ts';
import { random } from '../../test/support/random.ts';
import { NativeLink } from './native-link.ts';
import type { RequestRecord } from './records.ts';

export interface Flow {
  tenant: string;
  key: string;
  class: LatencyClass;
  /** Mean of a Poisson process. */
  perSecond: number;
  maxTokens: number;
  /** User messages, used in order and then again from the first. */
  prompts: string[];
}

export interface ArrivalsJob {
  /** ws://host:port/v1/stream */
  url: string;
  flows: Flow[];
  forMs: number;
  seed: number;
}

export interface FlowResult {
  numSent: number;
  /** Also of requests that had not ended when the time was over; their end is NaN. */
  records: RequestRecord[];
  /** By error code. */
  refused: Record<string, number>;
  /** What the refused were advised, milliseconds; one entry for each that was advised anything. */
  advices: number[];
}

export interface ArrivalsResult {
  startMs: number;
  endMs: number;
  flows: FlowResult[];
  /** CPU time of this process per wall time; 1 is one core. */
  cpuShare: number;
}

const LANE = 1;

async function runJob(job: ArrivalsJob): Promise<ArrivalsResult> {
  const links = await Promise.all(job.flows.map(({ key }) => NativeLink.open(job.url, key)));
  const next = random(job.seed);
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const flows = await Promise.all(
    job.flows.map((flow, index) => {
      links[index]!.openLane(LANE, flow.class);
      return runFlow(flow, links[index]!, startMs + job.forMs, next);
    }),
  );
  const endMs = performance.now();
  // Ends on purpose: what still runs is cancelled.
  for (const link of links) link.close();
  const { user, system } = process.cpuUsage(cpu);
  return { startMs, endMs, flows, cpuShare: (user + system) / 1000 / (endMs - startMs) };
}

function runFlow(flow: Flow, link: NativeLink, untilMs: number, next: () => number): Promise<FlowResult> {
  const result: FlowResult = { numSent: 0, records: [], refused: {}, advices: [] };
  const pauseMs = (): number => (-Math.log(1 - next()) * 1000) / flow.perSecond;
  return new Promise((resolve) => {
    let dueMs = performance.now() + pauseMs();
    const arrive = (): void => {
      for (; dueMs <= performance.now() && dueMs < untilMs; dueMs += pauseMs()) ask(flow, link, result);
      if (dueMs < untilMs) setTimeout(arrive, dueMs - performance.now());
      else setTimeout(() => resolve(result), untilMs - performance.now());
    };
    arrive();
  });
}

function ask(flow: Flow, link: NativeLink, result: FlowResult): void {
  const content = flow.prompts[result.numSent++ % flow.prompts.length]!;
  const record: RequestRecord = {
    sentAtMs: performance.now(),
    arrivals: [],
    endAtMs: NaN,
    promptTokens: 0,
    completionTokens: 0,
    cachedTokens: 0,
    timings: null,
  };
  result.records.push(record);
  const sampling = { temperature: 0, maxTokens: flow.maxTokens, ignoreEos: true };
  link.create(
    LANE,
    { messages: [{ role: 'user', content }], sampling },
    {
      onText: (atMs, units) => record.arrivals.push({ atMs, units }),
      onDone(atMs, _reason, { promptTokens, completionTokens, cachedTokens }, timings) {
        Object.assign(record, { endAtMs: atMs, promptTokens, completionTokens, cachedTokens, timings });
      },
      onError(message, error) {
        const code = error?.code ?? message;
        result.refused[code] = (result.refused[code] ?? 0) + 1;
        if (error?.retryAfterMs !== undefined) result.advices.push(error.retryAfterMs);
        result.records.splice(result.records.indexOf(record), 1);
      },
    },
  );
}

process.on('message', (job: ArrivalsJob) => {
  runJob(job).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ ready: true });
