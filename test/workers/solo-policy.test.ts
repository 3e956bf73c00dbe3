import { describe, expect, it } from 'vitest';
import { MAX_SOLO_ROWS, SoloPolicy } from '../../workers/solo-policy.ts';
import { random } from '../support/random.ts';

const seed = Number(process.env.SEED ?? 20261122);

const paying = (isAlone: boolean): number => (isAlone ? 1.26 : 1.9);
const lost = (isAlone: boolean): number => (isAlone ? 6 : 2);
const both = (isAlone: boolean): number => (isAlone ? 1.6 : 2.7);

/** Runs `steps` steps of `rows` rows with these costs in ms; returns the share of them that ran on all cores. */
function run(policy: SoloPolicy, rows: number, steps: number, cost: (isAlone: boolean) => number): number {
  let numAlone = 0;
  for (let i = 0; i < steps; i++) {
    const isAlone = policy.choose(rows);
    if (isAlone) numAlone++;
    policy.observe(rows, 1, isAlone, cost(isAlone));
  }
  return numAlone / steps;
}

/** Enough steps of `rows` rows in this worker beside the others' to know what they cost. */
function split(policy: SoloPolicy, rows: number, ms: number): void {
  for (let i = 0; i < 20; i++) policy.observeSplit(rows, ms);
}

describe('SoloPolicy', () => {
  it('never takes all cores for more rows than it is told', () => {
    const policy = new SoloPolicy(2, 2);
    run(policy, 1, 2000, paying);
    split(policy, 1, 5);
    expect(policy.soloRows).toBe(2);
    expect(run(policy, 2, 500, paying)).toBeGreaterThan(0.8);
    expect(run(policy, 3, 500, paying)).toBe(0);
    policy.retry(8);
    expect(policy.soloRows).toBe(2);
  });

  it('takes the verdict on all cores from the other numbers of rows while they come and go', () => {
    const policy = new SoloPolicy(2);
    split(policy, 3, 3);
    let numAlone = 0;
    // Five to eight rows, all cores cost each of them 1.5 times what splitting does.
    for (let i = 0; i < 400; i++) numAlone += run(policy, 5 + (i % 4), 1, (isAlone) => (isAlone ? 6 : 5));
    expect(policy.soloRows).toBe(4);
    expect(numAlone).toBeLessThan(60);
  });

  it('uses all cores where that is faster, and goes on looking at the other way', () => {
    const policy = new SoloPolicy(2);
    run(policy, 1, 2000, paying);
    const share = run(policy, 1, 20_000, paying);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    expect(share).toBeGreaterThan(0.97);
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
    expect(policy.soloRows).toBe(0);
    expect(run(policy, 1, 10_000, crowded)).toBeLessThan(0.06);
    run(policy, 1, 5000, quiet);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    expect(run(policy, 1, 1000, quiet)).toBeGreaterThan(0.95);
  });

  it('ends a trial early that is going to be lost', () => {
    const policy = new SoloPolicy(2);
    run(policy, 1, 1000, lost);
    expect(policy.soloRows).toBe(0);
    expect(run(policy, 1, 100_000, lost) * 100_000).toBeLessThan((100_000 / 4096 + 4) * 16);
  });

  it('compares runs that check guesses with runs that check as many, so that guessing well decides nothing', () => {
    const next = random(seed);
    const policy = new SoloPolicy(2);
    let numAlone = 0;
    for (let i = 0; i < 20_000; i++) {
      const isAlone = policy.choose(1);
      // More guesses on all cores, as when their cost is lower there: the mean run takes longer, the same run less long.
      const tokens = next() < (isAlone ? 0.8 : 0.2) ? 4 : 1;
      policy.observe(1, tokens, isAlone, (tokens === 4 ? 3.6 : 1.9) * (isAlone ? 0.7 : 1));
      if (i >= 2000 && isAlone) numAlone++;
    }
    expect(numAlone / 18_000).toBeGreaterThan(0.97);
  });

  it('compares several rows with splitting them among the workers, not with one worker alone', () => {
    const policy = new SoloPolicy(2);
    // Nothing is known, so they are split first. From 2.5 ms at two rows it follows that four take 3.7, and one 1.9.
    expect(policy.soloRows).toBe(1);
    split(policy, 2, 2.5);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    run(policy, 4, 300, (isAlone) => (isAlone ? 2.2 : 3.7));
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    run(policy, 8, 300, (isAlone) => (isAlone ? 5 : 6));
    expect(policy.soloRows).toBe(7);
    run(policy, 2, 300, (isAlone) => (isAlone ? 2.6 : 2.7));
    expect(policy.soloRows).toBe(1);
  });

  it('splits as many streams as there are workers where each gains more by guesses than by all cores', () => {
    const policy = new SoloPolicy(2);
    run(policy, 1, 500, paying);
    run(policy, 2, 300, both);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    // Half of the runs check four tokens at 1.8 times the cost, and three of them come true.
    for (let i = 0; i < 600; i++) {
      const isAlone = policy.choose(1);
      const tokens = i % 2 === 0 ? 4 : 1;
      policy.advanced(tokens === 4 ? 3 : 1);
      policy.observe(1, tokens, isAlone, paying(isAlone) * (tokens === 4 ? 1.8 : 1));
    }
    run(policy, 2, 20, both);
    expect(policy.soloRows).toBe(1);
  });

  it('knows what splitting costs from single rows, and decodes no several rows in the time of one worker for it', () => {
    for (const [aloneMs, isBetter] of [
      [2.2, true],
      [2.9, false],
    ] as const) {
      const policy = new SoloPolicy(2);
      run(policy, 1, 500, paying);
      // Split, 1.9 ms at one row in each of two workers are 2.5 ms at two.
      expect(run(policy, 4, 100, (isAlone) => (isAlone ? aloneMs : 3.7))).toBeGreaterThan(isBetter ? 0.99 : 0.15);
      expect(policy.soloRows).toBe(isBetter ? MAX_SOLO_ROWS : 3);
    }
  });

  it('finds out again what it is told to forget', () => {
    const policy = new SoloPolicy(2);
    split(policy, 1, 1.5);
    run(policy, 2, 300, () => 2);
    expect(policy.soloRows).toBe(1);
    policy.retry(2);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    run(policy, 2, 300, (isAlone) => (isAlone ? 1.2 : 2));
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
    policy.retry(2);
    run(policy, 2, 300, () => 2);
    expect(policy.soloRows).toBe(1);
  });

  it('never takes more rows than it may', () => {
    const policy = new SoloPolicy(2);
    split(policy, 1, 1.5);
    expect(run(policy, MAX_SOLO_ROWS + 1, 50, () => 1)).toBe(0);
    policy.retry(MAX_SOLO_ROWS + 1);
    expect(policy.soloRows).toBe(MAX_SOLO_ROWS);
  });
});
