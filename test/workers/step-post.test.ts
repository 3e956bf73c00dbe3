import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Order } from '../../workers/messages.ts';
import type { EngineShared, StepOutput } from '../../workers/messages.ts';
import { StepPost } from '../../workers/step-post.ts';

const stats = {
  batchSize: 0,
  stepMs: 0,
  prefillTokens: 0,
  prefillMs: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
  movedTokens: 0,
  moveMs: 0,
};
const output = { op: 'step' as const, events: [], sampledAtMs: 0, stats };
const CORES = 2;

interface Setup {
  posts: StepPost;
  order: Int32Array;
  busy: Int32Array;
  posted(): number[];
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
  return {
    posts: new StepPost(port1, shared, CORES),
    order: new Int32Array(shared.order),
    busy: new Int32Array(shared.busy),
    posted: () => {
      const numbers: number[] = [];
      for (let item; (item = receiveMessageOnPort(port2));) numbers.push((item.message as StepOutput).order);
      return numbers;
    },
  };
}

afterEach(() => {
  vi.restoreAllMocks();
  for (const port of ports.splice(0)) port.close();
});

describe('StepPost', () => {
  it('numbers steps in the order of posting', () => {
    const { posts, posted } = setUp();
    for (let i = 0; i < 3; i++) posts.post(output, false);
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
    posts.post(output, true);
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
    posts.post(output, true);
    expect(wait).toHaveBeenCalledTimes(6);
  });

  it('stops waiting for a main thread that does not come', () => {
    const { posts, busy } = setUp();
    busy.fill(1);
    const wait = vi.spyOn(Atomics, 'wait').mockReturnValue('timed-out');
    posts.post(output, true);
    expect(wait).toHaveBeenCalledTimes(1);
  });

  it('never waits with a core to spare, for text that may be collected, or for what is delivered already', () => {
    const { posts, busy, order } = setUp();
    const wait = vi.spyOn(Atomics, 'wait');
    busy[0] = 1;
    posts.post(output, true);
    busy[1] = 1;
    posts.post(output, false);
    order[Order.delivered] = 3;
    posts.post(output, true);
    expect(wait).not.toHaveBeenCalled();
  });

  it('knows what was delivered when the numbers wrap around', () => {
    const { posts, busy, order } = setUp();
    busy.fill(1);
    order[Order.next] = 2 ** 31 - 1;
    order[Order.delivered] = -(2 ** 31);
    const wait = vi.spyOn(Atomics, 'wait');
    posts.post(output, true);
    expect(wait).not.toHaveBeenCalled();
  });
});
