// Random lives of several clients on one server: whatever they create, cancel, close and drop, every response ends once,
// its text is what the same request gets alone (or the beginning of that), and nothing is left behind.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import type { CreateOptions } from '../../protocol/messages.ts';
import { random } from '../support/random.ts';
import type { Answer } from './support/answer.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const CLIENTS = 5;
const ACTIONS = 250;
const LIVE_PER_CLIENT = 12;
const seeds = process.env.SEED === undefined ? [1, 20261122, 4711] : [Number(process.env.SEED)];

const requests: CreateOptions[] = Array.from({ length: 12 }, (_, i) => ({
  messages: [{ role: 'user', content: ['a story', 'b', 'una più lunga '.repeat(3 * i), '你好 🙂'][i % 4]! + i }],
  sampling: i % 2 === 0 ? { temperature: 0, maxTokens: 20 + 12 * i } : { temperature: 1, seed: i, maxTokens: 150 },
}));

let server: TestServer;
/** Text of each request on the idle server. */
const alone: string[] = [];

beforeAll(async () => {
  // Few slots, so that requests also wait, are moved and evicted.
  server = await TestServer.start({ MODEL: 'fake:stepMs=1', SLOTS: '16', NODE_ENV: 'test' });
  const client = await NativeClient.connect(server.streamUrl);
  for (const request of requests) {
    const answer = client.create(request);
    await answer.done();
    alone.push(answer.text);
  }
  await client.close();
});

afterAll(async () => {
  expect(await server.stop()).toEqual({ code: 0, signal: null });
  expect(server.output).not.toMatch(/"level":[56]0/);
});

interface Life {
  client: NativeClient;
  /** Open lanes. */
  lanes: Set<number>;
}

describe('Clients that live at random', () => {
  it.each(seeds)('get exactly one end and the right text for every response (seed %i)', async (seed) => {
    const next = random(seed);
    const pick = (count: number): number => Math.floor(next() * count);
    const asked: { answer: Answer; request: number }[] = [];
    const clients: NativeClient[] = [];
    const begin = async (): Promise<Life> => {
      const client = await NativeClient.connect(server.streamUrl);
      clients.push(client);
      return { client, lanes: new Set() };
    };
    const lives = await Promise.all(Array.from({ length: CLIENTS }, begin));

    for (let action = 0; action < ACTIONS; action++) {
      const index = pick(CLIENTS);
      const life = lives[index]!;
      const { client, lanes } = life;
      const live = client.answers.filter(({ ending }) => ending === null);
      const lane = [0, ...lanes][pick(lanes.size + 1)]!;
      const what = next();
      if (what < 0.55) {
        if (live.length >= LIVE_PER_CLIENT) continue;
        const request = pick(requests.length);
        const session = pick(3) === 0 ? { session: await client.openSession() } : {};
        asked.push({ answer: client.create({ ...requests[request]!, ...session }, lane), request });
        if (session.session !== undefined && pick(4) === 0) {
          client.send([Op.CloseSession, 0, client.newRequestId(), session.session]);
        }
      } else if (what < 0.75) {
        const victim = live[pick(live.length)];
        if (victim !== undefined && victim.handle > 0) client.cancel(victim);
      } else if (what < 0.83) {
        const number = 1 + pick(6);
        if (lanes.has(number)) continue;
        lanes.add(number);
        await client.openLane(number);
        // `next` finds old answers: each number is opened once per connection.
        client.frames.splice(0, client.frames.length, ...client.frames.filter(([op]) => op !== Op.LaneOpened));
      } else if (what < 0.88) {
        if (lane !== 0) client.send([Op.CloseLane, lane]);
        lanes.delete(lane);
      } else if (what < 0.895) {
        if (pick(2) === 0) client.drop();
        else await client.close();
        lives[index] = await begin();
      } else {
        await new Promise((resolve) => setTimeout(resolve, pick(20)));
      }
    }
    await Promise.all(asked.map(({ answer }) => answer.ended));

    const kinds = new Map<string, number>();
    for (const { answer, request } of asked) {
      const { ending, text } = answer;
      const kind = ending!.kind === 'done' ? ending!.reason : ending!.kind;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      if (kind === 'stop' || kind === 'length') expect(text).toBe(alone[request]);
      else {
        // Cut inside a character, an answer may end with the mark for half of one.
        const settled = text.replace(/\uFFFD$/, '');
        expect(settled).toBe(alone[request]!.slice(0, settled.length));
      }
      expect(['stop', 'length', 'cancelled', 'lost']).toContain(kind);
    }
    expect(asked.length).toBeGreaterThan(60);
    expect(kinds.get('cancelled')).toBeGreaterThan(3);
    expect(clients.flatMap(({ violations }) => violations)).toEqual([]);
    await Promise.all(lives.map(({ client }) => client.close()));

    await server.idle();
    await expect.poll(() => server.metric('connections{kind="websocket"}')).toBe(0);
    // Every place is free again: as many answers as there are rows run side by side, and all end whole.
    const last = await NativeClient.connect(server.streamUrl);
    const full = Array.from({ length: 8 }, () => last.create(requests[2]!));
    await Promise.all(full.map((answer) => answer.done()));
    expect(full.map(({ text }) => text)).toEqual(full.map(() => alone[2]));
    await last.close();
    console.log(`seed ${seed}: ${asked.length} responses, ${[...kinds].map(([kind, n]) => `${n} ${kind}`).join(', ')}`);
  });
});
