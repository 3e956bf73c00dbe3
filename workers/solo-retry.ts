// When streams that were split among workers are gathered again, to find out what all cores are worth now: seldom where
// that was lost of late, and not while this thread waits for a core even split. Owned by a SoloModel. Policy only: it
// sees times and shares.

const MIN_PAUSE_MS = 4000;
/** After so long it is tried whatever the cores look like: a trial takes some hundred milliseconds. */
const MAX_PAUSE_MS = 64_000;
/** Cores are looked at this often when it would be time. */
const LOOK_MS = 1000;
/** Somebody else computes when a thread with work waits for a core this share of its time. */
export const CROWDED = 0.2;
/** All cores were worth it when they were held this long. */
const HELD_MS = 2000;

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
    if (this.#takeWait() > CROWDED && nowMs - this.#splitAtMs < MAX_PAUSE_MS) return false;
    this.#triedAtMs = this.#splitAtMs = nowMs;
    this.#nextMs = nowMs + this.#pauseMs;
    return true;
  }
}
