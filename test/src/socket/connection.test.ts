import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { encodeCopy } from '../../../protocol/codec.ts';
import { CloseCode, Limits, PROTOCOL_VERSION } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ClientMessage, ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { House, settle, textOf } from '../support/house.ts';
import type { HouseOptions, TestClient } from '../support/house.ts';

/** Frames as a list of [op, lane, code or requestId], for the errors among them. */
const errorsIn = (frames: ServerMessage[]): unknown[] =>
  frames.flatMap((frame) => (frame[0] === Op.Error ? [[frame[1], frame[2], frame[3].code, frame[3].param]] : []));
const raw = (frame: unknown): Uint8Array => encodeCopy(frame as ClientMessage);

let house: House;
let client: TestClient;
const start = (options: HouseOptions = {}): void => {
  house?.stop();
  house = new House(options);
  client = house.greeted();
};
beforeEach(() => start());
afterEach(() => house.stop());

describe('A flood of refused frames', () => {
  const wrong = raw([Op.Create, 0, 'r', { messages: 7 }]);
  const push = (count: number): void => {
    for (let pushed = 0; pushed < count; pushed++) client.push(wrong);
  };

  it('ends its connection with too_many_errors above the limit of a second', () => {
    const reasons: string[] = [];
    start({ socket: { onEnded: (reason) => reasons.push(reason) } });
    push(Limits.errorsPerSecond);
    expect(client.closed).toBeNull();
    expect(client.take().length).toBe(Limits.errorsPerSecond);
    push(1);
    expect(client.take()).toMatchObject([[Op.Error, 0, null, { code: 'too_many_errors', retryable: false }]]);
    expect(client.closed).toEqual({ code: CloseCode.policy, reason: 'too_many_errors' });
    push(1);
    expect(client.take()).toEqual([]);
    expect(reasons).toEqual(['too_many_errors']);
  });

  it('counts anew each second', () => {
    for (let second = 0; second < 5; second++) {
      push(Limits.errorsPerSecond);
      house.nowMs += 1000;
    }
    expect(client.closed).toBeNull();
  });

  it('is not made of refusals that may be repeated, nor of what is answered', () => {
    house.sockets.goaway('shutting_down', 1000);
    for (let sent = 0; sent < 3 * Limits.errorsPerSecond; sent++) {
      client.push([Op.Create, 0, `r${sent}`, { messages: [{ role: 'user', content: 'Hi' }] }]);
      client.push([Op.Ping, 0, sent]);
    }
    expect(client.closed).toBeNull();
  });
});

