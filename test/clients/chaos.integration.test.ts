// The SDK on the real server over a network that cuts, delays and stalls at random: nothing is lost, nothing comes
// twice, and what cannot be had back after a restart of the server says so. Full size, some minutes:
//   TRIALS=10000 npx vitest run --project integration test/clients/chaos
// SEED repeats a run's network.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connect, ConnectionLostError } from '../../clients/index.ts';
import type { Client, ResponseStream, SendOptions } from '../../clients/index.ts';
import type { TcpProxy } from '../../clients/demos/tcp-proxy.ts';
import { random as seededRandom } from '../support/random.ts';
import { startChaos } from './support/chaos.ts';
import { RealServer } from './support/real-server.ts';
import { until } from './support/until.ts';

const numTrials = Number(process.env['TRIALS'] ?? 200);
const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const numClients = 8;
const inFlight = 4;

let server: RealServer;
const clients: Client[] = [];
const proxies: TcpProxy[] = [];

beforeAll(async () => {
  server = await RealServer.start({ MODEL: 'fake:stepMs=1' });
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const proxy of proxies.splice(0)) await proxy.stop();
});

afterAll(() => server.stop());

function open(port: number): Client {
  const client = connect(`http://127.0.0.1:${port}`, { retryFirstMs: 2, retryMaxMs: 20, openTimeoutMs: 2000 });
  clients.push(client);
  return client;
}

async function chaos(): Promise<TcpProxy> {
  const proxy = await startChaos(server.port, seed);
  proxies.push(proxy);
  return proxy;
}

function question(index: number): { text: string; sampling: SendOptions } {
  return {
    text: `question ${index}`,
    sampling: { seed: index, maxTokens: 20 + ((index * 37) % 180), ignoreEos: true },
  };
}

/** Reads as a careful program does: every event once, its place in the text checked against what came before. */
async function read(response: ResponseStream): Promise<string> {
  let text = '';
  let lastSeq = 0;
  for await (const event of response.events()) {
    expect(event.seq).toBeGreaterThan(lastSeq);
    lastSeq = event.seq;
    if (event.type !== 'text') continue;
    expect(event.offset).toBe(text.length);
    text += event.text;
  }
  const finished = await response.finished;
  expect(finished.text).toBe(text);
  expect(finished.reason).toBe('length');
  return text;
}

/** Four turns asked for at once, and what both sides then know of them. */
async function talk(client: Client, index: number): Promise<void> {
  const session = client.session({ system: `You are number ${index}.` });
  const turns = [0, 1, 2, 3].map((turn) =>
    session.send(`turn ${turn}`, { maxTokens: 40, seed: index, ignoreEos: true }),
  );
  for (const turn of turns) expect((await turn.finished).usage.completionTokens).toBe(40);
  const history = await session.history();
  expect(history.filter(({ role }) => role === 'user').map(({ content }) => content)).toEqual(
    turns.map((_, turn) => `turn ${turn}`),
  );
  expect(history.filter(({ role }) => role === 'assistant').map(({ content }) => content)).toEqual(
    turns.map(({ text }) => text),
  );
  expect(session.numTurns).toBe(4);
  expect(session.messages).toEqual(history);
  await session.close();
}

describe(`Over a network that cuts at random (SEED=${seed}, ${numTrials} trials)`, () => {
  it(
    'every answer is whole, once, and the same as alone',
    async () => {
      const direct = open(server.port);
      const alone: string[] = [];
      for (let index = 0; index < 24; index++) {
        const { text, sampling } = question(index);
        const messages = [{ role: 'user' as const, content: text }];
        alone.push((await direct.create({ messages, sampling }).finished).text);
      }
      const proxy = await chaos();
      const random = seededRandom(seed);
      const all = Array.from({ length: numClients }, () => open(proxy.port));
      let numLeft = numTrials;
      let numResumed = 0;
      const one = async (client: Client): Promise<void> => {
        const index = Math.floor(random() * alone.length);
        const { text, sampling } = question(index);
        const response = client.create({
          messages: [{ role: 'user', content: text }],
          sampling,
          offsets: true,
          class: random() < 0.5 ? 'ide' : 'chat',
        });
        response.onState(({ state }) => {
          if (state === 'resumed') numResumed++;
        });
        expect(await read(response)).toBe(alone[index]);
      };
      const work = async (client: Client): Promise<void> => {
        while (numLeft-- > 0) await one(client);
      };
      await Promise.all(all.flatMap((client) => Array.from({ length: inFlight }, () => work(client))));
      console.log(`${numTrials} answers over ${proxy.numCuts} cuts, ${numResumed} resumes: 0 lost, 0 doubled`);
      expect(proxy.numCuts).toBeGreaterThan(numTrials / 10);
      expect(numResumed).toBeGreaterThan(0);
    },
    180_000 + numTrials * 600,
  );

  it('conversations stay in step with the server, turn by turn', async () => {
    const proxy = await chaos();
    const numSessions = Math.max(2, Math.min(40, Math.round(numTrials / 25)));
    // Few to a connection: one lives for some kilobytes, and has to open all of its sessions again within them.
    const all = Array.from({ length: Math.ceil(numSessions / 4) }, () => open(proxy.port));
    await Promise.all(Array.from({ length: numSessions }, (_, index) => talk(all[index % all.length]!, index)));
  });
});

describe('A server that is killed in the middle', () => {
  it('says of each answer that was under way what is here of it, and takes what was not sent yet', async () => {
    const own = await RealServer.start({ MODEL: 'fake:stepMs=5' });
    try {
      const client = open(own.port);
      const session = client.session();
      await session.send('before', { maxTokens: 5 }).finished;
      const cut = [
        session.send('during', { maxTokens: 1000, ignoreEos: true }),
        client.create({ messages: [{ role: 'user', content: 'x' }], sampling: { maxTokens: 1000, ignoreEos: true } }),
      ];
      await until(() => cut.every((response) => response.numEvents > 5));
      await own.kill();
      await until(() => client.state.state !== 'open');
      const later = session.send('later', { maxTokens: 5 });
      await own.restart();
      for (const response of cut) {
        const error: unknown = await response.finished.catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(ConnectionLostError);
        expect(error).toMatchObject({ isLocal: false, text: response.text, position: { lastSeq: response.numEvents } });
        expect(response.text).not.toBe('');
      }
      expect((await later.finished).usage.completionTokens).toBeGreaterThan(0);
      expect((await session.history()).filter(({ role }) => role === 'user').map(({ content }) => content)).toEqual([
        'before',
        'later',
      ]);
    } finally {
      await own.stop();
    }
  });
});
