// What a client may ask to see beside the text: offsets, sentence ends, states.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { Delta, ServerMessage, TokenLogprob } from '../../../protocol/messages.ts';
import { House, settle } from '../support/house.ts';
import type { TestClient } from '../support/house.ts';

let house: House;
let client: TestClient;
beforeEach(() => {
  house = new House();
  client = house.greeted();
});
afterEach(() => house.stop());

const deltas = (frames: ServerMessage[]): Delta[] =>
  frames.flatMap((frame) => (frame[0] === Op.Deltas ? frame[2] : []));
const states = (peer: TestClient): unknown[] => peer.takeOnly(Op.State).map((frame) => frame.slice(2));

describe('Offsets', () => {
  it('say where each text begins, in UTF-16 units, also when texts are merged', () => {
    house.engine.script = () => ['😀', 'é ', '👩‍🚀', '世界', 'x', 'y'];
    client.create('r', { offsets: true });
    for (let step = 0; step < 4; step++) house.engine.step();
    client.buffered = Limits.bufferedBytes;
    house.engine.step();
    house.engine.step();
    client.drain();
    expect(deltas(client.take())).toEqual([
      [1, 1, '😀', 0],
      [1, 2, 'é ', 2],
      [1, 3, '👩‍🚀', 4],
      [1, 4, '世界', 9],
      [1, 6, 'xy', 11],
    ]);
  });

  it('do not count the text of tool calls', () => {
    house.engine.script = () => [
      'ab',
      { toolBegin: 'f', index: 0 },
      { toolDelta: '{"long":1}', index: 0 },
      { toolEnd: 0 },
      'cd',
    ];
    client.create('r', { offsets: true, tools: [{ name: 'f' }] });
    house.engine.run();
    expect(deltas(client.take())).toEqual([
      [1, 1, 'ab', 0],
      [1, 5, 'cd', 2],
    ]);
  });

  it('are left out where nobody asked', () => {
    house.engine.script = () => ['One. ', 'Two. ', 'Three'];
    client.create('r', { offsets: false, sentences: false });
    house.engine.run();
    expect(deltas(client.take()).every((delta) => delta.length === 3)).toBe(true);
  });
});

describe('Sentence ends', () => {
  it('come with the delta that makes them certain', () => {
    house.engine.script = () => ['Pi is 3', '.14', '. ', 'Good! ', '你好。', '再见'];
    client.create('r', { sentences: true });
    house.engine.run();
    expect(deltas(client.take())).toEqual([
      [1, 1, 'Pi is 3', 0],
      [1, 2, '.14', 7],
      [1, 3, '. ', 10],
      [1, 4, 'Good! ', 12, [11, 17]],
      [1, 5, '你好。', 18],
      [1, 6, '再见', 21, [21]],
    ]);
  });

  it('are told to a late watcher as they were to the first', async () => {
    house.engine.script = () => ['One. ', 'Two. ', 'Three'];
    client.create('r', { sentences: true });
    const { id: response } = [...client.connection.outbox.live][0]!.response!;
    house.engine.run();
    const late = house.greeted();
    late.push([Op.Resume, 0, 'w', { response, lastSeq: 0, sentences: true }]);
    await settle();
    expect(deltas(late.take())).toEqual([[1, 3, 'One. Two. Three', 0, [4, 9]]]);
  });
});

