import { describe, expect, it } from 'vitest';
import { SpeculationPolicy } from '../../workers/speculation-policy.ts';
import { seededRandom } from './model/checkpoint.ts';

const SIZES = [2, 4, 8];
const LONG = 16;

/** Plays `steps` steps; a guess is right with the given chance. Returns tokens made, and the time they took. */
function play(
  policy: SpeculationPolicy,
  steps: number,
  options: { right: number; cost: (size: number) => number; match?: number; next?: () => number },
): { tokens: number; ms: number; sizes: number[] } {
  const next = options.next ?? seededRandom(3);
  const sizes: number[] = [];
  let tokens = 0;
  let ms = 0;
  for (let i = 0; i < steps; i++) {
    const size = policy.choose(options.match ?? LONG, 100);
    const cost = options.cost(size);
    ms += cost;
    sizes.push(size);
    if (size === 1) policy.stepped(cost);
    let numAccepted = 0;
    while (numAccepted < size - 1 && next() < options.right) numAccepted++;
    if (size > 1) policy.verified(size, numAccepted, false, cost);
    tokens += 1 + numAccepted;
  }
  return { tokens, ms, sizes };
}

const cheap = (size: number): number => 2 * (1 + 0.3 * (size - 1));

describe('SpeculationPolicy', () => {
  it('guesses as far as it can when guesses come true', () => {
    const played = play(new SpeculationPolicy(SIZES), 200, { right: 1, cost: cheap });
    expect(played.sizes.filter((size) => size === 8).length).toBeGreaterThan(180);
    expect(played.sizes).toContain(1);
  });

  it('guesses less far when they come true less often', () => {
    const policy = new SpeculationPolicy(SIZES);
    play(policy, 100, { right: 0.7, cost: cheap });
    const { sizes } = play(policy, 200, { right: 0.7, cost: cheap });
    expect(sizes.filter((size) => size === 8).length).toBeLessThan(40);
    expect(sizes.filter((size) => size === 2 || size === 4).length).toBeGreaterThan(100);
  });

  it('all but stops when no guess comes true, at a cost below 2 %, and tries again now and then', () => {
    const policy = new SpeculationPolicy(SIZES);
    play(policy, 50, { right: 0, cost: cheap });
    const { tokens, ms, sizes } = play(policy, 2000, { right: 0, cost: cheap });
    expect(sizes.some((size) => size > 1)).toBe(true);
    expect(ms / tokens / cheap(1)).toBeLessThan(1.02);
  });

  it('stops when runs cost as much as their tokens, and starts when they become cheap', () => {
    const policy = new SpeculationPolicy(SIZES);
    play(policy, 60, { right: 0.9, cost: (size) => 2 * size });
    const dear = play(policy, 300, { right: 0.9, cost: (size) => 2 * size });
    expect(dear.sizes.filter((size) => size > 1).length).toBeLessThan(30);
    policy.begin();
    const { sizes } = play(policy, 300, { right: 0.9, cost: cheap });
    expect(sizes.filter((size) => size > 1).length).toBeGreaterThan(200);
  });

  it('comes back when guesses begin to come true', () => {
    const policy = new SpeculationPolicy(SIZES);
    play(policy, 400, { right: 0, cost: cheap });
    const { sizes } = play(policy, 1000, { right: 1, cost: cheap });
    expect(sizes.slice(-100).filter((size) => size === 8).length).toBeGreaterThan(90);
  });

  it('trusts a long match before a short one', () => {
    for (const [match, size] of [
      [1, 1],
      [16, 8],
    ] as const) {
      // The first three steps only learn what a step costs.
      const { sizes } = play(new SpeculationPolicy(SIZES), 4, { right: 1, cost: cheap, match });
      expect(sizes).toEqual([1, 1, 1, size]);
    }
  });

  it('never takes more than there is room for', () => {
    const policy = new SpeculationPolicy(SIZES);
    play(policy, 50, { right: 1, cost: cheap });
    for (const [limit, size] of [
      [1, 1],
      [3, 2],
      [7, 4],
    ] as const) {
      expect(policy.choose(LONG, limit)).toBe(size);
    }
  });
});
