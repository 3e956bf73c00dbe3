// The SDK on the real server with the fake model: what a scripted server could get wrong.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../clients/index.ts';
import type { Client, ConnectOptions, Transport, TransportEvents } from '../../clients/index.ts';
import { openWebSocket } from '../../clients/websocket.ts';
import { RealServer } from './support/real-server.ts';
import { until } from './support/until.ts';

let server: RealServer;
const clients: Client[] = [];

beforeAll(async () => {
  server = await RealServer.start({ MODEL: 'fake:stepMs=5' });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

afterAll(() => server.stop());

function open(options: ConnectOptions = {}): Client {
  const client = connect(server.url, { retryFirstMs: 20, ...options });
  clients.push(client);
  return client;
}

/** A transport whose connection can be lost without the goodbye that means "done". */
function losable(): { transport: NonNullable<ConnectOptions['transport']>; lose(): void } {
  let current: Transport | null = null;
  return {
    transport: (url: string, events: TransportEvents) => {
      const transport = openWebSocket(url, events);
      current = transport;
      return transport;
    },
    lose: () => current?.close(4321, 'lost'),
  };
}

describe('The SDK on the real server', () => {
  it('answers sixteen sessions at once over one connection, each with its own text', async () => {
    const client = open();
    const sessions = Array.from({ length: 16 }, () => client.session());
    const responses = sessions.map((session, index) => session.send(`question ${index}`, { maxTokens: 40, seed: 1 }));
    const streamed = await Promise.all(
      responses.map(async (response) => {
        let text = '';
        for await (const piece of response) text += piece;
        return { text, finished: await response.finished };
      }),
    );
    for (const { text, finished } of streamed) {
      expect(finished.text).toBe(text);
      expect(finished.usage.completionTokens).toBeGreaterThan(0);
    }
    expect(new Set(streamed.map(({ text }) => text)).size).toBe(16);
    await Promise.all(sessions.map((session) => session.close()));
  });

  it('keeps, rolls back and forks a conversation as the server does', async () => {
    const client = open();
    const session = client.session({ system: 'Be brief.', messages: [{ role: 'user', content: 'before' }] });
    await session.send('one', { maxTokens: 5 }).finished;
    await session.send('two', { maxTokens: 5 }).finished;
    expect(session.numTurns).toBe(2);
    expect(await session.history()).toEqual([{ role: 'system', content: 'Be brief.' }, ...session.messages.slice(1)]);
    const fork = await session.fork(1);
    await session.rollback(1);
    expect(session.messages.at(-2)?.content).toBe('one');
    expect(fork.messages).toEqual(session.messages);
    expect(await fork.history()).toEqual(await session.history());
    await Promise.all([session.close(), fork.close()]);
  });

  it('cancels within moments', async () => {
    const response = open().session().send('long', { maxTokens: 2000, ignoreEos: true });
    await until(() => response.numEvents > 5);
    const atMs = performance.now();
    response.cancel();
    expect((await response.finished).reason).toBe('cancelled');
    expect(performance.now() - atMs).toBeLessThan(500);
  });

  it('gets a long answer whole, past credit and the bytes a socket may have unacknowledged', async () => {
    const session = open().session();
    for (let turn = 0; turn < 2; turn++) {
      const { usage } = await session.send('long', { maxTokens: 400, ignoreEos: true }).finished;
      expect(usage.completionTokens).toBe(400);
    }
  }, 20_000);

  it('after a lost connection ends what still runs, so that the session can go on at once', async () => {
    const { transport, lose } = losable();
    const client = open({ transport });
    const session = client.session();
    const lost = session.send('long', { maxTokens: 3000, ignoreEos: true });
    await until(() => lost.numEvents > 5);
    lose();
    await expect(lost.finished).rejects.toMatchObject({ name: 'ConnectionLostError' });
    expect((await session.send('next', { maxTokens: 5 }).finished).usage.completionTokens).toBeGreaterThan(0);
    const history = await session.history();
    expect(history.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant']);
    expect(history[1]?.content.startsWith(lost.text)).toBe(true);
    expect(session.messages).toEqual(history);
    await session.rollback(session.numTurns - 1);
    expect(session.numTurns).toBe(1);
  }, 20_000);

  it('rejects an unknown model with the server’s words', async () => {
    await expect(open().session({ model: 'nope' }).ready()).rejects.toMatchObject({ code: 'unknown_model' });
  });
});