describe('Connection', () => {
  it('welcomes hello with version, models and limits, and then answers pings', () => {
    const newcomer = house.connect();
    newcomer.push([Op.Hello, 0, 99, { client: 'test/1' }]);
    newcomer.push([Op.Ping, 0, 'n']);
    const [welcome, pong] = newcomer.take();
    expect(welcome).toEqual([
      Op.Welcome,
      0,
      PROTOCOL_VERSION,
      {
        server: 'tokenwire/test',
        connection: newcomer.connection.id,
        models: [house.engine.model],
        limits: { ...Limits },
      },
    ]);
    expect(pong).toEqual([Op.Pong, 0, 'n']);
    expect(newcomer.connection.client).toBe('test/1');
  });

  it('tells the limits that settings changed', () => {
    start({ socket: { limits: { queuedRequests: 7 } } });
    const newcomer = house.connect();
    newcomer.push([Op.Hello, 0, 1, {}]);
    expect(newcomer.take()[0]).toMatchObject([
      Op.Welcome,
      0,
      PROTOCOL_VERSION,
      { limits: { ...Limits, queuedRequests: 7 } },
    ]);
  });

  it.each([
    ['a text frame', (peer: TestClient) => peer.pushText(), 'invalid_frame', CloseCode.unsupportedData],
    [
      'undecodable bytes',
      (peer: TestClient) => peer.push(Uint8Array.of(0xc1)),
      'invalid_frame',
      CloseCode.invalidFrame,
    ],
    ['no frame', (peer: TestClient) => peer.push(raw('hi')), 'invalid_frame', CloseCode.invalidFrame],
    ['a frame before hello', (peer: TestClient) => peer.push([Op.Ping, 0, 1]), 'invalid_frame', CloseCode.invalidFrame],
    [
      'an unknown op before hello',
      (peer: TestClient) => peer.push(raw([9, 0])),
      'invalid_frame',
      CloseCode.invalidFrame,
    ],
    ['version 0', (peer: TestClient) => peer.push([Op.Hello, 0, 0, {}]), 'version_unsupported', CloseCode.policy],
    [
      'an oversize first frame',
      (peer: TestClient) => peer.push(new Uint8Array(Limits.messageBytes + 1)),
      'invalid_frame',
      CloseCode.invalidFrame,
    ],
  ])('ends a connection that begins with %s', (_, act, code, closeCode) => {
    const newcomer = house.connect();
    act(newcomer);
    expect(errorsIn(newcomer.take())).toEqual([[0, null, code, undefined]]);
    expect(newcomer.closed).toEqual({ code: closeCode, reason: code });
    expect(house.sockets.numConnections).toBe(1);
    // The rest of what was under way falls on deaf ears.
    newcomer.hello();
    expect(newcomer.take()).toEqual([]);
  });

  it('ends an open connection for text or undecodable frames, and leaves others alone', () => {
    const neighbour = house.greeted();
    client.push(Uint8Array.of(0x91));
    expect(client.closed?.code).toBe(CloseCode.invalidFrame);
    neighbour.pushText();
    expect(neighbour.closed?.code).toBe(CloseCode.unsupportedData);
    const third = house.greeted();
    expect(third.closed).toBeNull();
  });

  it('lets a malformed hello be said again, but no second one after the welcome', () => {
    const newcomer = house.connect();
    newcomer.push(raw([Op.Hello, 0, 1, { token: 5 }]));
    expect(errorsIn(newcomer.take())).toEqual([[0, null, 'invalid_request', 'token']]);
    newcomer.hello();
    newcomer.hello();
    expect(newcomer.take().map((frame) => frame[0])).toEqual([Op.Welcome, Op.Error]);
    expect(newcomer.closed).toBeNull();
  });

  it('closes a client that says no hello in time', () => {
    const silent = house.connect();
    house.nowMs += Limits.helloTimeoutMs - 1;
    house.sockets.tick();
    expect(silent.closed).toBeNull();
    house.nowMs += 1;
    house.sockets.tick();
    expect(silent.closed).toEqual({ code: CloseCode.policy, reason: 'unauthorized' });
    expect(client.closed).toBeNull();
  });

  it('asks the authenticator for the token of hello, and for nothing when the upgrade named the caller', () => {
    const tokens: unknown[] = [];
    const keyed = { ...localCaller, tenant: 'keyed' };
    start({
      socket: {
        authenticate: (token) => {
          tokens.push(token);
          if (token === 'good') return keyed;
          throw new ServiceError('unauthorized', 'No.');
        },
      },
    });
    // start() itself greeted a client without a token.
    expect(client.closed).toEqual({ code: CloseCode.policy, reason: 'unauthorized' });
    const byToken = house.connect(localCaller);
    byToken.hello({ token: 'good' });
    expect(byToken.connection.caller).toBe(keyed);
    const byHeader = house.connect(localCaller);
    byHeader.hello();
    expect(byHeader.connection.caller).toBe(localCaller);
    const wrong = house.connect();
    wrong.hello({ token: 'bad' });
    expect(errorsIn(wrong.take())).toEqual([[0, null, 'unauthorized', undefined]]);
    expect(wrong.closed?.code).toBe(CloseCode.policy);
    expect(tokens).toEqual([undefined, 'good', 'bad']);
  });

  it('answers an unknown op and an oversize frame on their lane and goes on', () => {
    client.push([Op.OpenLane, 3, {}]);
    client.take();
    client.push(raw([31, 3, 'r9']));
    const big = raw([Op.Create, 3, 'r1', { messages: [{ role: 'user', content: 'x'.repeat(Limits.messageBytes) }] }]);
    client.push(big);
    expect(errorsIn(client.take())).toEqual([
      [3, 'r9', 'unsupported', 'op'],
      [3, 'r1', 'too_large', undefined],
    ]);
    const unreadable = new Uint8Array(Limits.messageBytes + 1);
    client.push(unreadable);
    expect(client.closed?.code).toBe(CloseCode.invalidFrame);
  });

  it('answers a bad field with the requestId, the lane and the name of the field', () => {
    client.push([Op.OpenLane, 2, {}]);
    client.take();
    client.push(raw([Op.Create, 2, 'r1', { messages: [] }]));
    client.push(raw([Op.Create, 2, 'r2', { messages: [{ role: 'user', content: 'x' }], sampling: { topP: 2 } }]));
    client.push(raw([Op.Create, 2, 'r3', { messages: [{ role: 'user', content: 'x' }], model: 'nope' }]));
    client.push(raw([Op.Cancel, 2, 0]));
    expect(errorsIn(client.take())).toEqual([
      [2, 'r1', 'invalid_request', 'messages'],
      [2, 'r2', 'invalid_request', 'sampling.topP'],
      [2, 'r3', 'unknown_model', 'model'],
      [2, null, 'invalid_request', 'handle'],
    ]);
  });

  it('opens and closes lanes, and refuses what is on none', () => {
    client.push([Op.OpenLane, 5, {}]);
    client.push([Op.OpenLane, 5, {}]);
    client.push([Op.Ping, 6, 1]);
    client.push([Op.CloseLane, 6]);
    client.push([Op.Ack, 6, 77, 1]);
    client.push([Op.CloseLane, 5]);
    client.push([Op.Create, 5, 'r', { messages: [{ role: 'user', content: 'x' }] }]);
    client.push([Op.OpenLane, 5, {}]);
    const frames = client.take();
    expect(frames.map((frame) => frame[0])).toEqual([
      Op.LaneOpened,
      Op.Error,
      Op.Error,
      Op.Error,
      Op.LaneClosed,
      Op.Error,
      Op.LaneOpened,
    ]);
    expect(errorsIn(frames)).toEqual([
      [5, null, 'invalid_request', 'lane'],
      [6, null, 'invalid_request', 'lane'],
      [6, null, 'invalid_request', 'lane'],
      [5, 'r', 'invalid_request', 'lane'],
    ]);
  });

  it('has a limit of lanes', () => {
    for (let lane = 1; lane <= Limits.lanesPerConnection; lane++) client.push([Op.OpenLane, lane, {}]);
    client.take();
    client.push([Op.OpenLane, 999, {}]);
    expect(errorsIn(client.take())).toEqual([[999, null, 'too_many_lanes', undefined]]);
  });

  it('takes the class from create, else from the lane, else from the caller', () => {
    client.push([Op.OpenLane, 1, { class: 'ide' }]);
    client.push([Op.OpenLane, 2, {}]);
    client.create('a', { class: 'voice' }, 1);
    client.create('b', {}, 1);
    client.create('c', {}, 2);
    expect(house.engine.submitted.map((options) => options.class)).toEqual(['voice', 'ide', 'chat']);
  });

  it('answers every session op, and the errors of other callers', () => {
    client.push([Op.OpenSession, 0, 'a', { system: 'S' }]);
    const [opened] = client.takeOnly(Op.SessionOpened);
    const { session } = opened![3];
    client.create('b', { session });
    house.engine.run();
    return settle().then(() => {
      client.take();
      client.push([Op.ListSessions, 0, 'c']);
      client.push([Op.History, 0, 'd', session]);
      client.push([Op.Fork, 0, 'e', session, 1]);
      client.push([Op.Rollback, 0, 'f', session, 0]);
      client.push([Op.OpenSession, 0, 'g', { session }]);
      client.push([Op.CloseSession, 0, 'h', session]);
      client.push([Op.History, 0, 'i', session]);
      const frames = client.take();
      expect(frames.map((frame) => [frame[0], frame[2]])).toEqual([
        [Op.Sessions, 'c'],
        [Op.SessionHistory, 'd'],
        [Op.SessionOpened, 'e'],
        [Op.SessionOpened, 'f'],
        [Op.SessionOpened, 'g'],
        [Op.SessionClosed, 'h'],
        [Op.Error, 'i'],
      ]);
      expect(frames[1]![4]).toEqual([
        { role: 'system', content: 'S' },
        { role: 'user', content: 'Hi' },
        { role: 'assistant', content: 'Hello world.' },
      ]);
    });
  });

  it('refuses a caller without the right to chat', () => {
    const reader = house.greeted({ ...localCaller, scopes: [] });
    reader.push([Op.Create, 0, 'r', { messages: [{ role: 'user', content: 'x' }] }]);
    reader.push([Op.OpenSession, 0, 's', {}]);
    expect(errorsIn(reader.take())).toEqual([
      [0, 'r', 'not_allowed', undefined],
      [0, 's', 'not_allowed', undefined],
    ]);
  });

  it('answers internal for a bug of ours, tells the host, and goes on', () => {
    house.engine.refuse = new TypeError('boom') as unknown as ServiceError;
    client.push([Op.Create, 0, 'r', { messages: [{ role: 'user', content: 'x' }] }]);
    expect(errorsIn(client.take())).toEqual([[0, 'r', 'internal', undefined]]);
    expect(house.errors).toHaveLength(1);
    client.push([Op.Ping, 0, 1]);
    expect(client.take()).toEqual([[Op.Pong, 0, 1]]);
  });

  it('says goaway, refuses new work, lets running responses finish, and closes with 1012', () => {
    const silent = house.connect();
    const handle = client.create('a');
    client.take();
    house.sockets.goaway('shutting_down', 500);
    expect(client.take()).toEqual([[Op.Goaway, 0, 'shutting_down', 500]]);
    expect(silent.take()).toEqual([]);
    client.push([Op.Create, 0, 'b', { messages: [{ role: 'user', content: 'x' }] }]);
    client.push([Op.OpenSession, 0, 'c', {}]);
    expect(
      client.take().map((frame) => frame[0] === Op.Error && [frame[2], frame[3].code, frame[3].retryAfterMs]),
    ).toEqual([
      ['b', 'shutting_down', 500],
      ['c', 'shutting_down', 500],
    ]);
    house.engine.run();
    expect(textOf(client.take(), handle)).toBe('Hello world.');
    house.sockets.closeAll(CloseCode.restart, 'shutting_down');
    expect(client.closed).toEqual({ code: 1012, reason: 'shutting_down' });
    expect(house.sockets.numConnections).toBe(0);
  });
});
