// When streams that were split among workers are gathered again, to find out what all cores are worth now: seldom where
// that was lost of late, and not while this thread waits for a core even split. Owned by a SoloModel. Policy only: it
// sees times and shares.

const MIN_PAUSE_MS = 4000;
const MAX_PAUSE_MS = 64_000;
/** After so many pauses it is tried however the cores look: waiting for them tells less than a trial. */
const CROWDED_PAUSES = 4;
/** Cores are looked at this often when it would be time. */
const LOOK_MS = 1000;
/** Somebody else computes when a thread with work waits for a core this share of its time. */
const CROWDED = 0.2;
/** All cores were worth it when they were held this long: verdicts for several numbers of streams take a while. */
const HELD_MS = 10_000;

export class SoloRetry {
  readonly #takeWait: () => number;
  #pauseMs = MIN_PAUSE_MS;
  #splitAtMs = 0;
  #nextMs = 0;
  /** Start of the trial under way, or null. */
  #triedAtMs: number | null = null;

  /** `takeWait`: share of this thread's time since the last call in which it waited for a core. */
  constructor(takeWait: () => number) {
    this.#takeWait = takeWait;
  }

  /** All cores were given up for some number of streams. */
  gaveUp(nowMs: number): void {
    if (this.#triedAtMs !== null) {
      const isLost = nowMs - this.#triedAtMs < HELD_MS;
      this.#pauseMs = isLost ? Math.min(MAX_PAUSE_MS, 2 * this.#pauseMs) : MIN_PAUSE_MS;
    }
    this.#triedAtMs = null;
    this.#splitAtMs = nowMs;
    this.#nextMs = nowMs + this.#pauseMs;
    this.#takeWait();
  }

  /** Asked while streams are split. True: try all cores now. */
  isDue(nowMs: number): boolean {
    if (nowMs < this.#nextMs) return false;
    this.#nextMs = nowMs + LOOK_MS;
    const patienceMs = Math.min(MAX_PAUSE_MS, CROWDED_PAUSES * this.#pauseMs);
    if (this.#takeWait() > CROWDED && nowMs - this.#splitAtMs < patienceMs) return false;
    this.#triedAtMs = this.#splitAtMs = nowMs;
    this.#nextMs = nowMs + this.#pauseMs;
    return true;
  }
}
