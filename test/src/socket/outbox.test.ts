import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { CloseCode, FLUSH_WINDOW_MS, Limits } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { House, settle, textOf } from '../support/house.ts';
import type { HouseOptions, TestClient } from '../support/house.ts';

/** Each frame begins with what is expected of it; fields left out at the end are free. */
function expectFrames(frames: readonly ServerMessage[], expected: readonly unknown[][]): void {
  expect(frames.map((frame, index) => frame.slice(0, expected[index]?.length))).toMatchObject(expected);
}

const ops = (frames: ServerMessage[]): number[] => frames.map((frame) => frame[0]);
const words = (count: number): string[] => Array.from({ length: count }, (_, index) => `w${index} `);

let house: House;
let client: TestClient;
const start = (options: HouseOptions = {}): void => {
  house?.stop();
  house = new House(options);
  client = house.greeted();
};
beforeEach(() => start());
afterEach(() => {
  house.stop();
  vi.useRealTimers();
});

/** Advances the clock of the house and the timers together. */
function pass(ms: number): void {
  house.nowMs += ms;
  vi.advanceTimersByTime(ms);
}

describe('Outbox', () => {
  it('sends created, deltas and done, in order and with the seqs of the log', () => {
    const handle = client.create('r1');
    house.engine.run();
    const frames = client.take();
    const response = house.responses.byRequest(JSON.stringify(['local', client.connection.id, 'r1']))!;
    expect(frames[0]).toEqual([Op.Created, 0, 'r1', handle, response.id, response.log.epoch, null]);
    expect(frames.slice(1, 4)).toEqual([
      [Op.Deltas, 0, [[handle, 1, 'Hello']]],
      [Op.Deltas, 0, [[handle, 2, ' world']]],
      [Op.Deltas, 0, [[handle, 3, '.']]],
    ]);
    expect(frames[4]).toMatchObject([Op.Done, 0, handle, 4, 'stop', { completionTokens: 3 }, {}, null]);
    expect(frames).toHaveLength(5);
  });

  it('puts all text of one step for one socket into one frame, whatever the lanes', () => {
    client.push([Op.OpenLane, 1, { class: 'voice' }]);
    const handles = [client.create('a', {}, 1), client.create('b', { class: 'ide' }), client.create('c', {}, 1)];
    client.take();
    house.engine.step();
    const frames = client.take();
    expect(frames).toEqual([[Op.Deltas, 0, handles.map((handle) => [handle, 1, 'Hello'])]]);
  });

  it('spends at most 16 bytes on a delta in a batch', () => {
    for (let index = 0; index < 64; index++) client.create(`r${index}`);
    client.take();
    house.engine.script = () => [];
    house.engine.step();
    client.take();
    const before = client.numBytes;
    house.nowMs += FLUSH_WINDOW_MS;
    house.engine.step();
    const [frame] = client.takeOnly(Op.Deltas);
    expect(frame![2]).toHaveLength(64);
    expect((client.numBytes - before) / 64).toBeLessThanOrEqual(16);
  });

  it('renders tool calls as events of their own, in order with the text around them', () => {
    house.engine.script = () => [];
    client.push([Op.OpenLane, 4, {}]);
    const handle = client.create('r', { tools: [{ name: 'f' }] }, 4);
    client.take();
    const { sink } = house.engine.active.get(1)!;
    sink.onText('Well');
    sink.onToolBegin(0, 'f');
    sink.onToolDelta(0, '{"a":');
    sink.onToolDelta(0, '1}');
    sink.onToolEnd(0);
    sink.onText('!');
    house.engine.step();
    const frames = client.take();
    expect(ops(frames)).toEqual([Op.Deltas, Op.ToolBegin, Op.ToolDelta, Op.ToolDelta, Op.ToolEnd, Op.Deltas, Op.Done]);
    expect(frames[1]!.slice(1, 5)).toEqual([4, handle, 2, 0]);
    expect(frames[1]![6]).toBe('f');
    expect(frames[3]).toEqual([Op.ToolDelta, 4, handle, 4, 0, '1}']);
    expect(frames[5]).toEqual([Op.Deltas, 0, [[handle, 6, '!']]]);
  });

  it('carries the error of a failed response in done', () => {
    house.engine.script = () => ['a', { end: 'error', error: new ServiceError('worker_lost', 'Gone.') }];
    client.create('r');
    house.engine.run();
    const [done] = client.takeOnly(Op.Done);
    expectFrames([done!], [[Op.Done, 0, 1, 2, 'error', {}, {}, { code: 'worker_lost', retryable: true }]]);
  });

  it('stops after 256 unacknowledged events, merges what waits, and goes on with the acks', () => {
    house.engine.script = () => words(1000);
    const handle = client.create('r');
    for (let step = 0; step < 600; step++) house.engine.step();
    const first = client.take();
    expectFrames([first.at(-1)!], [[Op.Deltas, 0, [[handle, Limits.creditEvents, 'w255 ']]]]);
    client.push([Op.Ack, 0, handle, 100]);
    const second = client.take();
    expect(second).toEqual([[Op.Deltas, 0, [[handle, 356, words(1000).slice(256, 356).join('')]]]]);
    client.push([Op.Ack, 0, handle, 50]);
    expect(client.take()).toEqual([]);
    client.push([Op.Ack, 0, handle, 356]);
    house.engine.run();
    client.push([Op.Ack, 0, handle, 600]);
    client.push([Op.Ack, 0, handle, 856]);
    const rest = client.take();
    expectFrames([rest.at(-1)!], [[Op.Done, 0, handle, 1001, 'stop']]);
    expect(textOf([...first, ...second, ...rest], handle)).toBe(words(1000).join(''));
  });

  it('lets done alone pass without credit', () => {
    house.engine.script = () => words(Limits.creditEvents);
    client.create('r');
    house.engine.run();
    expectFrames([client.take().at(-1)!], [[Op.Done, 0, 1, Limits.creditEvents + 1]]);
  });

  it('refuses an ack of what was never sent and ignores one of a handle that is unknown or over', () => {
    client.create('r');
    house.engine.run();
    client.take();
    client.push([Op.Ack, 0, 1, 5]);
    expectFrames(client.take(), [[Op.Error, 0, null, { code: 'invalid_request', param: 'seq' }]]);
    client.push([Op.Ack, 0, 1, 4]);
    client.push([Op.Ack, 0, 1, 4]);
    client.push([Op.Ack, 0, 99, 4]);
    expect(client.take()).toEqual([]);
    expect(client.connection.outbox.unackedBytes).toBe(0);
  });

  it('answers cancel after done with the last seq, on the lane of the cancel, and sends nothing more', () => {
    house.engine.script = () => words(100);
    client.push([Op.OpenLane, 2, {}]);
    const handle = client.create('r');
    house.engine.step();
    client.take();
    client.push([Op.Cancel, 2, handle]);
    client.push([Op.Cancel, 0, handle]);
    expect(client.take()).toEqual([]);
    house.engine.step();
    expectFrames(client.take(), [
      [Op.Done, 0, handle, 2, 'cancelled', { completionTokens: 1 }],
      [Op.Cancelled, 2, handle, 2],
      [Op.Cancelled, 0, handle, 2],
    ]);
    house.engine.run();
    expect(client.take()).toEqual([]);
    client.push([Op.Cancel, 0, handle]);
    expect(client.take()).toEqual([[Op.Cancelled, 0, handle, 2]]);
    client.push([Op.Cancel, 0, 9]);
    expectFrames(client.take(), [[Op.Error, 0, null, { code: 'unknown_response', param: 'handle' }]]);
    house.nowMs += Limits.responseRetentionMs + 1;
    client.push([Op.Cancel, 0, handle]);
    expectFrames(client.take(), [[Op.Error, 0, null, { code: 'unknown_response' }]]);
  });

  it('holds no cancel up for want of credit', () => {
    house.engine.script = () => words(1000);
    const handle = client.create('r');
    for (let step = 0; step < 500; step++) house.engine.step();
    const first = client.take();
    client.push([Op.Cancel, 0, handle]);
    house.engine.step();
    const rest = client.take();
    expect(ops(rest)).toEqual([Op.Deltas, Op.Done, Op.Cancelled]);
    expect(textOf([...first, ...rest], handle)).toBe(words(500).join(''));
  });

  it('cancels a response that still waits in its session at once', async () => {
    client.push([Op.OpenSession, 0, 's', {}]);
    const { session } = client.takeOnly(Op.SessionOpened)[0]![3];
    client.create('a', { session });
    const waiting = client.create('b', { session });
    client.take();
    client.push([Op.Cancel, 0, waiting]);
    await settle();
    expectFrames(client.take(), [
      [Op.Done, 0, waiting, 1, 'cancelled', { completionTokens: 0 }],
      [Op.Cancelled, 0, waiting, 1],
    ]);
  });

  it('cancels the responses of a closed lane, whose last frames still follow', () => {
    house.engine.script = () => words(5);
    client.push([Op.OpenLane, 3, {}]);
    const mine = client.create('a', {}, 3);
    const other = client.create('b');
    house.engine.step();
    client.take();
    client.push([Op.CloseLane, 3]);
    expect(client.take()).toEqual([[Op.LaneClosed, 3]]);
    house.engine.run();
    const done = client.takeOnly(Op.Done).map((frame) => [frame[1], frame[2], frame[4]]);
    expect(done).toEqual([
      [3, mine, 'cancelled'],
      [0, other, 'stop'],
    ]);
  });

  it('pauses data frames above the unacknowledged bytes and frees them by any ack', () => {
    house.engine.script = () => Array.from({ length: 200 }, () => 'x'.repeat(10_000));
    const handle = client.create('r');
    house.engine.run();
    const frames = client.take();
    expect(client.connection.outbox.unackedBytes).toBeGreaterThanOrEqual(Limits.unackedBytes);
    expect(client.connection.outbox.unackedBytes).toBeLessThan(Limits.unackedBytes + 20_000);
    expect(ops(frames)).not.toContain(Op.Done);
    client.push([Op.Ping, 0, 1]);
    expect(client.take()).toEqual([[Op.Pong, 0, 1]]);
    const last = frames.findLast((frame) => frame[0] === Op.Deltas);
    const seq = last?.[0] === Op.Deltas ? last[2][0]![1] : 0;
    client.push([Op.Ack, 0, handle, seq]);
    const rest = client.take();
    expect(ops(rest)).toContain(Op.Done);
    expect(textOf([...frames, ...rest], handle)).toHaveLength(2_000_000);
  });

  it('pauses data frames while the socket is full, still sends control frames, and merges on drain', () => {
    house.engine.script = () => words(100);
    const handle = client.create('r');
    house.engine.step();
    client.buffered = Limits.bufferedBytes;
    client.take();
    const numFrames = client.numFrames;
    house.engine.run();
    expect(client.numFrames).toBe(numFrames);
    client.push([Op.Ping, 0, 7]);
    expect(client.take()).toEqual([[Op.Pong, 0, 7]]);
    client.drain();
    const rest = client.take();
    expect(ops(rest)).toEqual([Op.Deltas, Op.Done]);
    expect(textOf(rest, handle)).toBe(words(100).slice(1).join(''));
  });

  it('sends what waits for a drained socket in frames of about 64 KiB, and stops when it fills again', () => {
    house.engine.script = () => Array.from({ length: 20 }, () => 'x'.repeat(1000));
    for (let index = 0; index < 20; index++) client.create(`r${index}`);
    client.buffered = Limits.bufferedBytes;
    house.engine.run();
    client.take();
    const before = client.numBytes;
    client.drain();
    const frames = client.takeOnly(Op.Deltas);
    expect(frames.length).toBeGreaterThanOrEqual(5);
    expect(frames.flatMap((frame) => frame[2])).toHaveLength(20);
    expect(client.numBytes - before).toBeGreaterThan(400_000);
    for (const frame of frames) expect(frame[2].length).toBeLessThanOrEqual(4);

    for (let index = 0; index < 20; index++) client.create(`again${index}`);
    client.buffered = Limits.bufferedBytes;
    house.engine.run();
    client.take();
    client.fillPerFrame = 100_000;
    client.drain();
    expect(client.takeOnly(Op.Deltas)).toHaveLength(3);
    client.drain();
    expect(client.takeOnly(Op.Deltas)).toHaveLength(2);
  });

  it('closes as slow consumer when the socket drops a frame, and leaves the neighbours their text', () => {
    const neighbour = house.greeted();
    client.create('r');
    const handle = neighbour.create('r');
    client.take();
    client.sendResult = 2;
    house.engine.run();
    expect(client.closed).toEqual({ code: CloseCode.slowConsumer, reason: 'slow_consumer' });
    expect(textOf(neighbour.take(), handle)).toBe('Hello world.');
    expect(house.sockets.numConnections).toBe(1);
  });

  it('collects chat and batch deltas of a busy machine for one window, after the first delta', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    start({ socket: { busyResponses: 2 } });
    house.engine.script = () => words(50);
    const a = client.create('a');
    house.engine.step();
    client.create('b', { class: 'batch' });
    client.take();
    pass(2);
    house.engine.step();
    // b's first delta leaves at once, and takes along what waits.
    expectFrames(client.take(), [
      [
        Op.Deltas,
        0,
        [
          [a, 2, 'w1 '],
          [2, 1, 'w0 '],
        ],
      ],
    ]);
    for (let step = 0; step < 4; step++) {
      pass(3);
      house.engine.step();
    }
    expect(client.take()).toEqual([]);
    pass(FLUSH_WINDOW_MS - 4 * 3);
    expect(client.take()).toEqual([
      [
        Op.Deltas,
        0,
        [
          [a, 6, 'w2 w3 w4 w5 '],
          [2, 5, 'w1 w2 w3 w4 '],
        ],
      ],
    ]);
  });

  it('sends voice and ide text every step however busy the machine is, and done at once', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    start({ socket: { busyResponses: 1 } });
    house.engine.script = () => words(3);
    client.create('a', { class: 'voice' });
    for (let step = 0; step < 4; step++) {
      pass(1);
      house.engine.step();
    }
    expect(ops(client.take())).toEqual([Op.Created, Op.Deltas, Op.Deltas, Op.Deltas, Op.Done]);
    client.create('b');
    for (let step = 0; step < 4; step++) {
      pass(1);
      house.engine.step();
    }
    const frames = client.take();
    expect(frames[1]).toEqual([Op.Deltas, 0, [[2, 1, 'w0 ']]]);
    expect(ops(frames).at(-1)).toBe(Op.Done);
    expect(textOf(frames, 2)).toBe(words(3).join(''));
  });

  it('reports how long ago the newest token of a frame was sampled, by class', () => {
    client.create('a', { class: 'voice' });
    const { sink } = house.engine.active.get(1)!;
    sink.onToken(1, 'x', house.nowMs - 1.5);
    house.engine.active.get(1)!.isHeld = true;
    house.engine.step();
    expect(house.delays).toEqual([['voice', 1.5]]);
  });

  it('repeats the handle of a live response for a repeated create, and sends no event twice', () => {
    house.engine.script = () => words(3);
    const handle = client.create('same');
    house.engine.step();
    const first = client.take();
    expect(client.create('same')).toBe(handle);
    house.engine.run();
    const rest = client.take();
    expect(rest.filter((frame) => frame[0] === Op.Created)).toHaveLength(1);
    expect(textOf([...first, ...rest], handle)).toBe(words(3).join(''));
    expect(house.engine.submitted).toHaveLength(1);
  });

  it('gives a new handle and the whole log when a create is repeated after done or elsewhere', async () => {
    client.push([Op.OpenSession, 0, 's', {}]);
    const { session } = client.takeOnly(Op.SessionOpened)[0]![3];
    house.engine.script = () => words(3);
    const handle = client.create('same', { session });
    house.engine.step();
    const elsewhere = house.greeted();
    const theirs = elsewhere.create('same', { session });
    await settle();
    expect(textOf(elsewhere.take(), theirs)).toBe('w0 ');
    house.engine.run();
    client.take();
    const again = client.create('same', { session });
    expect(again).not.toBe(handle);
    await settle();
    expectFrames(client.take(), [
      [Op.Created, 0, 'same', again],
      [Op.Deltas, 0, [[again, 3, words(3).join('')]]],
      [Op.Done, 0, again, 4],
    ]);
    expect(house.engine.submitted).toHaveLength(1);
  });

  it('has a limit of live handles', () => {
    for (let index = 0; index < Limits.handlesPerConnection; index++) client.create(`r${index}`);
    client.take();
    client.push([Op.Create, 0, 'more', { messages: [{ role: 'user', content: 'x' }] }]);
    expectFrames(client.take(), [[Op.Error, 0, 'more', { code: 'rate_limited', retryable: true }]]);
    house.engine.run();
    client.take();
    expect(() => client.create('more')).not.toThrow();
  });
});

