// What prefill costs, learned from the chunks themselves: so much per token, and so much per token and token before it,
// since attention reads all of the past. Prefill asks how long the next chunk may be; the scheduler, how much is pending.
// What must stay true: a chunk far into a long prompt is never sized by the rate of a short one, nor the other way round.

/** Either cost is the best of so many chunks: one that was preempted says nothing about the model. */
const NEAR_WINDOW = 6;
const FAR_WINDOW = 3;
/** Chunks shorter than this near the beginning mostly measure the fixed cost of a run. */
const MIN_NEAR_CHUNK = 32;
/** Attention is told from the rest where there is this much past. */
const FAR_PAST = 512;
/** Reading the past once costs as much as the attention of so many tokens: seven to twelve, measured (workers/README). */
const READING_TOKENS = 10;
/** Before any long prompt was seen: attention costs as much as all the rest at this past. */
const FIRST_EVEN_PAST = 1000;

export class PrefillRate {
  /** Milliseconds per token without past. */
  readonly #near: number[] = [];
  /** Milliseconds per token and token of the past. */
  readonly #far: number[] = [];

  /** A chunk of `numTokens` after `past` ones took `ms`. */
  add(numTokens: number, past: number, ms: number): void {
    const whole = ms / numTokens;
    if (past >= FAR_PAST) {
      const attention = Math.max(0, ms - numTokens * this.#perToken);
      push(this.#far, attention / (past * (numTokens + READING_TOKENS)), FAR_WINDOW);
      // All of it together took less than the rest alone should: a slow start must not keep chunks short for good.
      if (whole < this.#perToken) push(this.#near, whole, NEAR_WINDOW);
      return;
    }
    const perToken = Math.max(whole / 4, this.#withoutAttention(numTokens, past, ms));
    // A short one mostly measures the fixed cost of a run; one that was fast all the same proves the rate too low.
    if (numTokens >= MIN_NEAR_CHUNK || perToken < this.#perToken) push(this.#near, perToken, NEAR_WINDOW);
  }

  /** Milliseconds per token of a chunk, less what attention to its past is expected to take. */
  #withoutAttention(numTokens: number, past: number, ms: number): number {
    const pairs = past * (numTokens + READING_TOKENS);
    if (this.#far.length === 0) return ms / (numTokens + pairs / FIRST_EVEN_PAST);
    return (ms - this.#perPast * pairs) / numTokens;
  }

  /** Expected milliseconds for the tokens [from, to) of a prompt, in long chunks. */
  spanMs(from: number, to: number): number {
    const numTokens = Math.max(0, to - from);
    return numTokens * (this.#perToken + (this.#perPast * (from + to)) / 2);
  }

  /** Tokens after `past` that take about `ms`; may be less than one. At least one chunk must have been added. */
  tokensWithin(ms: number, past: number): number {
    const reading = this.#perPast * past * READING_TOKENS;
    return Math.floor((ms - reading) / (this.#perToken + this.#perPast * past));
  }

  get #perToken(): number {
    return Math.min(...this.#near);
  }

  get #perPast(): number {
    return this.#far.length > 0 ? Math.min(...this.#far) : this.#perToken / FIRST_EVEN_PAST;
  }
}

function push(window: number[], value: number, limit: number): void {
  window.push(value);
  if (window.length > limit) window.shift();
}
