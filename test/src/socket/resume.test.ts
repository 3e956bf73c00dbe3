import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CloseCode, Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ResumeOptions, ServerMessage } from '../../../protocol/messages.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Response } from '../../../src/responses/response.ts';
import { House, settle, textOf } from '../support/house.ts';
import type { HouseOptions, TestClient } from '../support/house.ts';

const words = (count: number): string[] => Array.from({ length: count }, (_, index) => `w${index} `);
const INSTANCE = 'instance-of-a-test';

let house: House;
let client: TestClient;
let response: Response;
const start = (options: HouseOptions = {}, length = 20): void => {
  house?.stop();
  house = new House(options);
  house.engine.script = () => words(length);
  client = house.greeted();
  client.create('r');
  response = [...client.connection.outbox.live][0]!.response!;
};
beforeEach(() => start());
afterEach(() => house.stop());

function steps(count: number): void {
  for (let step = 0; step < count; step++) house.engine.step();
}

/** Sends Resume and returns the answer. */
function resume(from: TestClient, options: Partial<ResumeOptions> = {}, lane = 0): ServerMessage {
  from.take();
  from.push([Op.Resume, lane, 'again', { response: response.id, epoch: response.log.epoch, lastSeq: 0, ...options }]);
  return from.take()[0]!;
}

const error = (frame: ServerMessage): unknown => frame[0] === Op.Error && [frame[2], frame[3].code, frame[3].param];

