import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { CreateResponse } from '../../../src/responses/registry.ts';
import type { Response } from '../../../src/responses/response.ts';
import { House, settle } from '../support/house.ts';
import type { HouseOptions } from '../support/house.ts';

const options: CreateResponse = { session: null, class: 'chat', tools: [], sampling: defaultSampling };
const prompt = { kind: 'tokens' as const, tokenIds: [1] };
const other = { ...localCaller, tenant: 'other' };

function setUp(houseOptions: HouseOptions['responses'] = {}): { house: House; begin: (key?: string) => Response } {
  const house = new House({ responses: houseOptions });
  const begin = (requestKey?: string): Response =>
    house.responses.create(house.engine, localCaller, { ...options, requestKey, prompt });
  return { house, begin };
}

describe('Responses', () => {
  it('gives a response to its own tenant only', () => {
    const { house, begin } = setUp();
    const { id } = begin();
    expect(house.responses.get(id, localCaller)?.id).toBe(id);
    expect(house.responses.get(id, other)).toBeUndefined();
    expect(house.responses.get('resp_0', localCaller)).toBeUndefined();
    house.stop();
  });

  it('keeps nothing of a request that the engine refused', () => {
    const { house, begin } = setUp();
    house.engine.refuse = new ServiceError('overloaded', 'Full.');
    expect(() => begin('key')).toThrow('Full.');
    expect(house.responses.active).toBe(0);
    expect(house.responses.byRequest('key')).toBeUndefined();
    house.engine.refuse = null;
    const response = begin('key');
    expect(house.responses.byRequest('key')).toBe(response);
    house.stop();
  });

  it('keeps ended responses for the retention time, then forgets id and request key', () => {
    const { house, begin } = setUp({ retentionMs: 1000 });
    const response = begin('key');
    house.engine.run();
    expect(house.responses.active).toBe(0);
    expect(house.responses.retained.count).toBe(1);
    house.nowMs += 999;
    expect(house.responses.get(response.id, localCaller)).toBe(response);
    house.nowMs += 2;
    expect(house.responses.get(response.id, localCaller)).toBeUndefined();
    expect(house.responses.byRequest('key')).toBeUndefined();
    expect(house.responses.retained).toEqual({ count: 0, bytes: 0 });
    house.stop();
  });

  it('evicts the oldest ended response when the logs outgrow their memory, never a running one', () => {
    const { house, begin } = setUp({ logMemoryBytes: 50_000 });
    house.engine.script = () => ['x'.repeat(10_000)];
    const running = begin();
    house.engine.active.get(1)!.isHeld = true;
    const ended = Array.from({ length: 5 }, () => {
      const response = begin();
      house.engine.step();
      house.engine.step();
      return response;
    });
    expect(ended.map(({ id }) => house.responses.get(id, localCaller) !== undefined)).toEqual([
      false,
      false,
      false,
      true,
      true,
    ]);
    expect(house.responses.retained.bytes).toBeLessThan(50_000);
    expect(house.responses.get(running.id, localCaller)).toBe(running);
    expect(house.responses.active).toBe(1);
    house.stop();
  });

  it('publishes to every subscriber of what changed and then lets the outboxes flush', () => {
    const { house, begin } = setUp();
    const calls: string[] = [];
    const [a, b] = [begin(), begin()];
    a.subscribe({ notify: () => void calls.push('a1') });
    a.subscribe({ notify: () => void calls.push('a2') });
    b.subscribe({ notify: () => void calls.push('b') });
    const stop = house.responses.onPublished(() => void calls.push('flush'));
    house.engine.active.get(2)!.isHeld = true;
    house.engine.step();
    expect(calls).toEqual(['a1', 'a2', 'flush']);
    stop();
    house.engine.active.get(2)!.isHeld = false;
    house.engine.step();
    expect(calls).toEqual(['a1', 'a2', 'flush', 'a1', 'a2', 'b']);
    house.stop();
  });

  it('detaches a subscriber that throws and serves the others', () => {
    const errors: unknown[] = [];
    const { house, begin } = setUp({ onSubscriberError: (error) => void errors.push(error) });
    const response = begin();
    let served = 0;
    response.subscribe({
      notify: () => {
        throw new Error('broken');
      },
    });
    response.subscribe({ notify: () => void served++ });
    house.engine.run();
    expect(errors).toHaveLength(1);
    expect(served).toBe(4);
    expect(response.numSubscribers).toBe(1);
    house.stop();
  });

  it('ends everything with the given error and resolves when all have ended', async () => {
    const { house, begin } = setUp();
    const running = [begin(), begin()];
    house.engine.step();
    let isDone = false;
    const all = house.responses.cancelAll('shutting_down', 'Bye.').then(() => (isDone = true));
    await settle();
    expect(isDone).toBe(false);
    house.engine.step();
    await all;
    for (const response of running) expect((await response.ended).error?.code).toBe('shutting_down');
    house.stop();
  });

  it('tells the observer of tokens with their gaps and of ends', () => {
    const gaps: (number | null)[] = [];
    let ends = 0;
    const { house, begin } = setUp({
      observer: { onToken: (_, gapMs) => void gaps.push(gapMs), onEnded: () => void ends++ },
    });
    begin();
    for (let step = 0; step < 4; step++) {
      house.engine.step();
      house.nowMs += 3;
    }
    expect(gaps).toEqual([null, 3, 3]);
    expect(ends).toBe(1);
    house.stop();
  });
});
