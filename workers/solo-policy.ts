// Whether few rows decode faster on all cores by one worker or on its own threads: by measurement, since threads that
// wait for each other at every operator are fast alone (1.5x at one row on two cores) and collapse beside any other busy
// process. Owned by a SoloModel. Policy only: it sees row counts and milliseconds.

/** More rows are better split among the workers whatever is measured. */
export const MAX_SOLO_ROWS = 8;
/** Steps of each kind that are measured before the two are compared. */
const MIN_STEPS = 4;
/** Weight of the latest step in the mean: one collapse in ten steps must show. */
const FADE = 0.2;
/** A step counts as no more than so many of the other kind: one long pause of the machine must not decide for seconds. */
const MAX_STEP = 3;
/** After so many steps of one kind the other is measured again, for so many steps. */
const PROBE_AFTER = 128;
const PROBE_STEPS = 3;
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
  #sinceProbe = 0;

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
    if (this.#sinceProbe >= PROBE_AFTER + PROBE_STEPS) this.#sinceProbe = 0;
    return this.#sinceProbe++ < PROBE_AFTER ? isBetter : !isBetter;
  }

  /** Rows decode faster alone than they would split among all workers. True until it was measured. */
  isBetter(rows: number): boolean {
    const cost = this.#costs[rows];
    if (cost === undefined) return false;
    if (cost.ownSteps < MIN_STEPS || cost.aloneSteps < MIN_STEPS) return true;
    const split = (FIXED_COST_ROWS + Math.ceil(rows / this.#numWorkers)) / (FIXED_COST_ROWS + rows);
    return cost.alone < cost.own * split;
  }

  observe(rows: number, wasAlone: boolean, ms: number): void {
    const cost = this.#costs[rows];
    if (cost === undefined) return;
    if (wasAlone) {
      cost.alone += (Math.min(ms, MAX_STEP * cost.own) - cost.alone) * Math.max(FADE, 1 / ++cost.aloneSteps);
    } else {
      const most = cost.aloneSteps > 0 ? MAX_STEP * cost.alone : Infinity;
      cost.own += (Math.min(ms, most) - cost.own) * Math.max(FADE, 1 / ++cost.ownSteps);
    }
  }
}
