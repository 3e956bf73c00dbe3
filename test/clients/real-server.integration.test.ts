// The SDK on the real server with the fake model: what a scripted server could get wrong.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../clients/index.ts';
import type {
  Client,
  ConnectOptions,
  ResponseStream,
  Sentence,
  TokenLogprob,
  Transport,
  TransportEvents,
} from '../../clients/index.ts';
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

/** Of all its text events, in order. */
async function tokensOf(response: ResponseStream): Promise<TokenLogprob[]> {
  const tokens: TokenLogprob[] = [];
  for await (const event of response.events()) {
    if (event.type === 'text' && event.tokens) tokens.push(...event.tokens);
  }
  return tokens;
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
    response.cancel();
    const { reason, usage } = await response.finished;
    expect(reason).toBe('cancelled');
    expect(usage.completionTokens).toBeLessThan(1000);
  });

  it('gets a long answer whole, past credit and the bytes a socket may have unacknowledged', async () => {
    const session = open().session();
    for (let turn = 0; turn < 2; turn++) {
      const { usage } = await session.send('long', { maxTokens: 400, ignoreEos: true }).finished;
      expect(usage.completionTokens).toBe(400);
    }
  });

  it('after a lost connection goes on with what still runs, and the session with it', async () => {
    const { transport, lose } = losable();
    const client = open({ transport });
    const session = client.session();
    const delayed = session.send('long', { maxTokens: 300, ignoreEos: true });
    const next = session.send('next', { maxTokens: 5 });
    for (const numEvents of [5, 100]) {
      await until(() => delayed.numEvents > numEvents && delayed.state.state !== 'waiting');
      lose();
    }
    expect((await delayed.finished).usage.completionTokens).toBe(300);
    expect((await next.finished).usage.completionTokens).toBeGreaterThan(0);
    const history = await session.history();
    expect(history.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant']);
    expect(history[1]?.content).toBe(delayed.text);
    expect(session.messages).toEqual(history);
  });

  it('replaces what runs, without a trace in the conversation and with the memory of what they share', async () => {
    const session = open().session({ class: 'ide' });
    await session.send('before', { maxTokens: 5 }).finished;
    const typed = ['func', 'functi', 'function'].map((text) =>
      session.send(text, { maxTokens: 40, ignoreEos: true, supersede: 'lane' }),
    );
    const ends = await Promise.all(typed.map((response) => response.finished));
    expect(ends.map(({ cancelledBy }) => cancelledBy)).toEqual(['supersede', 'supersede', null]);
    const [last] = ends.slice(-1);
    expect(last?.usage.cachedTokens).toBeGreaterThan(0);
    const again = session.send('other', { maxTokens: 10, supersede: typed[2]! });
    await again.finished;
    const history = await session.history();
    expect(history.filter(({ role }) => role === 'user').map(({ content }) => content)).toEqual(['before', 'other']);
    expect(session.messages).toEqual(history);
    expect(session.numTurns).toBe(2);
  });

  it('keeps no more of an answer than was heard, also when that is said after its end', async () => {
    const session = open().session({ class: 'voice' });
    const first = session.send('speak', { maxTokens: 60, ignoreEos: true });
    await until(() => first.text.length > 20);
    await first.cancel({ heardUpTo: 10 });
    const second = session.send('speak more', { maxTokens: 30, ignoreEos: true });
    await second.finished;
    await second.cancel({ heardUpTo: 4 });
    const history = await session.history();
    expect(history.map(({ content }) => content)).toEqual([
      'speak',
      first.text.slice(0, 10),
      'speak more',
      second.text.slice(0, 4),
    ]);
    expect(session.messages).toEqual(history);
  });

  it('gives sentences as they end, with their places in the text', async () => {
    const said = 'Dr. Smith is here. He came at 3.14 o’clock. Really?\nYes';
    const response = open().create({
      messages: [{ role: 'user', content: `!!say ${said}!!` }],
      sentences: true,
    });
    const sentences: Sentence[] = [];
    for await (const sentence of response.sentences()) sentences.push(sentence);
    expect(sentences.map(({ text }) => text)).toEqual([
      'Dr. Smith is here.',
      'He came at 3.14 o’clock.',
      'Really?',
      'Yes',
    ]);
    for (const { text, start, end } of sentences) expect(response.text.slice(start, end)).toBe(text);
  });

  it('gives the tokens of the text with their log-probabilities, once each, over lost connections and to who watches', async () => {
    const { transport, lose } = losable();
    const options = { sampling: { maxTokens: 120, temperature: 1, seed: 4, ignoreEos: true }, logprobs: 2 } as const;
    const messages = [{ role: 'user' as const, content: 'scored' }];
    const calm = open().create({ messages, ...options });
    const expected = await tokensOf(calm);
    const bytes = Buffer.from(expected.flatMap(([, , own]) => own ?? []));
    expect(bytes.toString()).toBe(calm.text);
    for (const [, logprob, , top] of expected) {
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top).toHaveLength(2);
    }
    const shaken = open({ transport }).create({ messages, ...options });
    const collected = tokensOf(shaken);
    for (const numEvents of [5, 50]) {
      await until(() => shaken.numEvents > numEvents);
      lose();
    }
    const watched = open().watch({ response: shaken.id as string }, { logprobs: true });
    expect(await tokensOf(watched)).toEqual(expected);
    expect(await collected).toEqual(expected);
    expect(shaken.text).toBe(calm.text);
    const plain = open().watch({ response: shaken.id as string });
    expect(await tokensOf(plain)).toEqual([]);
  });

  it('parks an answer whose loop has stopped, and goes on with it', async () => {
    const response = open().create({
      messages: [{ role: 'user', content: 'long' }],
      sampling: { maxTokens: 1500, ignoreEos: true },
      onState: () => {},
    });
    const pieces = response[Symbol.asyncIterator]();
    await pieces.next();
    await until(() => response.state.state === 'parked');
    // Its credit and a little: not what the server has.
    expect(response.numEvents).toBeLessThan(600);
    for await (const piece of { [Symbol.asyncIterator]: () => pieces }) expect(piece).not.toBe('');
    expect((await response.finished).usage.completionTokens).toBe(1500);
  });

  it('watches an answer that another client has begun', async () => {
    const begun = open().create({ messages: [{ role: 'user', content: 'seen by two' }], sampling: { maxTokens: 40 } });
    await until(() => begun.id !== null);
    const watched = open().watch({ response: begun.id as string });
    const [first, second] = await Promise.all([begun.finished, watched.finished]);
    expect(second.text).toBe(first.text);
    const rest = open().watch({ ...begun.position!, lastSeq: 3 });
    await rest.finished;
    expect(first.text.endsWith(rest.text)).toBe(true);
    await expect(open().watch({ response: 'resp_none' }).finished).rejects.toMatchObject({ code: 'unknown_response' });
  });

  it('rejects an unknown model with the server’s words', async () => {
    await expect(open().session({ model: 'nope' }).ready()).rejects.toMatchObject({ code: 'unknown_model' });
  });
});
