// A load generator in a process of its own (forked by client-process.ts): takes a job by message, answers with the
// records of its requests and the CPU it took. One job at a time; it ends when its parent disconnects.
import http from 'node:http';
import type { CreateOptions, LatencyClass } from '../../protocol/messages.ts';
import { NativeLink } from './native-link.ts';
import type { RequestRecord } from './records.ts';
import { sseRequest } from './sse-request.ts';

export interface LoadJob {
  /** http://host:port */
  url: string;
  /** Of the API, where one is needed; native only. */
  key?: string;
  transport: 'native' | 'sse';
  /** Sockets that the streams share, native only. */
  sockets: number;
  streams: number;
  /**
   * burst: every stream sends one request. closed: each sends its next one when one ended, until forMs is over; their
   * first answers are of all lengths, since streams that begin together would end and ask together for many rounds.
   */
  mode: 'burst' | 'closed';
  forMs: number;
  /** User messages, used in order and then again from the first. */
  prompts: string[];
  maxTokens: number;
  class: LatencyClass;
  /** For servers that want it named; SSE only. */
  model?: string;
  /** Ask for each token's log-probability, with so many alternatives; SSE only. */
  logprobs?: number;
}

export interface LoadResult {
  startMs: number;
  records: RequestRecord[];
  failed: number;
  /** Some of the errors. */
  errors: string[];
  /** CPU time of this process per wall time; 1 is one core. */
  cpuShare: number;
  /** Frames received, native only. */
  numFrames: number;
  numBytes: number;
}

/** Sends one request; exactly one of the callbacks follows. */
type Ask = (
  stream: number,
  prompt: string,
  maxTokens: number,
  record: RequestRecord,
  done: (error: string | null) => void,
) => void;

const MAX_ERRORS = 5;

async function runJob(job: LoadJob): Promise<LoadResult> {
  const links = job.transport === 'native' ? await openLinks(job) : [];
  const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
  const ask = job.transport === 'native' ? nativeAsk(job, links) : sseAsk(job, agent);
  const records: RequestRecord[] = [];
  const errors: string[] = [];
  let failed = 0;
  let numSent = 0;
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const endMs = startMs + job.forMs;

  const stream = (index: number): Promise<void> =>
    new Promise((resolve) => {
      const next = (maxTokens: number): void => {
        const prompt = job.prompts[numSent++ % job.prompts.length]!;
        const record = newRecord(performance.now());
        ask(index, prompt, maxTokens, record, (error) => {
          if (error === null) records.push(record);
          else if (++failed <= MAX_ERRORS) errors.push(error);
          if (job.mode === 'closed' && error === null && performance.now() < endMs) next(job.maxTokens);
          else resolve();
        });
      };
      next(job.mode === 'burst' ? job.maxTokens : Math.ceil((job.maxTokens * (index + 1)) / job.streams));
    });
  await Promise.all(Array.from({ length: job.streams }, (_, index) => stream(index)));

  const wallMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(cpu);
  const numFrames = links.reduce((total, link) => total + link.numFrames, 0);
  const numBytes = links.reduce((total, link) => total + link.numBytes, 0);
  for (const link of links) link.close();
  agent.destroy();
  const cpuShare = (user + system) / 1000 / wallMs;
  return { startMs, records, failed, errors, cpuShare, numFrames, numBytes };
}

function newRecord(sentAtMs: number): RequestRecord {
  return {
    sentAtMs,
    arrivals: [],
    endAtMs: NaN,
    promptTokens: 0,
    completionTokens: 0,
    cachedTokens: 0,
    timings: null,
  };
}

/** Each stream has a lane of its own. */
async function openLinks(job: LoadJob): Promise<NativeLink[]> {
  const url = `${job.url.replace('http', 'ws')}/v1/stream`;
  const links = await Promise.all(Array.from({ length: job.sockets }, () => NativeLink.open(url, job.key)));
  for (let index = 0; index < job.streams; index++) {
    links[index % links.length]!.openLane(laneOf(index, links.length), job.class);
  }
  return links;
}

function laneOf(stream: number, numLinks: number): number {
  return 1 + Math.floor(stream / numLinks);
}

function nativeAsk(job: LoadJob, links: NativeLink[]): Ask {
  return (stream, prompt, maxTokens, record, done) => {
    const options: CreateOptions = {
      messages: [{ role: 'user', content: prompt }],
      sampling: { temperature: 0, maxTokens, ignoreEos: true },
    };
    links[stream % links.length]!.create(laneOf(stream, links.length), options, {
      onText: (atMs, units) => record.arrivals.push({ atMs, units }),
      onDone(atMs, _reason, { promptTokens, completionTokens, cachedTokens }, timings) {
        Object.assign(record, { endAtMs: atMs, promptTokens, completionTokens, cachedTokens, timings });
        done(null);
      },
      onError: done,
    });
  };
}

function sseAsk(job: LoadJob, agent: http.Agent): Ask {
  return (_stream, prompt, maxTokens, record, done) => {
    const body = {
      ...(job.model === undefined ? {} : { model: job.model }),
      ...(job.logprobs === undefined ? {} : { logprobs: true, top_logprobs: job.logprobs }),
      messages: [{ role: 'user', content: prompt }],
      temperature: 0,
      max_tokens: maxTokens,
      ignore_eos: true,
    };
    sseRequest(job.url, agent, body, {
      onText: (atMs, text) => record.arrivals.push({ atMs, units: text.length }),
      onDone(atMs, promptTokens, completionTokens) {
        Object.assign(record, { endAtMs: atMs, promptTokens, completionTokens });
        done(null);
      },
      onError: done,
    });
  };
}

process.on('message', (job: LoadJob) => {
  runJob(job).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ ready: true });
