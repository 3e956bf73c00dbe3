// How many tokens to guess: from how often guesses came true lately and from what runs of each size cost in measured
// time. Owned by a Speculator. Policy only: it sees counts and milliseconds, never a token.

/** Guesses are judged by how many tokens before them matched: 1, 2, 3, 4-5, 6-8, 9-15, 16 and more. */
const CLASS_STARTS = [1, 2, 3, 4, 6, 9, 16];
/** Assumed share of right guesses per class before any was seen, worth this many observations. */
const PRIOR = [0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9];
const PRIOR_WEIGHT = 2;
/** Each observation takes this much from the weight of the earlier ones: about the last 16 count. */
const FADE = 15 / 16;
/** Observations of earlier sequences that count for a new one, at most. */
const KEPT_WEIGHT = 4;
/** The cost of a run is the best of its latest times: one that was preempted says nothing about the model. */
const TIME_WINDOW = 8;
/** Times needed before a measured cost is believed. */
const MIN_TIMES = 3;
/** Cost of a further token in steps, until it was measured: low, so that it gets measured. */
const ASSUMED_COST = 0.25;
/** A guess must promise this much more than a plain step, for what is not measured here. */
const MIN_GAIN = 1.04;
/** Guesses declined before one is tried all the same; doubles with each that fails. */
const MIN_RETRY = 16;
const MAX_RETRY = 256;
/** After so many guessing runs a plain step is timed anew: its cost grows with the context. */
const RETIME_AFTER = 64;

export class SpeculationPolicy {
  readonly #sizes: readonly number[];
  /** Latest times in ms by number of tokens; 1 is the plain step. Those of runs on all cores are kept apart. */
  readonly #ownTimes = new Map<number, number[]>();
  readonly #aloneTimes = new Map<number, number[]>();
  #times = this.#ownTimes;
  readonly #right = CLASS_STARTS.map(() => 0);
  readonly #seen = CLASS_STARTS.map(() => 0);
  #match = 0;
  #declined = 0;
  #retry = MIN_RETRY;
  #isRetry = false;
  #runsSinceStep = 0;

  /** `sizes`: tokens a verifying run can take, ascending, at least 2. */
  constructor(sizes: readonly number[]) {
    this.#sizes = sizes;
    for (const times of [this.#ownTimes, this.#aloneTimes]) for (const size of [1, ...sizes]) times.set(size, []);
  }

  /** What follows concerns runs on all cores, or those of one worker. */
  setAlone(isAlone: boolean): void {
    this.#times = isAlone ? this.#aloneTimes : this.#ownTimes;
  }

  /** Another sequence: what was learnt counts less, and times of another context length are forgotten. */
  begin(): void {
    for (let i = 0; i < CLASS_STARTS.length; i++) {
      const keep = Math.min(1, KEPT_WEIGHT / Math.max(1e-9, this.#seen[i]!));
      this.#right[i]! *= keep;
      this.#seen[i]! *= keep;
    }
    for (const all of [this.#ownTimes, this.#aloneTimes]) {
      for (const times of all.values()) times.splice(0, times.length - MIN_TIMES + 1);
    }
    this.#declined = 0;
    this.#retry = MIN_RETRY;
  }

  /** Tokens the next run should take, 1 for a plain step; at most `limit`. `match`: tokens before the guess that matched. */
  choose(match: number, limit: number): number {
    this.#match = match;
    this.#isRetry = false;
    if (this.#times.get(1)!.length < MIN_TIMES || this.#runsSinceStep >= RETIME_AFTER) return 1;
    let best = 1;
    let bestRate = MIN_GAIN / this.#cost(1);
    for (const size of this.#sizes) {
      if (size > limit) break;
      const rate = this.#expectedTokens(size) / this.#cost(size);
      if (rate > bestRate) [best, bestRate] = [size, rate];
    }
    if (best > 1) return best;
    if (++this.#declined < this.#retry) return 1;
    const smallest = this.#sizes[0]!;
    if (smallest > limit) return 1;
    this.#isRetry = true;
    return smallest;
  }

  /** A plain step took so long. */
  stepped(ms: number): void {
    this.#runsSinceStep = 0;
    this.#time(1, ms);
  }

  /** A run of `size` tokens confirmed the first `numAccepted` guesses. `wasCut`: the answer ended before the others. */
  verified(size: number, numAccepted: number, wasCut: boolean, ms: number): void {
    this.#runsSinceStep++;
    this.#time(size, ms);
    for (let i = 0; i < numAccepted; i++) this.#observe(i, true);
    if (numAccepted < size - 1 && !wasCut) this.#observe(numAccepted, false);
    if (!this.#isRetry) return;
    this.#declined = 0;
    this.#retry = numAccepted > 0 ? MIN_RETRY : Math.min(MAX_RETRY, 2 * this.#retry);
  }

  /** Of a run of `size` tokens: one, and each guess as far as all before it are right. */
  #expectedTokens(size: number): number {
    let tokens = 1;
    let chance = 1;
    for (let guess = 0; guess < size - 1; guess++) {
      const kind = classOf(this.#match + guess);
      chance *= (this.#right[kind]! + PRIOR[kind]! * PRIOR_WEIGHT) / (this.#seen[kind]! + PRIOR_WEIGHT);
      tokens += chance;
    }
    return tokens;
  }

  #cost(size: number): number {
    const times = this.#times.get(size)!;
    if (times.length >= MIN_TIMES || size === 1) return Math.min(...times);
    return this.#cost(1) * (1 + ASSUMED_COST * (size - 1));
  }

  #time(size: number, ms: number): void {
    const times = this.#times.get(size)!;
    times.push(ms);
    if (times.length > TIME_WINDOW) times.shift();
  }

  #observe(guess: number, isRight: boolean): void {
    const kind = classOf(this.#match + guess);
    this.#right[kind] = this.#right[kind]! * FADE + (isRight ? 1 : 0);
    this.#seen[kind] = this.#seen[kind]! * FADE + 1;
  }
}

function classOf(match: number): number {
  return CLASS_STARTS.findLastIndex((start) => match >= start);
}