describe('States', () => {
  const wanted = { states: true };

  it('follow created, change with the response, and end with done', () => {
    client.push([Op.OpenLane, 3, {}]);
    client.create('r', wanted, 3);
    expect(
      client
        .take()
        .slice(-2)
        .map((frame) => frame[0]),
    ).toEqual([Op.Created, Op.State]);
    const { sink } = house.engine.active.get(1)!;
    sink.onEncoded(1500, 0);
    sink.onPrefill(1024);
    house.engine.onStepEnd?.(false);
    expect(client.take()).toEqual([[Op.State, 3, 1, 'prefilling', { promptTokens: 1500, cachedTokens: 1024 }]]);
    sink.onToken(1, 'a', house.nowMs);
    house.engine.onStepEnd?.(false);
    const frames = client.take();
    expect(frames[0]).toEqual([Op.State, 3, 1, 'running', {}]);
    expect(frames[1]![0]).toBe(Op.Deltas);
    sink.onToken(1, 'b', house.nowMs);
    house.engine.onStepEnd?.(false);
    sink.onEnd('stop', null);
    house.engine.onStepEnd?.(false);
    expect(client.take().map((frame) => frame[0])).toEqual([Op.Deltas, Op.Done]);
  });

  it('tell how many requests are before, in the engine and in the session, and when that changes', async () => {
    client.push([Op.OpenSession, 0, 's', {}]);
    const [opened] = client.takeOnly(Op.SessionOpened);
    const { session } = opened![3];
    client.create('other', wanted);
    client.create('a', { session, ...wanted });
    client.create('b', { session, ...wanted });
    client.create('c', { session, ...wanted });
    expect(states(client)).toEqual([
      [1, 'queued', { position: 0 }],
      [2, 'queued', { position: 1 }],
      [3, 'queued', { position: 3 }],
      [4, 'queued', { position: 4 }],
    ]);
    house.engine.step();
    expect(states(client)).toEqual([
      [1, 'running', {}],
      [2, 'running', {}],
    ]);
    house.sockets.tick();
    expect(states(client)).toEqual([
      [3, 'queued', { position: 1 }],
      [4, 'queued', { position: 2 }],
    ]);
    house.sockets.tick();
    expect(states(client)).toEqual([]);
    client.push([Op.Cancel, 0, 2]);
    house.engine.step();
    await settle();
    client.take();
    house.sockets.tick();
    // The third is next; the fourth still has it and its place in the engine's queue before it.
    expect(states(client)).toEqual([[3, 'queued', { position: 0 }]]);
  });

  it('are the present one after a resume, and cost nothing where nobody asked', async () => {
    client.create('r');
    const { id: response } = [...client.connection.outbox.live][0]!.response!;
    house.engine.step();
    const next = house.greeted();
    next.push([Op.Resume, 0, 'w', { response, lastSeq: 0, states: true }]);
    await settle();
    expect(next.take().map((frame) => frame[0])).toEqual([Op.Resumed, Op.State, Op.Deltas]);
    house.engine.run();
    expect(states(next)).toEqual([]);
    expect(states(client)).toEqual([]);
  });
});

const token = (text: string): TokenLogprob => [text, -0.5, [...Buffer.from(text)], []];

const scored = () => [{ logprobs: [token('a')] }, 'a', 'b', { logprobs: [token('b'), token('c')] }, 'c', 'd'];

describe('Log-probabilities', () => {
  it('come with the text of handles that asked, merged too', () => {
    house.engine.script = scored;
    client.create('r', { logprobs: 0 });
    house.engine.step();
    house.engine.step();
    expect(deltas(client.take())).toEqual([
      [1, 1, 'a', 0, [], [token('a')]],
      [1, 2, 'b', 1],
    ]);
    client.buffered = Limits.bufferedBytes;
    house.engine.run();
    client.drain();
    expect(deltas(client.take())).toEqual([[1, 4, 'cd', 2, [], [token('b'), token('c')]]]);
    expect(house.engine.submitted.at(-1)?.logprobs).toBe(0);
  });

  it('come once each after a Resume that asks for them, from any event on, and of those to come', async () => {
    house.engine.script = scored;
    client.create('r', { logprobs: 0 });
    const { id: response, log } = [...client.connection.outbox.live][0]!.response!;
    for (let step = 0; step < 3; step++) house.engine.step();
    const resumed = async (lastSeq: number, asks: boolean): Promise<TestClient> => {
      const next = house.greeted();
      next.push([Op.Resume, 0, 'w', { response, lastSeq, epoch: log.epoch, ...(asks && { logprobs: true }) }]);
      await settle();
      return next;
    };
    const [whole, rest, plain] = [await resumed(0, true), await resumed(1, true), await resumed(0, false)];
    expect(deltas(whole.take())).toEqual([[1, 3, 'abc', 0, [], [token('a'), token('b'), token('c')]]]);
    expect(deltas(rest.take())).toEqual([[1, 3, 'bc', 1, [], [token('b'), token('c')]]]);
    expect(deltas(plain.take())).toEqual([[1, 3, 'abc']]);
    house.engine.run();
    expect(deltas(whole.take())).toEqual([[1, 4, 'd', 3]]);
    expect(deltas(plain.take())).toEqual([[1, 4, 'd']]);
  });

  it('stay away from handles that did not ask', () => {
    house.engine.script = scored;
    client.create('r', {});
    house.engine.run();
    for (const delta of deltas(client.take())) expect(delta).toHaveLength(3);
    expect(house.engine.submitted.at(-1)?.logprobs).toBeUndefined();
  });
});
