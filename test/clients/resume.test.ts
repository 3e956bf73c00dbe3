// What the SDK says and takes when a connection is lost, frame by frame.
import { afterEach, describe, expect, it } from 'vitest';
import { ConnectionLostError, ServiceError } from '../../clients/index.ts';
import type { ConnectOptions, ResponseState } from '../../clients/index.ts';
import { Op } from '../../protocol/messages.ts';
import { sessionInfo, Wire } from './support/wire.ts';
import { until } from './support/until.ts';

const wires: Wire[] = [];

afterEach(() => {
  for (const wire of wires.splice(0)) wire.client.close();
});

function wired(options: ConnectOptions = {}): Wire {
  const wire = new Wire(options);
  wires.push(wire);
  wire.free.welcome();
  return wire;
}

const question = { messages: [{ role: 'user' as const, content: 'x' }] };

describe('A response whose connection is lost', () => {
  it('is resumed behind its last event and goes on, each event once', async () => {
    const wire = wired();
    const states: string[] = [];
    const response = wire.client.create({ ...question, onState: ({ state }) => states.push(state), states: false });
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'one ']]], [Op.Deltas, 0, [[1, 3, 'two ']]]);
    await wire.reconnect();
    const resume = await wire.next(Op.Resume);
    expect(resume.slice(0, 2)).toEqual([Op.Resume, 0]);
    expect(resume[3]).toEqual({ response: 'resp', epoch: 'epoch', lastSeq: 3 });
    await wire.resumed(1, true, 7, 'epoch');
    // A server that sends too much harms nobody.
    wire.receive([Op.Deltas, 0, [[7, 3, 'two ']]], [Op.Deltas, 0, [[7, 4, 'three']]]);
    wire.done(7, 5);
    expect((await response.finished).text).toBe('one two three');
    expect(states).toEqual(['sent', 'created', 'waiting', 'created', 'resumed', 'ended']);
    expect(wire.sent(Op.Create).length).toBe(1);
  });

  it('survives any number of losses, also one before the resume was answered', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'a']]]);
    await wire.reconnect();
    await wire.next(Op.Resume, 1);
    await wire.reconnect();
    await wire.resumed(2, true, 1, 'epoch');
    wire.receive([Op.Deltas, 0, [[1, 2, 'b']]]);
    await wire.reconnect();
    expect((await wire.next(Op.Resume, 3))[3]).toMatchObject({ lastSeq: 2 });
    await wire.resumed(3, true, 1, 'epoch');
    wire.done(1, 3);
    expect((await response.finished).text).toBe('ab');
  });

  it('gives an iterator the rest as if nothing had happened', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of response) pieces.push(piece);
    })();
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'a']]]);
    await wire.reconnect();
    await wire.resumed(1, true, 2, 'epoch');
    wire.receive([Op.Deltas, 0, [[2, 2, 'b']]]);
    wire.done(2, 3);
    await reading;
    expect(pieces.join('')).toBe('ab');
  });

  it.each([
    ['the server has forgotten it', null, null],
    ['the server has another log of it', 9, 'other'],
  ])('rejects with its position and what is here when %s', async (_, handle, epoch) => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 2, 'half an']]]);
    await wire.reconnect();
    await wire.resumed(1, false, handle, epoch);
    const error: unknown = await response.finished.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectionLostError);
    expect(error).toMatchObject({
      position: { response: 'resp', epoch: 'epoch', lastSeq: 2 },
      text: 'half an',
      isLocal: false,
    });
    expect((error as Error).message).toContain('7 characters of it are here');
    expect(response.text).toBe('half an');
    // What the server began to send anew is not wanted.
    expect(wire.sent(Op.Cancel)).toEqual(handle === null ? [] : [[Op.Cancel, 0, handle]]);
  });

  it('is resumed without an epoch when it had no events yet', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    await wire.reconnect();
    expect((await wire.next(Op.Resume))[3]).toEqual({ response: 'resp', lastSeq: 0 });
    await wire.resumed(1, true, 1, 'new-epoch');
    wire.receive([Op.Deltas, 0, [[1, 1, 'a']]]);
    wire.done(1, 2);
    expect((await response.finished).text).toBe('a');
    expect(response.position).toEqual({ response: 'resp', epoch: 'new-epoch', lastSeq: 2 });
  });

  it('keeps its view options and its lane', async () => {
    const wire = wired();
    const session = wire.client.session({ class: 'voice' });
    await wire.openSession(sessionInfo('s'));
    session.send('x', { sentences: true, onState: () => {} });
    await wire.created(1, 1, 'resp', 's');
    await wire.reconnect();
    const [, lane, , options] = await wire.next(Op.Resume);
    expect(lane).toBe(1);
    expect(options).toEqual({ response: 'resp', lastSeq: 0, sentences: true, states: true });
    const ops = (wire.free.sent as unknown[][]).map(([op]) => op);
    expect(ops.lastIndexOf(Op.OpenLane)).toBeLessThan(ops.indexOf(Op.Resume));
  });

  it('asks again later when the server has no handle free', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    await wire.reconnect();
    const [, lane, requestId] = await wire.next(Op.Resume);
    const error = { code: 'rate_limited', message: 'Full.', retryable: true, retryAfterMs: 5 };
    wire.receive([Op.Error, lane as number, requestId as string, error]);
    await wire.resumed(2, true, 1, 'epoch');
    wire.done(1, 1);
    expect((await response.finished).reason).toBe('stop');
  });

  it('rejects as local when the client is closed while it waits', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'a']]]);
    wire.lose();
    wire.client.close();
    await expect(response.finished).rejects.toMatchObject({ isLocal: true, position: { lastSeq: 1 }, text: 'a' });
  });
});