describe('Disconnects', () => {
  it('cancels the responses of a client that closes with 1000', () => {
    client.create('a');
    house.engine.step();
    client.drop(1000);
    expect(house.engine.cancelled).toEqual([1]);
    expect(house.sockets.numConnections).toBe(0);
  });

  it('leaves a response to others who watch it', () => {
    client.push([Op.OpenSession, 0, 's', {}]);
    const { session } = client.takeOnly(Op.SessionOpened)[0]![3];
    client.create('a', { session });
    const watcher = house.greeted();
    const handle = watcher.create('a', { session });
    client.drop(1000);
    house.engine.run();
    expect(textOf(watcher.take(), handle)).toBe('Hello world.');
  });

  it.each([1001, 1005, 1006])('gives responses their grace time after a close with %i, then cancels', (code) => {
    house.engine.script = () => words(1000);
    client.create('a');
    house.engine.step();
    client.drop(code);
    house.nowMs += Limits.graceMs - 1;
    house.sockets.tick();
    house.engine.step();
    expect(house.engine.cancelled).toEqual([]);
    house.nowMs += 1;
    house.sockets.tick();
    expect(house.engine.cancelled).toEqual([1]);
  });

  it('cancels nothing when somebody watches again, and gives a new grace time after the next drop', () => {
    house.engine.script = () => words(1000);
    client.push([Op.OpenSession, 0, 's', {}]);
    const { session } = client.takeOnly(Op.SessionOpened)[0]![3];
    client.create('a', { session });
    client.drop(1006);
    house.nowMs += Limits.graceMs - 10;
    const back = house.greeted();
    back.create('a', { session });
    back.drop(1006);
    house.nowMs += 20;
    house.sockets.tick();
    expect(house.engine.cancelled).toEqual([]);
    house.nowMs += Limits.graceMs;
    house.sockets.tick();
    expect(house.engine.cancelled).toEqual([1]);
  });

  it('never sends to a closed socket and keeps no subscription', async () => {
    client.create('a');
    const response = house.responses.byRequest(JSON.stringify(['local', client.connection.id, 'a']))!;
    client.drop(1006);
    expect(response.numSubscribers).toBe(0);
    house.engine.run();
    await settle();
    expect(response.caller).toBe(localCaller);
    expect(client.takeOnly(Op.Deltas)).toEqual([]);
  });
});
