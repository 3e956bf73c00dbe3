// When what happened to a response, in epoch milliseconds with fraction, and the phases made of that.
import type { Timings } from '../../protocol/messages.ts';

export class ResponseClock {
  readonly createdAtMs: number;
  #prefillAtMs: number | null = null;
  #firstTokenAtMs: number | null = null;
  #lastTokenAtMs: number | null = null;

  constructor(createdAtMs: number) {
    this.createdAtMs = createdAtMs;
  }

  /** Of the newest token; null before the first. */
  get lastTokenAtMs(): number | null {
    return this.#lastTokenAtMs;
  }

  /** Its wait in the queue was over at some time; stays false when it ended there. */
  get wasAdmitted(): boolean {
    return this.#prefillAtMs !== null || this.#firstTokenAtMs !== null;
  }

  /** False when it was preempted and is computed again: clients see the times of the first round. */
  prefillBegins(nowMs: number): boolean {
    if (this.#prefillAtMs !== null) return false;
    this.#prefillAtMs = nowMs;
    return true;
  }

  /** Returns the time since the token before it, or null for the first. */
  token(sampledAtMs: number): number | null {
    const gapMs = this.#lastTokenAtMs === null ? null : sampledAtMs - this.#lastTokenAtMs;
    this.#firstTokenAtMs ??= sampledAtMs;
    this.#lastTokenAtMs = sampledAtMs;
    return gapMs;
  }

  /**
   * Up to `endMs`. A phase not reached is 0; ttftMs is 0 without a token, else queuedMs + prefillMs.
   * The worker timed the token, this thread the prefill, perhaps only when it got round to the worker's messages: the
   * token's own time bounds what came before it.
   */
  timings(endMs: number): Timings {
    const phasesEnd = this.#firstTokenAtMs ?? endMs;
    const prefillAt = Math.min(this.#prefillAtMs ?? phasesEnd, phasesEnd);
    const prefillEnd = this.#prefillAtMs === null ? prefillAt : phasesEnd;
    return {
      queuedMs: Math.max(0, prefillAt - this.createdAtMs),
      prefillMs: Math.max(0, prefillEnd - prefillAt),
      ttftMs: this.#firstTokenAtMs === null ? 0 : Math.max(0, this.#firstTokenAtMs - this.createdAtMs),
      totalMs: Math.max(0, endMs - this.createdAtMs),
    };
  }
}
