// Step messages of all workers in the order they were posted in. Each worker has a port of its own and ports are not
// ordered among each other, but a sequence moves between workers: its second token must not overtake the first.
// ModelEngine feeds it; the numbers come from one counter in shared memory (StepOutput.order).
import type { StepOutput } from '../../workers/messages/events.ts';

export class StepOrder {
  readonly #deliver: (message: StepOutput) => void;
  readonly #held = new Map<number, StepOutput>();
  /** An Int32 that wraps around, like the counter. */
  #next = 0;

  constructor(deliver: (message: StepOutput) => void) {
    this.#deliver = deliver;
  }

  receive(message: StepOutput): void {
    // Given up by skipMissing, yet here: on a crowded machine a living thread may be that late. Its tokens are whole
    // sequences' next ones all the same, unless such a sequence moved within that moment.
    if (((message.order - this.#next) | 0) < 0) {
      this.#deliver(message);
      return;
    }
    this.#held.set(message.order, message);
    this.#release();
  }

  /** Every message below this number has been delivered or given up. */
  get next(): number {
    return this.#next;
  }

  /**
   * Gives up waiting for numbers below those held now: a thread that died between taking one and posting never will.
   * Call when whoever is alive has had time to post.
   */
  skipMissing(): void {
    while (this.#held.size > 0) {
      let gap = Infinity;
      for (const order of this.#held.keys()) gap = Math.min(gap, (order - this.#next) | 0);
      this.#next = (this.#next + gap) | 0;
      this.#release();
    }
  }

  #release(): void {
    for (let message; (message = this.#held.get(this.#next));) {
      this.#held.delete(this.#next);
      this.#next = (this.#next + 1) | 0;
      this.#deliver(message);
    }
  }
}
