// Bench `http`: requests per second and their latency for plain endpoints and for complete answers of the fake model,
// which costs next to nothing, so that what is measured is the front end.
import type { Bench } from './bench.ts';
import { ClientProcess } from './load/client-process.ts';
import type { HttpJob, HttpResult } from './load/http-client.ts';
import { cpuShares, defaultCacheDir, ServerProcess } from './server-process.ts';

const completion = JSON.stringify({
  messages: [{ role: 'user', content: 'Say something short, please.' }],
  temperature: 0,
  max_tokens: 8,
  ignore_eos: true,
});

const cases: readonly { path: string; body: string | null }[] = [
  { path: '/healthz', body: null },
  { path: '/v1/models', body: null },
  { path: '/v1/chat/completions', body: completion },
];

export const bench: Bench = {
  flags: {
    connections: { kind: 'integer', fallback: '32', meaning: 'connections of autocannon' },
    seconds: { kind: 'integer', fallback: '5', meaning: 'time of one case' },
  },
  async run(flags, report) {
    const connections = flags.integer('connections');
    const seconds = flags.integer('seconds');
    const settings = { MODEL: 'fake:', SLOTS: String(Math.max(64, 2 * connections)) };
    const server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings });
    const client = await ClientProcess.start<HttpJob, HttpResult>('http-client.ts');
    try {
      for (const { path, body } of cases) {
        const job = { url: `${server.url}${path}`, connections, body };
        await client.run({ ...job, seconds: 1 });
        const before = server.cpu();
        const begun = performance.now();
        const result = await client.run({ ...job, seconds });
        const wallMs = performance.now() - begun;
        const after = server.cpu();
        const at = { path, connections };
        report.add('requests', result.requestsPerSecond, 'requests/s', at);
        report.add('latency p50', result.p50Ms, 'ms', at);
        report.add('latency p99', result.p99Ms, 'ms', at);
        report.add('latency max', result.maxMs, 'ms', at);
        report.add('failed', result.failed, 'requests', at);
        report.client(result.cpuShare, at);
        if (before === null || after === null) continue;
        report.add('main thread CPU', cpuShares(before, after, wallMs).main * 100, '% of a core', at);
      }
    } finally {
      await client.stop();
      await server.stop();
    }
  },
};
