import { describe, expect, it } from 'vitest';
import { connect, ConnectionLostError, ServiceError } from '../../clients/index.ts';
import type { ConnectionState, ToolCall } from '../../clients/index.ts';
import { Op } from '../../protocol/messages.ts';
import { open, serve } from './support/fake-house.ts';
import { words } from './support/fake-server.ts';
import { until } from './support/until.ts';

describe('A session', () => {
  it('streams the text in order and finishes with usage and reason', async () => {
    const client = open(await serve());
    const response = client.session().send('one two three');
    let text = '';
    for await (const piece of response) text += piece;
    const finished = await response.finished;
    expect(text).toBe('one two three');
    expect(finished).toMatchObject({ text, reason: 'stop', usage: { completionTokens: 3 }, toolCalls: [] });
    expect(response.isEnded).toBe(true);
    expect(response.id).toMatch(/^resp_/);
    expect(response.firstTextMs).toBeGreaterThan(0);
  });

  it('gives every iterator the whole text, also one that starts late', async () => {
    const client = open(await serve());
    const response = client.session().send('a b c d');
    await response.finished;
    const pieces: string[] = [];
    for await (const piece of response) pieces.push(piece);
    expect(pieces).toEqual(['a b c d']);
  });

  it('sends what is asked for in the order of the calls, before there is a connection', async () => {
    const server = await serve();
    const session = open(server).session();
    const first = session.send('first');
    const second = session.send('second');
    const history = session.history();
    await Promise.all([first.finished, second.finished, history]);
    const creates = server.peer.messages(Op.Create).map((message) => (message[3] as { messages: unknown[] }).messages);
    expect(creates).toEqual([[{ role: 'user', content: 'first' }], [{ role: 'user', content: 'second' }]]);
    const ops = server.peer.received.map((message) => message[0]);
    expect(ops.indexOf(Op.History)).toBeGreaterThan(ops.lastIndexOf(Op.Create));
  });

  it('has a lane of its own with its class, and gives it back', async () => {
    const server = await serve();
    const client = open(server);
    const voice = client.session({ class: 'voice' });
    const chat = client.session();
    await Promise.all([voice.ready(), chat.ready()]);
    expect([...server.peer.lanes]).toEqual([
      [1, 'voice'],
      [2, 'chat'],
    ]);
    await voice.close();
    await until(() => server.peer.lanes.size === 1);
    await client.session({ class: 'ide' }).ready();
    expect(server.peer.lanes.get(1)).toBe('ide');
  });

  it('refuses a session more than the server has lanes for', async () => {
    const server = await serve({
      intercept: (message, peer) => {
        if (message[0] !== Op.Hello) return false;
        const info = { server: 's', connection: 'c', models: [], limits: { lanesPerConnection: 3 } };
        peer.send([Op.Welcome, 0, 1, info]);
        return true;
      },
    });
    const client = open(server);
    await Promise.all([client.session().ready(), client.session().ready()]);
    await expect(client.session().ready()).rejects.toMatchObject({ code: 'too_many_lanes' });
  });

  it('sends sampling only where it was given', async () => {
    const server = await serve();
    const session = open(server).session({ sampling: { temperature: 0.5 } });
    await session.send('a').finished;
    await session.send('b', { temperature: 0, maxTokens: 5, deadlineMs: 900 }).finished;
    const [first, second] = server.peer.messages(Op.Create).map((message) => message[3]);
    expect(first).not.toHaveProperty('sampling');
    expect(second).toMatchObject({ sampling: { temperature: 0, maxTokens: 5 }, deadlineMs: 900 });
  });

  it('rolls back, forks, lists and closes', async () => {
    const server = await serve();
    const client = open(server);
    const session = client.session({ system: 'Be brief.' });
    await session.send('one').finished;
    await session.send('two').finished;
    expect(session.numTurns).toBe(2);
    const fork = await session.fork(1);
    expect((await fork.history()).map((message) => message.content)).toEqual(['Be brief.', 'one', 'one']);
    await session.rollback(0);
    expect(session.messages).toEqual([]);
    expect((await client.list()).map((info) => info.numTurns)).toEqual([0, 1]);
    await expect(session.rollback(7)).rejects.toMatchObject({ code: 'invalid_request' });
    await session.close();
    await expect(session.send('gone').finished).rejects.toMatchObject({ code: 'unknown_session' });
    expect((await client.list()).length).toBe(1);
  });

  it('exposes tool calls when they are complete', async () => {
    const call: ToolCall = { id: 'call_1', name: 'weather', arguments: '{"city": "Paris", "days": 2}' };
    const server = await serve({ script: () => ({ pieces: [], toolCalls: [call, { ...call, id: 'call_2' }] }) });
    const seen: string[] = [];
    const session = open(server).session({ tools: [{ name: 'weather' }] });
    const response = session.send('How is the weather?', { onToolCall: (made) => seen.push(made.id) });
    const finished = await response.finished;
    expect(finished.reason).toBe('tool_calls');
    expect(finished.toolCalls).toEqual([call, { ...call, id: 'call_2' }]);
    expect(seen).toEqual(['call_1', 'call_2']);
    const answer = session.send([{ role: 'tool', content: '21 °C', toolCallId: 'call_1' }]);
    await answer.finished;
    expect(session.messages.map((message) => message.role)).toEqual(['user', 'assistant', 'tool', 'assistant']);
  });
});

