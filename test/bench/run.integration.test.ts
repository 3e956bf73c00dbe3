// Benches as a user starts them, against the real server with the fake model, for a moment each.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { benches } from '../../bench/bench.ts';
import { ClientProcess } from '../../bench/load/client-process.ts';
import type { LoadJob, LoadResult } from '../../bench/load/load-client.ts';
import { defaultCacheDir, ServerProcess } from '../../bench/server-process.ts';

const RUN = fileURLToPath(new URL('../../bench/run.ts', import.meta.url));
/** Long enough for more than one answer of twenty tokens on a slow machine. */
const FOR_MS = 1500;
const run = (...args: string[]): Promise<{ stdout: string; stderr: string }> =>
  promisify(execFile)(process.execPath, [RUN, ...args]);

describe('npm run bench', () => {
  it('lists all benches with --help', async () => {
    const { stdout } = await run('--help');
    for (const name of ['codec', 'decode', 'serve', 'stall', 'memory']) expect(stdout).toContain(name);
    // One column of names, one of questions.
    const columns = [...stdout.matchAll(/^ {2}([a-z]+ +)\S/gm)].map(([, name]) => name!.length);
    expect(columns).toHaveLength(Object.keys(benches).length);
    expect(new Set(columns).size).toBe(1);
  });

  it('names the benches there are when asked for another', async () => {
    await expect(run('speed')).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^bench: there is no bench "speed"; there are codec, decode, /) as string,
    });
    await expect(run('toString')).rejects.toMatchObject({ code: 2 });
  });

  it('names a flag that a bench does not have', async () => {
    await expect(run('codec', '--streams', '4')).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining('unknown flag --streams') as string,
    });
  });

  it('runs codec, and a delta in a batch takes at most 16 bytes', async () => {
    const { stdout, stderr } = await run('codec', '--rounds', '2', '--table');
    const results = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { what: string; value: number; at: { deltas?: number }; seed: number });
    const sizes = results.filter(({ what, at }) => what === 'size' && (at.deltas ?? 0) > 1);
    expect(sizes.length).toBeGreaterThan(0);
    for (const { value } of sizes) expect(value).toBeLessThanOrEqual(16);
    expect(results[0]!.seed).toBe(1);
    expect(stderr).toContain('bytes/delta');
  });
});

describe('a load', () => {
  let server: ServerProcess;
  let client: ClientProcess<LoadJob, LoadResult>;

  beforeAll(async () => {
    server = await ServerProcess.start({ cacheDir: defaultCacheDir(), settings: { MODEL: 'fake:stepMs=1' } });
    client = await ClientProcess.start('load-client.ts');
  });

  afterAll(async () => {
    await client?.stop();
    await server?.stop();
  });

  const job = (transport: 'native' | 'sse', mode: 'burst' | 'closed'): LoadJob => ({
    url: server.url,
    transport,
    sockets: 2,
    streams: 4,
    mode,
    forMs: FOR_MS,
    prompts: ['one', 'two', 'three', 'four', 'five'],
    maxTokens: 20,
    class: 'voice',
  });

  it.each(['native', 'sse'] as const)('over %s notes every token of a burst', async (transport) => {
    const { records, failed, cpuShare } = await client.run(job(transport, 'burst'));
    expect(failed).toBe(0);
    expect(records).toHaveLength(4);
    for (const record of records) {
      expect(record.completionTokens).toBe(20);
      expect(record.promptTokens).toBeGreaterThan(0);
      expect(record.arrivals[0]!.atMs).toBeGreaterThan(record.sentAtMs);
      expect(record.endAtMs).toBeGreaterThanOrEqual(record.arrivals.at(-1)!.atMs);
    }
    expect(cpuShare).toBeGreaterThan(0);
  });

  it.each(['native', 'sse'] as const)('over %s keeps every stream busy until the time is over', async (transport) => {
    const { records, failed, startMs } = await client.run(job(transport, 'closed'));
    expect(failed).toBe(0);
    expect(records.length).toBeGreaterThan(4);
    expect(records.filter(({ endAtMs }) => endAtMs >= startMs + FOR_MS)).toHaveLength(4);
  });

  it('says why requests failed', async () => {
    const { failed, errors } = await client.run({ ...job('native', 'burst'), maxTokens: 0 });
    expect(failed).toBe(4);
    expect(errors[0]).toContain('invalid_request');
    const { errors: overHttp } = await client.run({ ...job('sse', 'burst'), maxTokens: 0 });
    expect(overHttp[0]).toContain('status 400');
  });
});