describe('Resume', () => {
  it('sends the missing events once, merged, and then goes on live', async () => {
    steps(8);
    client.drop(1006);
    steps(2);
    const next = house.greeted();
    next.push([Op.OpenLane, 5, {}]);
    expect(resume(next, { lastSeq: 8 }, 5)).toEqual([
      Op.Resumed,
      5,
      'again',
      true,
      1,
      response.id,
      response.log.epoch,
      null,
    ]);
    await settle();
    expect(next.take()).toEqual([[Op.Deltas, 0, [[1, 10, 'w8 w9 ']]]]);
    house.nowMs += Limits.graceMs;
    house.sockets.tick();
    house.engine.run();
    const rest = next.take();
    expect(textOf(rest, 1)).toBe(words(20).slice(10).join(''));
    expect(rest.at(-1)!.slice(0, 5)).toEqual([Op.Done, 5, 1, 21, 'stop']);
  });

  it('watches from the beginning without an epoch, on several connections at once', async () => {
    steps(3);
    const others = [house.greeted(), house.greeted()];
    for (const other of others) {
      other.push([Op.Resume, 0, 'w', { response: response.id, lastSeq: 0 }]);
      expect(other.take()[0]!.slice(3, 5)).toEqual([true, 1]);
    }
    await settle();
    house.engine.run();
    for (const other of [client, ...others]) {
      const frames = other.take();
      expect(textOf(frames, 1)).toBe(words(20).join(''));
      expect(frames.filter((frame) => frame[0] === Op.Done)).toHaveLength(1);
    }
  });

  it('works while the old connection is still there, and when nothing was generated yet', async () => {
    const next = house.greeted();
    expect(resume(next)[3]).toBe(true);
    house.engine.run();
    for (const other of [client, next]) expect(textOf(other.take(), 1)).toBe(words(20).join(''));
  });

  it('gives what is left of an ended response, and no handle when nothing is', async () => {
    client.drop(1006);
    house.engine.run();
    const next = house.greeted();
    expect(resume(next, { lastSeq: 19 }).slice(3, 5)).toEqual([true, 1]);
    await settle();
    const frames = next.take();
    expect(frames[0]).toEqual([Op.Deltas, 0, [[1, 20, 'w19 ']]]);
    expect(frames[1]!.slice(0, 4)).toEqual([Op.Done, 0, 1, 21]);
    expect(resume(next, { lastSeq: 20 }).slice(3, 5)).toEqual([true, 2]);
    await settle();
    expect(next.take().map((frame) => frame[0])).toEqual([Op.Done]);
    expect(resume(next, { lastSeq: 21 }).slice(3)).toEqual([true, null, response.id, response.log.epoch, null]);
    await settle();
    expect(next.take()).toEqual([]);
  });

  it('starts over, and says so, when the client read another log', async () => {
    steps(4);
    const next = house.greeted();
    expect(resume(next, { epoch: 'feedfeedfeedfeed', lastSeq: 4000 }).slice(3)).toEqual([
      false,
      1,
      response.id,
      response.log.epoch,
      null,
    ]);
    await settle();
    house.engine.run();
    expect(textOf(next.take(), 1)).toBe(words(20).join(''));
  });

  it("does not tell an unknown response from an expired one or another caller's", () => {
    const stranger = house.greeted({ ...localCaller, tenant: 'other' });
    const gone = [Op.Resumed, 0, 'again', false, null, response.id, null, null];
    expect(resume(stranger)).toEqual(gone);
    house.engine.run();
    expect(resume(stranger, { lastSeq: 21 })).toEqual(gone);
    house.nowMs += Limits.responseRetentionMs + 1;
    expect(resume(client, { lastSeq: 21 })).toEqual(gone);
    expect(resume(client, { response: 'never', lastSeq: 3 })).toEqual(gone.with(5, 'never'));
    expect(stranger.connection.outbox.numLive).toBe(0);
  });

  it('is not recovered when memory pressure evicted the log', () => {
    start({ responses: { logMemoryBytes: 1 } });
    house.engine.run();
    expect(resume(house.greeted(), { lastSeq: 3 })[3]).toBe(false);
  });

  it('is not kept in memory by a reader that never reads: its connection is closed, others go on', async () => {
    start({}, 1000);
    const reader = house.greeted();
    reader.create('mine');
    house.engine.run();
    const stalled = client;
    const other = house.greeted();
    resume(other, { lastSeq: 900 });
    await settle();
    other.push([Op.Ack, 0, 1, 1001]);
    house.nowMs += Limits.responseRetentionMs + 1;
    expect(resume(house.greeted())[3]).toBe(false);
    await settle();
    expect(stalled.closed).toEqual({ code: CloseCode.slowConsumer, reason: 'slow_consumer' });
    expect(other.closed).toBeNull();
  });

  it('gives those who read a full memory some time, and no more', async () => {
    start({ responses: { logMemoryBytes: 1 } }, 1000);
    house.engine.run();
    expect(resume(house.greeted())[3]).toBe(true);
    house.nowMs += Limits.graceMs + 1;
    expect(resume(house.greeted())[3]).toBe(false);
    await settle();
    expect(client.closed?.code).toBe(CloseCode.slowConsumer);
    expect(house.responses.retained).toEqual({ count: 0, bytes: 0 });
  });

  it('refuses a seq beyond the newest event, and a response that this connection watches already', () => {
    steps(3);
    const next = house.greeted();
    expect(error(resume(next, { lastSeq: 4 }))).toEqual(['again', 'invalid_request', 'lastSeq']);
    expect(next.connection.outbox.numLive).toBe(0);
    expect(error(resume(client, { lastSeq: 3 }))).toEqual(['again', 'invalid_request', 'response']);
    house.engine.run();
    expect(error(resume(next, { lastSeq: 22 }))).toEqual(['again', 'invalid_request', 'lastSeq']);
    next.push([Op.Resume, 9, 'again', { response: response.id, lastSeq: 0 }]);
    expect(error(next.take()[0]!)).toEqual(['again', 'invalid_request', 'lane']);
  });

  it('counts credit from the seq it resumes at', async () => {
    start({}, 1000);
    client.drop(1006);
    steps(900);
    const next = house.greeted();
    resume(next, { lastSeq: 100 });
    await settle();
    expect(next.takeOnly(Op.Deltas)).toEqual([
      [Op.Deltas, 0, [[1, 100 + Limits.creditEvents, words(1000).slice(100, 356).join('')]]],
    ]);
    next.push([Op.Ack, 0, 1, 357]);
    expect(next.take()[0]).toMatchObject([Op.Error, 0, null, { param: 'seq' }]);
    next.push([Op.Ack, 0, 1, 356]);
    expect(next.takeOnly(Op.Deltas)[0]![2][0]![1]).toBe(612);
  });

  it('cancels by the resumed handle, acknowledged with the last seq', async () => {
    steps(5);
    client.drop(1006);
    const next = house.greeted();
    next.push([Op.OpenLane, 2, {}]);
    resume(next, { lastSeq: 5 }, 2);
    next.push([Op.Cancel, 0, 1]);
    steps(1);
    const frames = next.take();
    expect(frames.map((frame) => frame.slice(0, 5))).toEqual([
      [Op.Done, 2, 1, 6, 'cancelled'],
      [Op.Cancelled, 0, 1, 6],
    ]);
  });

  it('belongs to its lane: closing that cancels it; closing the connection with 1000 spares what others watch', async () => {
    const next = house.greeted();
    next.push([Op.OpenLane, 2, {}]);
    resume(next, {}, 2);
    next.drop(1000);
    steps(2);
    expect(response.isEnded).toBe(false);
    const third = house.greeted();
    third.push([Op.OpenLane, 2, {}]);
    resume(third, {}, 2);
    third.push([Op.CloseLane, 2]);
    steps(1);
    expect(response.state).toMatchObject({ end: { reason: 'cancelled' } });
  });

  it('gives responses started over HTTP their grace too, and leaves background ones alone', async () => {
    const options = { session: null, class: 'chat' as const, tools: [], sampling: defaultSampling };
    const started = [true, false].map((cancelsUnwatched) => {
      const prompt = { kind: 'tokens' as const, tokenIds: [1] };
      return house.responses.create(house.engine, localCaller, { ...options, prompt, cancelsUnwatched });
    });
    const [plain, background] = started as [Response, Response];
    const creator = { notify: () => {} };
    plain.subscribe(creator);
    const watch = (): TestClient => {
      const next = house.greeted();
      for (const { id } of started) next.push([Op.Resume, 0, id, { response: id, lastSeq: 0 }]);
      return next;
    };
    const lost = watch();
    plain.unsubscribe(creator);
    lost.drop(1006);
    steps(3);
    expect(plain.isEnded).toBe(false);
    watch().drop(1000);
    steps(1);
    expect(plain.state).toMatchObject({ end: { reason: 'cancelled' } });
    house.nowMs += Limits.graceMs;
    house.sockets.tick();
    house.engine.run();
    expect(background.state).toMatchObject({ end: { reason: 'stop' } });
  });

  it('is held to the limit of handles and the right to chat', () => {
    const next = house.greeted();
    for (let index = 0; index < Limits.handlesPerConnection; index++) next.create(`r${index}`);
    expect(resume(next)).toMatchObject([Op.Error, 0, 'again', { code: 'rate_limited' }]);
    const mute = house.greeted({ ...localCaller, scopes: [] });
    expect(resume(mute)).toMatchObject([Op.Error, 0, 'again', { code: 'not_allowed' }]);
  });

  it('is allowed while the server drains', () => {
    const next = house.greeted();
    house.sockets.goaway('shutting_down', 500);
    expect(resume(next)[0]).toBe(Op.Resumed);
  });
});