describe('A create without an answer', () => {
  it('is repeated with its requestId, under the same instance', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    const first = await wire.next(Op.Create);
    await wire.reconnect();
    expect(await wire.next(Op.Create, 2)).toEqual(first);
    const instances = wire.sent(Op.Hello).map((hello) => (hello[3] as { instance: string }).instance);
    expect(instances[0]).toMatch(/^[0-9a-f]{24}$/);
    expect(new Set(instances).size).toBe(1);
    await wire.created(2, 1, 'resp');
    wire.done(1, 1);
    expect((await response.finished).reason).toBe('stop');
  });

  it('of a session is repeated before anything later, when the session is open again', async () => {
    const wire = wired();
    const session = wire.client.session();
    await wire.openSession(sessionInfo('s'));
    session.send('first');
    const first = await wire.next(Op.Create);
    wire.lose();
    session.send('second');
    await until(() => wire.free.numOpened === 2);
    wire.free.welcome();
    expect(wire.sent(Op.Create).length).toBe(1);
    await wire.openSession(sessionInfo('s'), 2);
    expect(await wire.next(Op.Create, 2)).toEqual(first);
    expect((await wire.next(Op.Create, 3))[3]).toMatchObject({ messages: [{ content: 'second' }] });
  });

  it('goes to the session made again when the server had forgotten it', async () => {
    const wire = wired();
    const session = wire.client.session();
    await wire.openSession(sessionInfo('s'));
    session.send('x');
    await wire.next(Op.Create);
    await wire.reconnect();
    const [, lane, requestId] = await wire.next(Op.OpenSession, 2);
    const error = { code: 'unknown_session', message: 'No.', retryable: false };
    wire.receive([Op.Error, lane as number, requestId as string, error]);
    await wire.openSession(sessionInfo('t'), 3);
    expect((await wire.next(Op.Create, 2))[3]).toMatchObject({ session: 't' });
  });

  it('fails with its session when that cannot be opened again', async () => {
    const wire = wired();
    const session = wire.client.session({ recreate: false });
    await wire.openSession(sessionInfo('s'));
    const response = session.send('x');
    await wire.next(Op.Create);
    await wire.reconnect();
    const [, lane, requestId] = await wire.next(Op.OpenSession, 2);
    const error = { code: 'unknown_session', message: 'No.', retryable: false };
    wire.receive([Op.Error, lane as number, requestId as string, error]);
    await expect(response.finished).rejects.toMatchObject({ code: 'unknown_session' });
  });

  it('that crosses the goaway is held for the next connection', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    const [, , requestId] = await wire.next(Op.Create);
    wire.receive([Op.Goaway, 0, 'shutting_down', 1]);
    const error = { code: 'shutting_down', message: 'Leaving.', retryable: true };
    wire.receive([Op.Error, 0, requestId as string, error]);
    expect(response.state.state).toBe('waiting');
    await wire.reconnect();
    expect((await wire.next(Op.Create, 2))[2]).toBe(requestId);
  });

  it('waits for a model that is loading', async () => {
    const wire = wired();
    wire.client.create(question);
    const [, , requestId] = await wire.next(Op.Create);
    const error = { code: 'model_loading', message: '50 %', retryable: true, retryAfterMs: 5 };
    wire.receive([Op.Error, 0, requestId as string, error]);
    expect((await wire.next(Op.Create, 2))[2]).toBe(requestId);
  });
});

describe('A cancel without a connection', () => {
  it('is sent as soon as the response is resumed', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'a']]]);
    wire.lose();
    void response.cancel();
    await until(() => wire.free.numOpened === 2);
    wire.free.welcome();
    await wire.resumed(1, true, 4, 'epoch');
    expect(wire.sent(Op.Cancel)).toEqual([[Op.Cancel, 0, 4]]);
    wire.done(4, 2, 'cancelled');
    expect(await response.finished).toMatchObject({ reason: 'cancelled', cancelledBy: 'caller', text: 'a' });
  });

  it('of a create without an answer follows the repeated create', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.next(Op.Create);
    wire.lose();
    void response.cancel();
    await until(() => wire.free.numOpened === 2);
    wire.free.welcome();
    await wire.created(2, 1, 'resp');
    expect(wire.sent(Op.Cancel)).toEqual([[Op.Cancel, 0, 1]]);
  });
});

