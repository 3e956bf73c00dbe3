import { describe, expect, it } from 'vitest';
import { StepOrder } from '../../../src/engine/step-order.ts';
import type { StepOutput } from '../../../workers/messages/events.ts';
import { noStats } from '../../../workers/outputs.ts';
import { random } from '../../support/random.ts';

const step = (order: number): StepOutput => ({
  op: 'step',
  order,
  steps: [{ events: [], sampledAtMs: 0, stats: noStats() }],
});

function collect(): { order: StepOrder; seen: number[] } {
  const seen: number[] = [];
  return { order: new StepOrder((message) => void seen.push(message.order)), seen };
}

describe('StepOrder', () => {
  it('delivers in the order of posting, however the ports were read', () => {
    const next = random(7);
    const { order, seen } = collect();
    const numbers = Array.from({ length: 500 }, (_, i) => i);
    const shuffled = numbers.map((number) => ({ number, at: number + next() * 20 })).sort((a, b) => a.at - b.at);
    for (const { number } of shuffled) order.receive(step(number));
    expect(seen).toEqual(numbers);
  });

  it('holds a message back until the one before it is here', () => {
    const { order, seen } = collect();
    order.receive(step(1));
    expect(seen).toEqual([]);
    order.receive(step(0));
    expect(seen).toEqual([0, 1]);
  });

  it('goes on behind a number that a dead thread took and never posted', () => {
    const { order, seen } = collect();
    for (const number of [0, 2, 5, 4]) order.receive(step(number));
    order.skipMissing();
    expect(seen).toEqual([0, 2, 4, 5]);
    order.receive(step(6));
    expect(seen.at(-1)).toBe(6);
  });

  it('does not lose a message that comes after its number was given up', () => {
    const { order, seen } = collect();
    for (const number of [0, 2]) order.receive(step(number));
    order.skipMissing();
    order.receive(step(1));
    order.receive(step(3));
    expect(seen).toEqual([0, 2, 1, 3]);
  });

  it('keeps the order when the numbers wrap around', () => {
    const { order, seen } = collect();
    const start = 2 ** 31 - 2;
    for (const number of [2 ** 30, start]) {
      order.receive(step(number));
      order.skipMissing();
    }
    for (const number of [start + 2, start + 1, start + 3]) order.receive(step(number | 0));
    expect(seen).toEqual([2 ** 30, start, start + 1, -(2 ** 31), -(2 ** 31) + 1]);
  });
});
