import { describe, expect, it } from 'vitest';
import { MAX_SOLO_ROWS, SoloPolicy } from '../../workers/solo-policy.ts';
import { random } from './support/random.ts';

const seed = Number(process.env.SEED ?? 20261122);

const paying = (isAlone: boolean): number => (isAlone ? 1.26 : 1.9);

/** Runs `steps` steps of `rows` rows with these costs in ms; returns the share of them that ran on all cores. */
function run(policy: SoloPolicy, rows: number, steps: number, cost: (isAlone: boolean) => number): number {
  let numAlone = 0;
  for (let i = 0; i < steps; i++) {
    const isAlone = policy.choose(rows);
    if (isAlone) numAlone++;
    policy.observe(rows, isAlone, cost(isAlone));
  }
  return numAlone / steps;
}

describe('SoloPolicy', () => {
  it('uses all cores where that is faster, and goes on looking at the other way', () => {
    const policy = new SoloPolicy(2);
    run(policy, 1, 2000, paying);
    const share = run(policy, 1, 10_000, paying);
    expect(policy.isBetter(1)).toBe(true);
    expect(share).toBeGreaterThan(0.96);
    expect(share).toBeLessThan(1);
  });

  it(`leaves the cores to others that need them within few steps, and comes back when they are gone (seed ${seed})`, () => {
    const next = random(seed);
    const policy = new SoloPolicy(2);
    const quiet = (isAlone: boolean): number => (isAlone ? 1.26 : 1.9) * (0.9 + 0.2 * next());
    // Beside a busy process most steps wait for a thread that has no core, in one case of three for a time slice.
    const crowded = (isAlone: boolean): number => (isAlone ? (next() < 1 / 3 ? 8 : 2) : 2.2) * (0.9 + 0.2 * next());
    run(policy, 1, 500, quiet);
    run(policy, 1, 60, crowded);
    expect(policy.isBetter(1)).toBe(false);
    expect(run(policy, 1, 10_000, crowded)).toBeLessThan(0.05);
    run(policy, 1, 5000, quiet);
    expect(policy.isBetter(1)).toBe(true);
    expect(run(policy, 1, 1000, quiet)).toBeGreaterThan(0.95);
  });

  it('compares several rows with splitting them among the workers, not with one worker alone', () => {
    const policy = new SoloPolicy(2);
    run(policy, 8, 100, (isAlone) => (isAlone ? 5 : 6));
    expect(policy.isBetter(8)).toBe(false);
    run(policy, 4, 100, (isAlone) => (isAlone ? 2.2 : 3.7));
    expect(policy.isBetter(4)).toBe(true);
  });

  it('never takes more rows than it may', () => {
    const policy = new SoloPolicy(2);
    expect(policy.isBetter(MAX_SOLO_ROWS + 1)).toBe(false);
    expect(run(policy, MAX_SOLO_ROWS + 1, 50, () => 1)).toBe(0);
  });
});
