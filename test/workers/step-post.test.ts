import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Haste } from '../../workers/messages/events.ts';
import { Order } from '../../workers/messages/shared.ts';
import type { Step, StepOutput } from '../../workers/messages/events.ts';
import type { EngineShared } from '../../workers/messages/shared.ts';
import { noStats } from '../../workers/outputs.ts';
import { COLLECT_MS, MAX_SILENCE_MS, StepPost } from '../../workers/step-post.ts';

const step: Step = { events: [], sampledAtMs: 0, stats: noStats() };
const stepOf = (stepMs: number): Step => ({ ...step, stats: { ...noStats(), batchSize: 1, stepMs } });
const CORES = 2;

interface Setup {
  posts: StepPost;
  order: Int32Array;
  busy: Int32Array;
  posted(): number[];
  /** Steps in each message since the last call. */
  sizes(): number[];
}

const ports: MessagePort[] = [];

function setUp(): Setup {
  const { port1, port2 } = new MessageChannel();
  ports.push(port1);
  const buffers = { order: new SharedArrayBuffer(4 * Order.size), busy: new SharedArrayBuffer(4 * CORES) };
  const unused = {
    flags: buffers.busy,
    owners: buffers.busy,
    marks: buffers.busy,
    generated: buffers.busy,
    soloRows: buffers.busy,
  };
  const shared: EngineShared = { ...buffers, ...unused, kv: [] };
  const received = (): StepOutput[] => {
    const messages: StepOutput[] = [];
    for (let item; (item = receiveMessageOnPort(port2));) messages.push(item.message as StepOutput);
    return messages;
  };
  return {
    posts: new StepPost(port1, shared, CORES),
    order: new Int32Array(shared.order),
    busy: new Int32Array(shared.busy),
    posted: () => received().map(({ order }) => order),
    sizes: () => received().map(({ steps }) => steps.length),
  };
}

afterEach(() => {
  vi.restoreAllMocks();
  for (const port of ports.splice(0)) port.close();
});

describe('StepPost', () => {
  it('numbers steps in the order of posting', () => {
    const { posts, posted } = setUp();
    for (let i = 0; i < 3; i++) posts.post(step, Haste.now);
    expect(posted()).toEqual([0, 1, 2]);
  });

  it('waits for an urgent step to be delivered when engine threads take every core, and has posted it before', () => {
    const { posts, busy, order, posted } = setUp();
    busy.fill(1);
    let postedFirst: number[] = [];
    const wait = vi.spyOn(Atomics, 'wait').mockImplementation(() => {
      postedFirst = posted();
      order[Order.delivered] = 1;
      return 'ok';
    });
    posts.post(step, Haste.urgent);
    expect(wait).toHaveBeenCalledTimes(1);
    expect(postedFirst).toEqual([0]);
  });

  it('goes on after an older step was delivered only to wait for its own', () => {
    const { posts, busy, order } = setUp();
    busy.fill(1);
    order[Order.next] = 5;
    const wait = vi.spyOn(Atomics, 'wait').mockImplementation(() => {
      order[Order.delivered]!++;
      return 'not-equal';
    });
    posts.post(step, Haste.urgent);
    expect(wait).toHaveBeenCalledTimes(6);
  });

  it('stops waiting for a main thread that does not come', () => {
    const { posts, busy } = setUp();
    busy.fill(1);
    const wait = vi.spyOn(Atomics, 'wait').mockReturnValue('timed-out');
    posts.post(step, Haste.urgent);
    expect(wait).toHaveBeenCalledTimes(1);
  });

  it('never waits with a core to spare, for text that may be collected, or for what is delivered already', () => {
    const { posts, busy, order } = setUp();
    const wait = vi.spyOn(Atomics, 'wait');
    busy[0] = 1;
    posts.post(step, Haste.urgent);
    busy[1] = 1;
    posts.post(step, Haste.now);
    order[Order.delivered] = 3;
    posts.post(step, Haste.urgent);
    expect(wait).not.toHaveBeenCalled();
  });

  it('collects short steps of text that may wait while engine threads take every core, but not for long', () => {
    const { posts, busy, sizes } = setUp();
    let now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    const run = (stepMs: number): void => {
      now += stepMs;
      posts.post(stepOf(stepMs), Haste.later);
    };
    busy.fill(1);
    const stepMs = COLLECT_MS / 4;
    // Nothing was posted for long, so nothing waits.
    run(stepMs);
    expect(sizes()).toEqual([1]);
    for (let i = 0; i < 9; i++) run(stepMs);
    // Within the time from the first one of a message to its last: three more, since a fifth would be late.
    expect(sizes()).toEqual([4, 4]);
    run(stepMs);
    posts.flush();
    posts.flush();
    expect(sizes()).toEqual([2]);
    run(COLLECT_MS);
    expect(sizes()).toEqual([1]);
    busy[0] = 0;
    run(stepMs);
    expect(sizes()).toEqual([1]);
  });

  it('holds no step back until a second long one would add up with it to a gap, nor the first after a pause', () => {
    const { posts, busy, sizes } = setUp();
    let now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    busy.fill(1);
    const run = (stepMs: number, pauseMs = 0): number[] => {
      now += pauseMs + stepMs;
      posts.post(stepOf(stepMs), Haste.later);
      return sizes();
    };
    run(1);
    const longMs = MAX_SILENCE_MS / 2 + 1;
    expect([run(longMs), run(longMs)]).toEqual([[1], [1]]);
    const bearableMs = MAX_SILENCE_MS / 2;
    expect([run(bearableMs), run(bearableMs)]).toEqual([[], [2]]);
    expect(run(bearableMs, MAX_SILENCE_MS)).toEqual([1]);
    // A first token in between is news for one stream only.
    now += MAX_SILENCE_MS;
    posts.post(step, Haste.now);
    expect([sizes(), run(bearableMs)]).toEqual([[1], [1]]);
  });

  it('sends what waits along with, and before, what may not', () => {
    const { posts, busy } = setUp();
    busy.fill(1);
    vi.spyOn(performance, 'now').mockReturnValue(0);
    posts.post(stepOf(1), Haste.now);
    posts.post({ ...step, sampledAtMs: 1 }, Haste.later);
    posts.post({ ...step, sampledAtMs: 2 }, Haste.later);
    const post = vi.spyOn(ports.at(-1)!, 'postMessage');
    posts.post({ ...step, sampledAtMs: 3 }, Haste.now);
    const message = post.mock.calls[0]![0] as StepOutput;
    expect(message.steps.map(({ sampledAtMs }) => sampledAtMs)).toEqual([1, 2, 3]);
  });

  it('knows what was delivered when the numbers wrap around', () => {
    const { posts, busy, order } = setUp();
    busy.fill(1);
    order[Order.next] = 2 ** 31 - 1;
    order[Order.delivered] = -(2 ** 31);
    const wait = vi.spyOn(Atomics, 'wait');
    posts.post(step, Haste.urgent);
    expect(wait).not.toHaveBeenCalled();
  });
});
