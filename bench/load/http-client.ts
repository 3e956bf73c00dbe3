// autocannon in a process of its own (forked by client-process.ts), so that its CPU can be told from the server's.
import autocannon from 'autocannon';

export interface HttpJob {
  url: string;
  connections: number;
  seconds: number;
  /** JSON of a POST; without it the request is a GET. */
  body: string | null;
}

export interface HttpResult {
  requestsPerSecond: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  /** Answers other than 2xx, errors and timeouts. */
  failed: number;
  cpuShare: number;
}

async function runJob({ url, connections, seconds, body }: HttpJob): Promise<HttpResult> {
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const post = { method: 'POST' as const, headers: { 'content-type': 'application/json' }, body: body ?? '' };
  const result = await autocannon({ url, connections, duration: seconds, ...(body === null ? {} : post) });
  const { user, system } = process.cpuUsage(cpu);
  return {
    requestsPerSecond: result.requests.average,
    p50Ms: result.latency.p50,
    p99Ms: result.latency.p99,
    maxMs: result.latency.max,
    failed: result.non2xx + result.errors + result.timeouts,
    cpuShare: (user + system) / 1000 / (performance.now() - startMs),
  };
}

process.on('message', (job: HttpJob) => {
  runJob(job).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ ready: true });
