// Whether few rows decode faster on all cores by one worker or on its own threads: by measurement, since threads that
// wait for each other at every operator are fast alone (1.5x at one row on two cores) and collapse beside any other busy
// process. Owned by a SoloModel. Policy only: it sees row counts and milliseconds.

/** More rows are better split among the workers whatever is measured. */
export const MAX_SOLO_ROWS = 8;
/** Steps of each kind that are measured before the two are compared. */
const MIN_STEPS = 16;
/** Steps after a change of kind that are not measured: caches are cold, and the kernel still moves threads about. */
const SETTLE_STEPS = 16;
/** Weight of the latest step in the mean: a collapse in every tenth step must show, one alone must not. */
const FADE = 0.08;
/** A step counts as no more than so many of the other kind: one long pause of the machine must not decide for seconds. */
const MAX_STEP = 3;
/** After so many steps of one kind the other is tried, for so many; the pause doubles while nothing changes by it. */
const MIN_PAUSE = 256;
const MAX_PAUSE = 2048;
const TRIAL_STEPS = SETTLE_STEPS + 48;
/** To begin with all cores a step must cost less than so much of the other kind: changing has its price. */
const MIN_GAIN = 0.92;
/** Cost of a step apart from its rows, in rows: what splitting rows among workers cannot share out. */
const FIXED_COST_ROWS = 2.3;

/** Mean times in ms of steps with one number of rows. */
interface Cost {
  own: number;
  ownSteps: number;
  alone: number;
  aloneSteps: number;
}

export class SoloPolicy {
  readonly #numWorkers: number;
  readonly #costs: Cost[];
  #wasAlone = false;
  /** Steps of the present kind since it began. */
  #run = 0;
  #sinceTrial = 0;
  #pause = MIN_PAUSE;
  /** The verdict before the trial under way. */
  #isBetterBefore = true;

  constructor(numWorkers: number) {
    this.#numWorkers = numWorkers;
    this.#costs = Array.from({ length: MAX_SOLO_ROWS + 1 }, () => ({ own: 0, ownSteps: 0, alone: 0, aloneSteps: 0 }));
  }

  /** True: run this step of `rows` rows on all cores. Report its time with `observe`. */
  choose(rows: number): boolean {
    const cost = this.#costs[rows];
    if (cost === undefined) return false;
    if (cost.ownSteps < MIN_STEPS) return false;
    if (cost.aloneSteps < MIN_STEPS) return true;
    const isBetter = this.isBetter(rows);
    const step = this.#sinceTrial++ - this.#pause;
    if (step <= 0) this.#isBetterBefore = isBetter;
    if (step < 0) return isBetter;
    if (step < TRIAL_STEPS) return !this.#isBetterBefore;
    this.#sinceTrial = 0;
    this.#pause = isBetter === this.#isBetterBefore ? Math.min(MAX_PAUSE, 2 * this.#pause) : MIN_PAUSE;
    return isBetter;
  }

  /** Rows decode faster alone than they would split among all workers. True until it was measured. */
  isBetter(rows: number): boolean {
    const cost = this.#costs[rows];
    if (cost === undefined) return false;
    if (cost.ownSteps < MIN_STEPS || cost.aloneSteps < MIN_STEPS) return true;
    const split = (FIXED_COST_ROWS + Math.ceil(rows / this.#numWorkers)) / (FIXED_COST_ROWS + rows);
    return cost.alone < cost.own * split * (this.#wasAlone ? 1 : MIN_GAIN);
  }

  observe(rows: number, wasAlone: boolean, ms: number): void {
    const cost = this.#costs[rows];
    if (cost === undefined) return;
    if (wasAlone !== this.#wasAlone) this.#run = 0;
    this.#wasAlone = wasAlone;
    if (this.#run++ < SETTLE_STEPS) return;
    if (wasAlone) {
      cost.alone += (Math.min(ms, MAX_STEP * cost.own) - cost.alone) * Math.max(FADE, 1 / ++cost.aloneSteps);
    } else {
      const most = cost.aloneSteps > 0 ? MAX_STEP * cost.alone : Infinity;
      cost.own += (Math.min(ms, most) - cost.own) * Math.max(FADE, 1 / ++cost.ownSteps);
    }
  }
}
