// OpenSession and Fork repeated after a lost connection, and histories in pages: through the wire, with two tenants.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ChatMessage, ClientMessage, ServerMessage, SessionOptions } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Caller } from '../../../src/auth/caller.ts';
import { historyPage } from '../../../src/sessions/history-page.ts';
import { House, settle } from '../support/house.ts';
import { random } from '../../support/random.ts';
import type { HouseOptions, TestClient } from '../support/house.ts';

const INSTANCE = 'b1946ac92492d2347c6235b4d2611184';
const other: Caller = { ...localCaller, tenant: 'other' };

let house: House;
const renew = (options: HouseOptions = {}): void => {
  house?.stop();
  house = new House(options);
};
beforeEach(() => renew());
afterEach(() => house.stop());

function connected(instance: string | undefined = INSTANCE, caller: Caller = localCaller): TestClient {
  const client = house.connect(caller);
  client.hello(instance === undefined ? {} : { instance });
  client.take();
  return client;
}

/** The session that the answer names, or the code of its error. */
function ask(client: TestClient, message: ClientMessage): string {
  client.push(message);
  const [answer] = client.take() as [ServerMessage];
  if (answer[0] === Op.SessionOpened) return answer[3].session;
  if (answer[0] === Op.Error) return answer[3].code;
  throw new Error(`op ${answer[0]}`);
}
const open = (client: TestClient, requestId = 'q1', options: SessionOptions = {}): string =>
  ask(client, [Op.OpenSession, 0, requestId, options]);
const fork = (client: TestClient, session: string, requestId = 'q1', numTurns = 0): string =>
  ask(client, [Op.Fork, 0, requestId, session, numTurns]);

describe('OpenSession', () => {
  it('gives the same session to its repetition on the next connection, whatever is asked for now', () => {
    const first = connected();
    const session = open(first, 'q1', { system: 'Be brief.' });
    first.drop(1006);
    expect(open(connected(), 'q1', { system: 'Ramble.' })).toBe(session);
    expect(house.sessions.size).toBe(1);
    expect(house.sessions.history(localCaller, session).messages).toEqual([{ role: 'system', content: 'Be brief.' }]);
  });

  it('tells its repetition how the session is now', async () => {
    const first = connected();
    const session = open(first);
    first.create('q2', { session });
    house.engine.run();
    await settle();
    const second = connected();
    second.push([Op.OpenSession, 0, 'q1', {}]);
    expect(second.take()[0]).toMatchObject([Op.SessionOpened, 0, 'q1', { session, numTurns: 1 }]);
  });

  it('makes another session for another requestId, instance or tenant, and for a client without an instance', () => {
    const sessions = [
      open(connected()),
      open(connected(), 'q2'),
      open(connected(`${INSTANCE}0`)),
      open(connected(INSTANCE, other)),
      open(connected(`${INSTANCE}0`, other)),
    ];
    const nameless = house.connect(localCaller);
    nameless.hello();
    nameless.take();
    sessions.push(open(nameless), open(nameless));
    expect(new Set(sessions).size).toBe(7);
    expect(open(connected(INSTANCE, other))).toBe(sessions[3]);
  });

  it('remembers nothing of what it refused', () => {
    const client = connected();
    expect(open(client, 'q1', { model: 'nope' })).toBe('unknown_model');
    expect(open(client, 'q1', { sampling: { temperature: 3 } })).toBe('invalid_request');
    expect(open(client, 'q1')).toMatch(/^sess_/);
  });

  it('is not the repetition of one that names a session', () => {
    const client = connected();
    const session = open(client, 'q1');
    expect(open(client, 'q2', { session })).toBe(session);
    expect(open(client, 'q2')).not.toBe(session);
  });

  it('makes a new session when the first was closed', () => {
    const client = connected();
    const session = open(client);
    client.push([Op.CloseSession, 0, 'q2', session]);
    client.take();
    expect(open(client)).not.toBe(session);
  });

  it('forgets requests with the sessions they made', () => {
    renew({ sessions: { maxSessions: 3 } });
    const client = connected();
    const first = Array.from({ length: 20 }, (_, index) => open(client, `q${index}`));
    expect(house.sessions.size).toBe(3);
    expect(open(client, 'q19')).toBe(first[19]);
    expect(open(client, 'q0')).not.toBe(first[0]);
  });

  it('counts its repetition as use', () => {
    renew({ sessions: { maxSessions: 2 } });
    const client = connected();
    const session = open(client, 'q1');
    open(client, 'q2');
    open(client, 'q1');
    open(client, 'q3');
    expect(open(client, 'q1')).toBe(session);
  });

  it('is refused again while the server drains', () => {
    const client = connected();
    open(client);
    house.sockets.goaway('shutting_down', 1000);
    client.take();
    expect(open(client)).toBe('shutting_down');
  });
});

