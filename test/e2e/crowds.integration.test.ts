// Many clients at once: all come back in one instant, or all stop reading. CLIENTS sets how many; the benches `storm`
// and `stalled` measure the full sizes from other processes.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import type { Answer } from './support/answer.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const CLIENTS = Number(process.env.CLIENTS ?? 500);
const STALLED = Math.ceil(CLIENTS / 5);
const RESUMING = Math.ceil(CLIENTS / 10);
const sampling = { ignoreEos: true, temperature: 0 };

let server: TestServer;
const clients: NativeClient[] = [];

beforeAll(async () => {
  server = await TestServer.start({
    MODEL: 'fake:stepMs=1',
    SLOTS: '64',
    MAX_CONTEXT: '2048',
    WORKERS: '1',
    DRAIN_TIMEOUT: '0.2',
  });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.drop();
});

afterAll(async () => {
  expect(await server.stop()).toEqual({ code: 0, signal: null });
  expect(server.output).not.toMatch(/"level":[56]0/);
});

async function connect(count: number): Promise<NativeClient[]> {
  const opened = await Promise.all(Array.from({ length: count }, () => NativeClient.connect(server.streamUrl)));
  clients.push(...opened);
  return opened;
}

describe(`${CLIENTS} clients that lose their connections`, () => {
  it(`are all back at once, ${RESUMING} of them in the middle of an answer`, async () => {
    const first = await connect(CLIENTS);
    const answers = first
      .slice(0, RESUMING)
      .map((client, i) => client.say(`client ${i}`, { ...sampling, maxTokens: 200 }));
    const created = await Promise.all(first.slice(0, RESUMING).map((client) => client.next(Op.Created)));
    for (const client of first) client.drop();
    await Promise.all(first.map(({ closed }) => closed));
    const beganMs = performance.now();
    const back = await connect(CLIENTS);
    const resumed = await Promise.all(
      created.map(async (frame, i) => {
        const { lastSeq } = answers[i]!;
        const client = back[i]!;
        client.send([Op.Resume, 0, 'again', { response: frame[4], epoch: frame[5], lastSeq }]);
        return client.next(Op.Resumed);
      }),
    );
    const tookMs = performance.now() - beganMs;
    console.log(`${CLIENTS} back, ${RESUMING} resumed, after ${Math.round(tookMs)} ms`);
    expect(resumed.map((frame) => frame[3])).toEqual(resumed.map(() => true));
  });
});

/** Mean milliseconds between the frames of four streams. */
async function gapMs(): Promise<number> {
  const readers = await connect(4);
  const answers: Answer[] = readers.map((client, i) =>
    client.create({
      messages: [{ role: 'user', content: `reader ${i}` }],
      sampling: { ...sampling, maxTokens: 300 },
      // Not collected for milliseconds, so that every step shows.
      class: 'voice',
    }),
  );
  for (const answer of answers) expect((await answer.done()).reason).toBe('length');
  const spans = answers.map(({ arrivalsMs }) => (arrivalsMs.at(-1)! - arrivalsMs[0]!) / (arrivalsMs.length - 1));
  for (const client of readers) await client.close();
  return spans.reduce((a, b) => a + b, 0) / spans.length;
}

describe(`${STALLED} clients that stop reading`, () => {
  it('cost little memory each (goal: 64 KiB) and do not slow down others', async () => {
    await server.idle(60_000);
    await gapMs();
    const before = await gapMs();
    const memoryMiB = await server.memoryMiB();
    const stalled = await connect(STALLED);
    for (const [i, client] of stalled.entries()) {
      client.isAcking = false;
      await client.say(`stalled ${i}`, { ...sampling, maxTokens: 1800 }).created;
      if (i % 2 === 0) client.stall();
    }
    await server.idle(90_000);
    const during = await gapMs();
    const perClientKiB = (((await server.memoryMiB()) - memoryMiB) * 1024) / STALLED;
    console.log(
      `memory ${perClientKiB.toFixed(1)} KiB each; gap ${before.toFixed(2)} → ${during.toFixed(2)} ms, ratio ${(during / before).toFixed(2)} (goal: 1.2)`,
    );
    expect(stalled.filter(({ answers }) => answers[0]?.ending === null)).toHaveLength(STALLED);
    // Loose for few clients, since the heap moves by tens of MiB, and for noisy machines.
    expect(perClientKiB).toBeLessThan(STALLED >= 1000 ? 64 : 256);
    expect(during).toBeLessThan(Math.max(10 * before, 200));
  });
});
