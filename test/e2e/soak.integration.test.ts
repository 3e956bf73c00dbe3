// A minute of the soak (bench/soak.ts has the hour): every kind of visit at once, also while workers fail. Whatever the
// visitors do, no error is without a name, and when they have left, the server holds nothing of theirs.
//   SOAK_SECONDS=600 SEED=7 npx vitest run --project integration test/e2e/soak
import { afterEach, describe, expect, it } from 'vitest';
import { soak } from '../../bench/soak/soak-run.ts';
import type { SoakResult } from '../../bench/soak/soak-run.ts';
import { TestServer } from './support/test-server.ts';

const seconds = Number(process.env.SOAK_SECONDS ?? 20);
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 20));
/** One a second would be a server that does not come back: five within a minute end the process. */
const FAULT_EVERY_MS = 15_000;
const timeout = (seconds + 300) * 1000;

let server: TestServer | null = null;

afterEach(async () => {
  await server?.stop();
  server = null;
});

async function run(settings: Record<string, string>, faultEveryMs: number): Promise<SoakResult> {
  server = await TestServer.start({ MODEL: 'fake:stepMs=1;faults=1', SLOTS: '32', NODE_ENV: 'test', ...settings });
  const result = await soak({ port: server.port, seconds, visitors: 12, seed, faultEveryMs, minuteMs: 2000 });
  const { visits, ends } = result.ledger;
  console.log(
    `seed ${seed}: ${JSON.stringify(Object.fromEntries(visits))} ${JSON.stringify(Object.fromEntries(ends))}`,
  );
  return result;
}

describe('A busy day', () => {
  it('leaves nothing behind and nothing unexplained', { timeout }, async () => {
    const { ledger, left } = await run({}, 0);
    expect(ledger.unexpected, `seed ${seed}`).toEqual([]);
    expect([...left], `seed ${seed}`).toEqual([]);
    expect(ledger.ends.get('worker_lost')).toBe(undefined);
    expect(ledger.visits.size).toBeGreaterThan(10);
    expect(await server!.metric('responses_parked_total')).toBeGreaterThan(0);
    expect(await server!.metric('timers')).toBeLessThan(5);
    expect(server!.output).not.toMatch(/"level":[56]0/);
  });

  it('loses nothing but what a failing worker held', { timeout }, async () => {
    const { ledger, left } = await run({ WORKERS: '2' }, FAULT_EVERY_MS);
    expect(ledger.unexpected, `seed ${seed}`).toEqual([]);
    expect([...left], `seed ${seed}`).toEqual([]);
    expect(ledger.ends.get('worker_lost')).toBeGreaterThan(0);
    expect(await server!.metric('worker_restarts_total')).toBeGreaterThan(0);
  });
});
