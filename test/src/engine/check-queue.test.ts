import { describe, expect, it } from 'vitest';
import { CheckQueue } from '../../../src/engine/check-queue.ts';

interface Job {
  tenant: string;
  name: string;
}

function queueAt(): { queue: CheckQueue<Job>; clock: { ms: number }; enter: (tenant: string, name: string) => void } {
  const clock = { ms: 0 };
  const queue = new CheckQueue<Job>(() => clock.ms);
  return { queue, clock, enter: (tenant, name) => queue.enter({ tenant, name }) };
}

describe('The queue of checks', () => {
  it('takes the oldest of the tenant that has used least', () => {
    const { queue, enter } = queueAt();
    for (const name of ['a1', 'a2', 'a3']) enter('a', name);
    expect(queue.take()).toMatchObject({ name: 'a1' });
    queue.charge('a', 30, false);
    enter('b', 'b1');
    enter('b', 'b2');
    expect(queue.take()).toMatchObject({ name: 'b1' });
    queue.charge('b', 50, false);
    expect(queue.take()).toMatchObject({ name: 'a2' });
    queue.charge('a', 30, false);
    expect(queue.take()).toMatchObject({ name: 'b2' });
    expect(queue.take()).toMatchObject({ name: 'a3' });
    expect(queue.take()).toBeUndefined();
    expect(queue.size).toBe(0);
  });

  it('refuses what a tenant has waiting when two checks of it had to be ended, and lets it in again later', () => {
    const { queue, clock, enter } = queueAt();
    for (const name of ['1', '2', '3']) enter('a', name);
    enter('b', 'other');
    queue.take();
    expect(queue.charge('a', 100, true).refused).toEqual([]);
    queue.take();
    const { refused, error } = queue.charge('a', 110, true);
    expect(queue.isDistrusted('a')).toBe(true);
    expect(queue.isDistrusted('b')).toBe(false);
    expect(refused.map(({ name }) => name)).toEqual(['2', '3']);
    expect(error).toMatchObject({ code: 'rate_limited', retryAfterMs: 8000 });
    expect(queue.size).toBe(0);
    expect(() => enter('a', 'again')).toThrow(expect.objectContaining({ code: 'rate_limited' }) as Error);
    enter('b', 'not affected');
    clock.ms += 8100;
    enter('a', 'later');
    expect(queue.size).toBe(2);
    clock.ms += 60_000;
    expect(queue.isDistrusted('a')).toBe(false);
  });

  it('says when a tenant that used much more than its share may come again', () => {
    const { queue, clock, enter } = queueAt();
    const { error } = queue.charge('a', 4000, false);
    expect(error.retryAfterMs).toBe(30_000);
    clock.ms = 29_900;
    expect(() => enter('a', 'too early')).toThrow();
    clock.ms = 30_100;
    enter('a', 'in time');
  });

  it('lets no tenant have more than 16 waiting, and all of them no more than 64', () => {
    const { queue, enter } = queueAt();
    for (let i = 0; i < 16; i++) enter('a', `${i}`);
    expect(() => enter('a', 'one more')).toThrow(expect.objectContaining({ code: 'rate_limited' }) as Error);
    for (let i = 0; i < 48; i++) enter(`t${i}`, `${i}`);
    expect(() => enter('z', 'one more')).toThrow(
      expect.objectContaining({ code: 'overloaded', retryAfterMs: 1000 }) as Error,
    );
    expect(queue.clear()).toHaveLength(64);
    enter('z', 'one more');
  });

  it('forgets tenants whose credit is full again', () => {
    const { queue, clock, enter } = queueAt();
    for (let i = 0; i < 1000; i++) {
      clock.ms += 10;
      enter(`t${i}`, 'x');
      queue.take();
      queue.charge(`t${i}`, 1, false);
    }
    expect(queue.numAccounts).toBeLessThan(10);
  });
});
