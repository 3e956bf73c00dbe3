// Whether few rows decode faster on all cores by one worker or on its own threads: by measurement, since threads that
// wait for each other at every operator are fast alone (1.5x at one row on two cores) and collapse beside any other busy
// process. Owned by a SoloModel. Policy only: it sees row counts and milliseconds.

/** More rows are better split among the workers whatever is measured. */
export const MAX_SOLO_ROWS = 8;
/** Runs of each way that are measured before the two are compared. */
const MIN_RUNS = 16;
/**
 * Runs of so many ms after a change of way are not measured: the kernel moves threads about, and gives a process that
 * begins to use a core its share of it only by and by (it averages load over tens of milliseconds).
 */
const SETTLE_MS = 150;
/** Weight of the latest run in the mean: a collapse in every tenth run must show, one alone must not. */
const FADE = 0.04;
/** A run counts as no more than so many of the other way: one long pause of the machine must not decide for seconds. */
const MAX_RUN = 3;
/** A trial whose runs take this much longer ends early, at the earliest after so many. */
const LOST = 2;
const MIN_LOST_RUNS = 12;
/** After so many runs of one way the other is tried, for so many; the pause doubles while nothing changes by it. */
const MIN_PAUSE = 256;
const MAX_PAUSE = 4096;
/** A collapse shows while all cores are used; only a slow drift needs trials of the other way. */
const MAX_PAUSE_ALONE = 16_384;
const TRIAL_RUNS = 48;
/** To begin with all cores a run must cost less than so much of the other way: changing has its price. */
const MIN_GAIN = 0.92;
/** All cores are kept for several rows while a run costs less than so much of a split one: they have to be gathered for it. */
const MIN_KEPT = 0.97;
/** Cost of a step apart from its rows, in rows: what splitting rows among workers cannot share out. */
const FIXED_COST_ROWS = 2.3;
/** Weight of the latest run in the mean number of tokens a guessing run advances by. */
const GUESS_FADE = 0.01;
/** Split steps as measured cost at most so much more than single rows say: they are not measured while all cores are used. */
const MAX_SPLIT = 1.3;

/** Mean times in ms of runs of one kind. */
interface Cost {
  own: number;
  ownRuns: number;
  alone: number;
  aloneRuns: number;
  /** Of the latest runs, fading: what this kind counts among the others of its rows. */
  weight: number;
}

/** What is known about steps with one number of rows. */
interface Rows {
  /** By tokens of each row that are computed in one run. */
  costs: Map<number, Cost>;
  isAlone: boolean;
  /** Runs left to measure of a trial of the other way. */
  trial: number;
  /** Runs so far of the trial, or of the first use of all cores, and their time in that of the other way. */
  tried: number;
  triedTime: number;
  sinceTrial: number;
  pause: number;
}

export class SoloPolicy {
  readonly #numWorkers: number;
  readonly #rows: Rows[];
  /** By rows in this worker: time of a step in ms while others decode too. */
  readonly #splits: { ms: number; runs: number }[];
  #wasAlone = false;
  /** Time of runs since the present way began. */
  #sinceChangeMs = 0;
  /** What all cores cost several rows of late, whatever their number, to what splitting them should; since the last retry. */
  #several = { cost: 0, runs: 0 };
  /** Mean tokens that a run of one row advances by. */
  #tokensPerRun = 1;