describe('Cancelling', () => {
  const slow = { script: () => ({ pieces: words('one two three four five six'), pauseMs: 20 }) };

  it('ends the answer with reason cancelled and the text so far', async () => {
    const server = await serve(slow);
    const session = open(server).session();
    const response = session.send('count');
    let text = '';
    for await (const piece of response) {
      text += piece;
      response.cancel();
      response.cancel();
    }
    const finished = await response.finished;
    expect(finished).toMatchObject({ reason: 'cancelled', text });
    expect(server.peer.messages(Op.Cancel).length).toBe(1);
    expect(session.messages.at(-1)?.content).toBe(text);
  });

  it('is what an abort signal does', async () => {
    const server = await serve(slow);
    const abort = new AbortController();
    const response = open(server).create({ messages: [{ role: 'user', content: 'x' }], signal: abort.signal });
    await until(() => response.text !== '');
    abort.abort();
    await expect(response.finished).resolves.toMatchObject({ reason: 'cancelled' });
  });

  it('before the server named a handle is sent as soon as there is one', async () => {
    const server = await serve(slow);
    const client = open(server);
    await client.ready();
    const response = client.create({ messages: [{ role: 'user', content: 'x' }] });
    await until(() => server.peers[0]?.messages(Op.Create).length === 1);
    response.cancel();
    await expect(response.finished).resolves.toMatchObject({ reason: 'cancelled' });
  });

  it('before anything was sent ends at once and sends nothing', async () => {
    const server = await serve();
    const client = open(server);
    const response = client.create({ messages: [], signal: AbortSignal.abort() });
    const other = client.session().send('x');
    other.cancel();
    await expect(response.finished).resolves.toMatchObject({ reason: 'cancelled', text: '' });
    await expect(other.finished).resolves.toMatchObject({ reason: 'cancelled', text: '' });
    await client.ready();
    await client.list();
    expect(server.peer.messages(Op.Create)).toEqual([]);
  });
});

describe('Errors', () => {
  it('of an answer reject finished and end the iteration with the rebuilt ServiceError', async () => {
    const error = { code: 'worker_lost', message: 'The worker died.' };
    const session = open(await serve({ script: () => ({ pieces: ['a', 'b'], error }) })).session();
    const response = session.send('x');
    let text = '';
    const iterate = async (): Promise<void> => {
      for await (const piece of response) text += piece;
    };
    await expect(iterate()).rejects.toMatchObject({ code: 'worker_lost', message: 'The worker died.' });
    await expect(response.finished).rejects.toBeInstanceOf(ServiceError);
    expect(text).toBe('ab');
    expect(session.messages).toEqual([]);
  });

  it('that this client does not know become internal', async () => {
    const error = { code: 'solar_flare', message: 'New.' };
    const response = open(await serve({ script: () => ({ pieces: [], error }) })).create({ messages: [] });
    await expect(response.finished).rejects.toMatchObject({ code: 'internal', message: 'New.' });
  });

  it('of opening a session reach whoever sends in it, and the next send tries again', async () => {
    let numRefused = 0;
    const server = await serve({
      intercept: (message, peer) => {
        if (message[0] !== Op.OpenSession || numRefused > 0) return false;
        numRefused++;
        const error = { code: 'overloaded', message: 'Busy.', retryable: true, retryAfterMs: 100 };
        peer.send([Op.Error, message[1], message[2], error]);
        return true;
      },
    });
    const session = open(server).session();
    await expect(session.send('x').finished).rejects.toMatchObject({ code: 'overloaded', retryAfterMs: 100 });
    await expect(session.send('y').finished).resolves.toMatchObject({ text: 'y' });
  });

  it('of a bad address are thrown at once', () => {
    expect(() => connect('ftp://example.org')).toThrow(SyntaxError);
    expect(() => connect('no address')).toThrow(TypeError);
  });
});

describe('Acks', () => {
  it('are cumulative and reach the last event', async () => {
    const pieces = Array.from({ length: 300 }, (_, index) => ` ${index}`);
    const server = await serve({ script: () => ({ pieces }) });
    const response = open(server).create({ messages: [] });
    await response.finished;
    const acks = server.peer.messages(Op.Ack).map((message) => message[3] as number);
    expect(acks.length).toBeGreaterThan(1);
    expect(acks.length).toBeLessThan(20);
    expect(acks).toEqual(acks.toSorted((a, b) => a - b));
    // Done is event 301: its bytes count until it is acknowledged too.
    await until(() => server.peer.messages(Op.Ack).at(-1)?.[3] === 301);
  });

  it('are sent within a moment for a slow answer', async () => {
    const server = await serve({ script: () => ({ pieces: ['a', 'b', 'c'], pauseMs: 120 }) });
    const response = open(server).create({ messages: [] });
    await until(() => server.peers[0]?.messages(Op.Ack).length === 1);
    expect(server.peer.messages(Op.Ack)[0]?.[3]).toBe(1);
    await response.finished;
  });
});

describe('States', () => {
  it('are told from connecting to closed', async () => {
    const states: ConnectionState['state'][] = [];
    const client = open(await serve(), { onState: (state) => states.push(state.state) });
    const welcome = await client.ready();
    expect(welcome.models[0]?.id).toBe('fake-model');
    expect(client.models).toEqual(welcome.models);
    client.close();
    expect(states).toEqual(['connecting', 'open', 'closed']);
    await expect(client.ready()).rejects.toBeInstanceOf(ConnectionLostError);
    await expect(client.list()).rejects.toBeInstanceOf(ConnectionLostError);
  });
});