describe('Fork', () => {
  it('gives the same session to its repetition on the next connection, also when the first is gone', () => {
    const first = connected();
    const session = open(first);
    const copy = fork(first, session, 'q2');
    expect(copy).not.toBe(session);
    first.drop(1006);
    const second = connected();
    expect(fork(second, session, 'q2')).toBe(copy);
    second.push([Op.CloseSession, 0, 'q3', session]);
    second.take();
    expect(fork(second, session, 'q2')).toBe(copy);
    expect(house.sessions.size).toBe(1);
  });

  it('is nothing to another tenant with the same instance and requestId', () => {
    const session = open(connected());
    fork(connected(), session, 'q2');
    expect(fork(connected(INSTANCE, other), session, 'q2')).toBe('unknown_session');
  });

  it('and an OpenSession with its requestId are two things', () => {
    const client = connected();
    const session = open(client, 'q1');
    expect(fork(client, session, 'q1')).not.toBe(session);
    expect(open(client, 'q1')).toBe(session);
  });

  it('remembers nothing of what it refused', () => {
    const client = connected();
    const session = open(client);
    expect(fork(client, session, 'q2', 5)).toBe('invalid_request');
    expect(fork(client, 'sess_none', 'q2')).toBe('unknown_session');
    expect(fork(client, session, 'q2')).toMatch(/^sess_/);
  });
});

const message = (content: string): ChatMessage => ({ role: 'user', content });

/** Reads page after page, `count` at most each. */
function pages(client: TestClient, session: string, count?: number): ChatMessage[][] {
  const read: ChatMessage[][] = [];
  for (let start: number | null = 0; start !== null;) {
    client.push(
      count === undefined ? [Op.History, 0, 'h', session, start] : [Op.History, 0, 'h', session, start, count],
    );
    const [answer] = client.takeOnly(Op.SessionHistory);
    read.push(answer![4]);
    start = answer![5];
  }
  return read;
}

describe('History', () => {
  it('of a few messages is one page, asked for either way', () => {
    const client = connected();
    const session = open(client, 'q1', { messages: [message('a'), message('b')] });
    client.push([Op.History, 0, 'h', session]);
    expect(client.take()).toEqual([[Op.SessionHistory, 0, 'h', session, [message('a'), message('b')], null]]);
    expect(pages(client, session).length).toBe(1);
  });

  it('of many messages comes whole in pages, each within the limits of both sides', () => {
    const client = connected();
    const messages = Array.from({ length: 3000 }, (_, index) => message(`${index}`));
    const session = open(client, 'q1', { messages });
    const read = pages(client, session);
    expect(read.map((page) => page.length)).toEqual([1024, 1024, 952]);
    expect(read.flat()).toEqual(messages);
    expect(pages(client, session, 700).map((page) => page.length)).toEqual([700, 700, 700, 700, 200]);
    expect(pages(client, session, 2 ** 31 - 1)[0]!.length).toBe(Limits.historyPageMessages);
  });

  it('behind its end is an empty page', () => {
    const client = connected();
    const session = open(client, 'q1', { messages: [message('a')] });
    for (const start of [1, 2, 2 ** 31 - 1]) {
      client.push([Op.History, 0, 'h', session, start]);
      expect(client.take()).toEqual([[Op.SessionHistory, 0, 'h', session, [], null]]);
    }
  });

  it('has pages of bounded bytes that join to the whole, with large messages among them (seed 3)', () => {
    const next = random(3);
    for (let trial = 0; trial < 30; trial++) {
      const messages = Array.from({ length: Math.floor(next() * 40) }, () =>
        message('é'.repeat(Math.floor(next() ** 4 * 300_000))),
      );
      const read: ChatMessage[] = [];
      for (let start: number | null = 0; start !== null;) {
        const page = historyPage(messages, start);
        const bytes = page.messages.reduce((sum, { content }) => sum + Buffer.byteLength(content), 0);
        if (page.messages.length > 1) expect(bytes).toBeLessThanOrEqual(Limits.historyPageBytes);
        if (messages.length > 0) expect(page.messages.length).toBeGreaterThan(0);
        read.push(...page.messages);
        start = page.next;
      }
      expect(read).toEqual(messages);
    }
  });

  it('counts the text of tool calls', () => {
    const call = { id: 'c', name: 'write', arguments: 'x'.repeat(Limits.historyPageBytes - 100) };
    const said: ChatMessage = { role: 'assistant', content: '', toolCalls: [call] };
    expect(historyPage([said, said])).toEqual({ messages: [said], next: 1 });
  });
});