  /** `maxRows`: more are never decoded on all cores. */
  constructor(numWorkers: number, maxRows = MAX_SOLO_ROWS) {
    this.#numWorkers = numWorkers;
    this.#splits = Array.from({ length: maxRows }, () => ({ ms: 0, runs: 0 }));
    this.#rows = Array.from({ length: maxRows }, () => ({
      costs: new Map<number, Cost>(),
      isAlone: true,
      trial: 0,
      tried: 0,
      triedTime: 0,
      sinceTrial: 0,
      pause: MIN_PAUSE,
    }));
  }

  /** True: the next run of `rows` rows had better take all cores. Report it with `observe`. */
  choose(rows: number): boolean {
    const known = this.#rows[rows - 1];
    if (known === undefined) return false;
    if (this.#isUnknown(rows)) return false;
    if (rows === 1 && totalOf(known).ownRuns < MIN_RUNS) return false;
    return known.isAlone !== known.trial > 0;
  }

  /** Up to so many rows decode faster alone than they would split among all workers, as far as was measured. */
  get soloRows(): number {
    const limit = this.#rows.findIndex((rows, index) => !rows.isAlone || this.#isUnknown(index + 1));
    return limit < 0 ? this.#rows.length : limit;
  }

  /** Forgets what all cores cost so many rows and fewer, so that it is found out again. */
  retry(rows: number): void {
    this.#several = { cost: 0, runs: 0 };
    for (const known of this.#rows.slice(0, rows)) {
      known.isAlone = true;
      known.trial = known.tried = known.triedTime = 0;
      for (const cost of known.costs.values()) cost.aloneRuns = 0;
    }
  }

  /** A run of one row advanced by so many tokens, in whatever company. */
  advanced(tokens: number): void {
    this.#tokensPerRun += (tokens - this.#tokensPerRun) * GUESS_FADE;
  }

  /** A step of `rows` rows in this worker took so long while others computed too. */
  observeSplit(rows: number, ms: number): void {
    const split = this.#splits[rows - 1];
    if (split === undefined) return;
    const most = split.runs > 0 ? MAX_RUN * split.ms : Infinity;
    split.ms += (Math.min(ms, most) - split.ms) * Math.max(FADE, 1 / ++split.runs);
  }

  /** `tokens`: computed for each row in that run; more than one when guesses were checked. */
  observe(rows: number, tokens: number, wasAlone: boolean, ms: number): void {
    const known = this.#rows[rows - 1];
    if (known === undefined) return;
    if (wasAlone !== this.#wasAlone) this.#sinceChangeMs = 0;
    this.#wasAlone = wasAlone;
    const isSettled = this.#sinceChangeMs >= SETTLE_MS;
    this.#sinceChangeMs += ms;
    let cost = known.costs.get(tokens);
    if (cost === undefined) known.costs.set(tokens, (cost = { own: 0, ownRuns: 0, alone: 0, aloneRuns: 0, weight: 0 }));
    for (const each of known.costs.values()) each.weight *= 1 - FADE;
    cost.weight += FADE;
    if (isSettled) measure(cost, wasAlone, ms);
    if (isSettled && wasAlone && tokens === 1) this.#measureSeveral(rows, ms);
    if (known.trial > 0 && wasAlone !== known.isAlone) this.#tried(known, cost, ms, isSettled);
    else if (wasAlone === known.isAlone) this.#ran(known, ms);
  }

  /** One run of a trial of the other way. */
  #tried(known: Rows, cost: Cost, ms: number, isSettled: boolean): void {
    const usual = known.isAlone ? cost.alone : cost.own;
    const isLost = this.#isLost(known, ms / usual);
    if (isSettled) known.trial--;
    if (known.trial > 0 && !isLost) return;
    known.trial = 0;
    const isAlone = isLost ? known.isAlone : this.#compare(known);
    const limit = isAlone ? MAX_PAUSE_ALONE : MAX_PAUSE;
    known.pause = isAlone === known.isAlone ? Math.min(limit, 2 * known.pause) : MIN_PAUSE;
    known.isAlone = isAlone;
    known.sinceTrial = 0;
  }

  /** One run of the way that was found better. */
  #ran(known: Rows, ms: number): void {
    const rows = this.#rows.indexOf(known) + 1;
    const { own, aloneRuns } = totalOf(known);
    const splitMs = this.#splitMs(rows);
    // What all cores cost is known only while they are used, so they are given up at any time and taken after a trial.
    if (known.isAlone && aloneRuns < MIN_RUNS && this.#isLost(known, ms / (splitMs ?? own))) this.#giveUp(this.#rows);
    else if (known.isAlone && aloneRuns < MIN_RUNS && this.#isLostForSeveral(rows)) this.#giveUp([known]);
    else if (known.isAlone && !this.#compare(known)) this.#giveUp([known]);
    else if (++known.sinceTrial >= known.pause && splitMs === null) {
      known.trial = TRIAL_RUNS;
      known.tried = known.triedTime = 0;
    }
  }

  /** One more run of a trial took so much of the other way's time: is it clear already how it ends? */
  #isLost(known: Rows, time: number): boolean {
    known.tried++;
    known.triedTime += Number.isFinite(time) ? Math.min(time, MAX_RUN) : 1;
    return known.tried >= MIN_LOST_RUNS && known.triedTime > LOST * known.tried;
  }

  #measureSeveral(rows: number, ms: number): void {
    const splitMs = this.#splitMs(rows);
    if (splitMs === null) return;
    const several = this.#several;
    several.cost += (Math.min(ms / splitMs, MAX_RUN) - several.cost) * Math.max(FADE, 1 / ++several.runs);
  }

  /** Rows come and go: what all cores cost so many is not found out anew for each number that has no verdict yet. */
  #isLostForSeveral(rows: number): boolean {
    return rows > 1 && this.#several.runs >= MIN_RUNS && this.#several.cost > 1;
  }

  /** All at once where they collapse: who takes the cores does so whatever the number of rows. */
  #giveUp(all: readonly Rows[]): void {
    for (const known of all) {
      if (known.trial > 0 || !known.isAlone) continue;
      known.isAlone = false;
      known.pause = MIN_PAUSE;
      known.sinceTrial = 0;
    }
  }

  #compare(known: Rows): boolean {
    const rows = this.#rows.indexOf(known) + 1;
    const { own, alone, ownRuns, aloneRuns } = totalOf(known);
    const splitMs = this.#splitMs(rows);
    const gain = !known.isAlone ? MIN_GAIN : splitMs === null ? 1 : MIN_KEPT;
    if (splitMs !== null && aloneRuns >= MIN_RUNS) return known.costs.get(1)!.alone < splitMs * gain;
    if (ownRuns < MIN_RUNS || aloneRuns < MIN_RUNS || own === 0) return known.isAlone;
    const split = (FIXED_COST_ROWS + Math.ceil(rows / this.#numWorkers)) / (FIXED_COST_ROWS + rows);
    return alone < own * split * gain;
  }

  /**
   * What a step of several rows costs split among the workers: as measured while it was so, else from what one row costs
   * in one or from another number of them, so that nobody has to decode them in one worker's time to find out. Null for
   * one row, and until anything of that was measured.
   */
  #splitMs(rows: number): number | null {
    const share = Math.ceil(rows / this.#numWorkers);
    const expected = rows < 2 ? null : this.#expectedMs(share);
    if (expected === null) return null;
    const { ms, runs } = this.#splits[share - 1]!;
    // Who is alone in a worker has its tokens guessed there too; two rows in one worker have not.
    const guesses = rows <= this.#numWorkers ? this.#guessGain : 1;
    return (runs < MIN_RUNS ? expected : Math.min(ms, MAX_SPLIT * expected)) / guesses;
  }

  /** Of a step of so many rows in one worker's own time, by what others than they cost there. */
  #expectedMs(share: number): number | null {
    const scaled = (ms: number, rows: number): number => (ms * (FIXED_COST_ROWS + share)) / (FIXED_COST_ROWS + rows);
    const one = this.#rows[0]!.costs.get(1);
    if (one !== undefined && one.ownRuns >= MIN_RUNS) return scaled(one.own, 1);
    const known = this.#splits.flatMap(({ ms, runs }, index) => (runs >= MIN_RUNS ? [{ ms, rows: index + 1 }] : []));
    const nearest = known.sort((a, b) => Math.abs(a.rows - share) - Math.abs(b.rows - share))[0];
    return nearest === undefined ? null : scaled(nearest.ms, nearest.rows);
  }

  /** Several rows stay split until there is something to compare all cores with. */
  #isUnknown(rows: number): boolean {
    return rows > 1 && this.#splitMs(rows) === null;
  }

  /** Tokens of one row per time with guesses, to those without, in one worker; 1 until it was measured. */
  get #guessGain(): number {
    const { costs } = this.#rows[0]!;
    const plain = costs.get(1)?.own ?? 0;
    let time = 0;
    let weights = 0;
    for (const { own, ownRuns, weight } of costs.values()) {
      if (ownRuns === 0) continue;
      time += own * weight;
      weights += weight;
    }
    return plain > 0 && weights > 0 ? Math.max(1, (this.#tokensPerRun * plain * weights) / time) : 1;
  }
}

function measure(cost: Cost, wasAlone: boolean, ms: number): void {
  if (wasAlone) {
    const most = cost.ownRuns > 0 ? MAX_RUN * cost.own : Infinity;
    cost.alone += (Math.min(ms, most) - cost.alone) * Math.max(FADE, 1 / ++cost.aloneRuns);
  } else {
    const most = cost.aloneRuns > 0 ? MAX_RUN * cost.alone : Infinity;
    cost.own += (Math.min(ms, most) - cost.own) * Math.max(FADE, 1 / ++cost.ownRuns);
  }
}

/** Both ways compared by the kinds of runs that both have done, as often as each comes; runs are those of all kinds. */
function totalOf({ costs }: Rows): Omit<Cost, 'weight'> {
  const total = { own: 0, ownRuns: 0, alone: 0, aloneRuns: 0 };
  for (const { own, ownRuns, alone, aloneRuns, weight } of costs.values()) {
    total.ownRuns += ownRuns;
    total.aloneRuns += aloneRuns;
    if (ownRuns === 0 || aloneRuns === 0) continue;
    total.own += own * weight;
    total.alone += alone * weight;
  }
  return total;
}