const named = (instance: string, caller = localCaller): TestClient => {
  const peer = house.connect(caller);
  peer.hello({ instance });
  peer.take();
  return peer;
};

describe('Create after a lost connection', () => {
  const hi = { messages: [{ role: 'user' as const, content: 'Hi' }] };
  const created = (peer: TestClient, requestId = 'one'): unknown => {
    peer.push([Op.Create, 0, requestId, hi]);
    return peer.takeOnly(Op.Created)[0]![4];
  };

  it('finds a one-off again by the instance of the client, from its beginning', async () => {
    const first = named(INSTANCE);
    const id = created(first);
    steps(4);
    first.drop(1006);
    const second = named(INSTANCE);
    expect(created(second)).toBe(id);
    await settle();
    house.engine.run();
    expect(textOf(second.take(), 1)).toBe(words(20).join(''));
    expect(house.engine.submitted).toHaveLength(2);
  });

  it('keeps instances, connections without one, and callers apart', () => {
    const ids = [
      created(named(INSTANCE)),
      created(named(`${INSTANCE}2`)),
      created(named(INSTANCE, { ...localCaller, tenant: 'other' })),
      created(house.greeted()),
      created(house.greeted()),
    ];
    expect(new Set(ids).size).toBe(5);
    expect(created(named(house.greeted().connection.id))).not.toBe(ids[4]);
  });
});

describe('Goaway', () => {
  it('spreads the reconnects of its connections between the planned time and twice that', () => {
    let turn = 0;
    start({ socket: { random: () => [0, 0.25, 0.999][turn++ % 3]! } });
    const peers = [client, house.greeted(), house.greeted()];
    client.take();
    house.sockets.goaway('shutting_down', 1000);
    expect(peers.map((peer) => peer.takeOnly(Op.Goaway)[0]![3])).toEqual([1000, 1250, 1999]);
    // A refusal gives the same advice, not another time before which the server may not be back.
    const refusals = peers.map((peer) => {
      peer.push([Op.Create, 0, 'late', { messages: [{ role: 'user', content: 'x' }] }]);
      return peer.takeOnly(Op.Error)[0]![3].retryAfterMs;
    });
    expect(refusals).toEqual([1000, 1250, 1999]);
  });

  it('also reaches who says hello while the server drains', () => {
    const late = house.connect();
    house.sockets.goaway('shutting_down', 1000);
    late.hello();
    expect(late.take().map((frame) => frame[0])).toEqual([Op.Welcome, Op.Goaway]);
    late.push([Op.OpenSession, 0, 's', {}]);
    expect(late.takeOnly(Op.Error)[0]![3].code).toBe('shutting_down');
  });
});
