import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { defaultQueue, WaitingRoom } from '../../../src/engine/waiting-room.ts';

function refusal(work: () => void): ServiceError {
  try {
    work();
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
  throw new Error('it was let in');
}

describe('WaitingRoom', () => {
  it('refuses everybody when it is full, and a tenant alone that has too much waiting', () => {
    const room = new WaitingRoom({ ...defaultQueue, queueSize: 3, tenantQueueSize: 2 });
    room.enter('a');
    room.enter('a');
    expect(refusal(() => room.enter('a')).code).toBe('rate_limited');
    room.enter('b');
    for (const tenant of ['a', 'b', 'c']) expect(refusal(() => room.enter(tenant)).code).toBe('overloaded');
    room.leave('a');
    room.enter('c');
    room.leave('b');
    room.enter('a');
    expect(room.size).toBe(3);
  });

  it('advises to come back when those who wait now have left, later for some by chance', () => {
    let now = 0;
    let chance = 0;
    const room = new WaitingRoom(
      { ...defaultQueue, queueSize: 20 },
      () => now,
      () => chance,
    );
    for (let i = 0; i < 20; i++) room.enter('a');
    expect(refusal(() => room.enter('b')).retryAfterMs).toBe(2000);
    for (let i = 0; i < 10; i++) {
      now += 100;
      room.leave('a');
      room.enter('a');
    }
    // 20 wait, one leaves every 100 ms; the first gap is not seen.
    expect(room.adviceMs()).toBe(1800);
    chance = 1;
    expect(room.adviceMs()).toBe(2700);
    expect(refusal(() => room.enter('b')).retryAfterMs).toBe(2700);
  });

  it('keeps its advice within bounds', () => {
    let now = 0;
    const room = new WaitingRoom(
      defaultQueue,
      () => now,
      () => 0,
    );
    room.enter('a');
    for (let i = 0; i < 5; i++) {
      room.enter('a');
      room.leave('a');
    }
    expect(room.adviceMs()).toBe(500);
    now = 3_600_000;
    expect(room.adviceMs()).toBe(30_000);
  });
});