describe('Cancel with heardUpTo', () => {
  it('sends the offset and fulfils when the server has cut its history', async () => {
    const wire = wired();
    const session = wire.client.session();
    await wire.openSession(sessionInfo('s'));
    const response = session.send('x');
    await wire.created(1, 1, 'resp', 's');
    wire.receive([Op.Deltas, 0, [[1, 1, 'one two three']]]);
    const cut = response.cancel({ heardUpTo: 3 });
    expect(wire.sent(Op.Cancel)).toEqual([[Op.Cancel, 1, 1, 3]]);
    wire.done(1, 2, 'cancelled', 1);
    wire.receive([Op.Cancelled, 1, 1, 2]);
    await cut;
    expect(session.messages.at(-1)).toEqual({ role: 'assistant', content: 'one' });
  });

  it('works after the end, and on another connection by watching the end again', async () => {
    const wire = wired();
    const session = wire.client.session();
    await wire.openSession(sessionInfo('s'));
    const response = session.send('x');
    await wire.created(1, 1, 'resp', 's');
    wire.receive([Op.Deltas, 0, [[1, 1, 'one two three']]]);
    wire.done(1, 2, 'stop', 1);
    await response.finished;
    await wire.reconnect();
    await wire.openSession(sessionInfo('s', { numTurns: 1 }), 2);
    const cut = response.cancel({ heardUpTo: 7 });
    expect((await wire.next(Op.Resume))[3]).toMatchObject({ lastSeq: 1 });
    await wire.resumed(1, true, 5, 'epoch');
    expect(wire.sent(Op.Cancel)).toEqual([[Op.Cancel, 1, 5, 7]]);
    wire.done(5, 2, 'stop', 1);
    wire.receive([Op.Cancelled, 1, 5, 2]);
    await cut;
    expect(session.messages.at(-1)?.content).toBe('one two');
    expect((await response.finished).text).toBe('one two three');
  });

  it('rejects with the server’s refusal, and throws for an offset that is not in the text', async () => {
    const wire = wired();
    const response = wire.client.create(question);
    await wire.created(1, 1, 'resp');
    wire.receive([Op.Deltas, 0, [[1, 1, 'abc']]]);
    wire.done(1, 2);
    await response.finished;
    for (const heardUpTo of [-1, 1.5, 4, Number.NaN]) {
      expect(() => response.cancel({ heardUpTo })).toThrow(RangeError);
    }
    const cut = response.cancel({ heardUpTo: 2 });
    const error = { code: 'invalid_request', message: 'Too late.', param: 'heard', retryable: false };
    wire.receive([Op.Error, 0, null, error]);
    await expect(cut).rejects.toMatchObject({ code: 'invalid_request', message: 'Too late.' });
  });
});

describe('Watching a response by its position', () => {
  it('goes on from there, with offsets of the whole text', async () => {
    const wire = wired();
    const response = wire.client.watch({ response: 'resp', epoch: 'epoch', lastSeq: 4 });
    expect((await wire.next(Op.Resume))[3]).toEqual({ response: 'resp', epoch: 'epoch', lastSeq: 4, offsets: true });
    await wire.resumed(1, true, 1, 'epoch');
    wire.receive([Op.Deltas, 0, [[1, 5, 'rest', 30]]]);
    wire.done(1, 6);
    await response.finished;
    const events = [];
    for await (const event of response.events()) events.push(event);
    expect(events).toEqual([{ type: 'text', seq: 6, text: 'rest', offset: 30, sentenceEnds: [] }]);
  });

  it('fetches the end again when that is all there is', async () => {
    const wire = wired();
    const response = wire.client.watch({ response: 'resp', epoch: 'epoch', lastSeq: 6 });
    await wire.resumed(1, true, null, 'epoch');
    expect((await wire.next(Op.Resume, 2))[3]).toMatchObject({ lastSeq: 5 });
    await wire.resumed(2, true, 1, 'epoch');
    wire.done(1, 6);
    expect((await response.finished).reason).toBe('stop');
  });

  it('fails with unknown_response when there is none', async () => {
    const wire = wired();
    const response = wire.client.watch({ response: 'resp' });
    await wire.resumed(1, false, null, null);
    const error: unknown = await response.finished.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ServiceError);
    expect(error).toMatchObject({ code: 'unknown_response' });
  });
});

describe('States', () => {
  it('are those that the server tells, with their details', async () => {
    const wire = wired();
    const states: ResponseState[] = [];
    const response = wire.client.create({ ...question, onState: (state) => states.push(state) });
    expect((await wire.next(Op.Create))[3]).toMatchObject({ states: true });
    await wire.created(1, 1, 'resp');
    wire.receive(
      [Op.State, 0, 1, 'queued', { position: 2 }],
      [Op.State, 0, 1, 'prefilling', { promptTokens: 9, cachedTokens: 4 }],
      [Op.State, 0, 1, 'running', {}],
      [Op.State, 0, 99, 'parked', {}],
    );
    expect(response.state).toEqual({ state: 'running' });
    wire.done(1, 1);
    await response.finished;
    expect(states.slice(1)).toEqual([
      { state: 'created' },
      { state: 'queued', position: 2 },
      { state: 'prefilling', promptTokens: 9, cachedTokens: 4 },
      { state: 'running' },
      { state: 'ended', reason: 'stop' },
    ]);
  });
});
