// Guesses how a sequence goes on by finding its last few tokens earlier in it (prompt lookup, Saxena 2023). One index
// per decode range follows one sequence at a time; called by speculator.ts. What must stay true: the work of a step
// depends on the tokens that are new, not on the length of the sequence, and the memory does not grow.

/** Lengths of the tails looked up, longest first. */
const TAILS = [4, 3, 2, 1];
const TABLE_BITS = 13;
/** Matches are compared this far back; a longer one says no more. */
const MAX_MATCH = 16;

export class DraftIndex {
  /** Per tail length: position after its latest occurrence, by hash. A collision costs a guess, never a wrong one. */
  readonly #tables = TAILS.map(() => new Int32Array(1 << TABLE_BITS));
  /** Tails that end before this position are in the tables. */
  #indexed = 0;
  /** Tokens before the proposal that also stand before the place it was copied from, 0 … MAX_MATCH. */
  matchLength = 0;

  /** Forgets the sequence it followed. */
  clear(): void {
    for (const table of this.#tables) table.fill(0);
    this.#indexed = 0;
    this.matchLength = 0;
  }

  /**
   * Writes up to `into.length` guesses of what follows `ids` and returns their number. `ids` must be what it was at the
   * last call, with more at the end.
   */
  propose(ids: readonly number[], into: Int32Array): number {
    this.#index(ids);
    const from = this.#find(ids);
    if (from === 0) return 0;
    // Past the end of the sequence the guess goes on from itself: that is how a loop continues.
    for (let i = 0; i < into.length; i++) {
      const at = from + i;
      into[i] = at < ids.length ? ids[at]! : into[at - ids.length]!;
    }
    return into.length;
  }

  /** The tails that end before the last token: the last one is what is looked up. */
  #index(ids: readonly number[]): void {
    for (let end = Math.max(1, this.#indexed); end < ids.length; end++) {
      for (const [i, length] of TAILS.entries()) {
        if (end >= length) this.#tables[i]![hash(ids, end, length)] = end;
      }
    }
    this.#indexed = Math.max(1, ids.length);
  }

  #find(ids: readonly number[]): number {
    for (const [i, length] of TAILS.entries()) {
      if (ids.length <= length) continue;
      const from = this.#tables[i]![hash(ids, ids.length, length)]!;
      if (from === 0) continue;
      const match = commonTail(ids, from);
      if (match < length) continue;
      this.matchLength = match;
      return from;
    }
    this.matchLength = 0;
    return 0;
  }
}

/** Tokens before position `at` that equal the last ones of `ids`. */
function commonTail(ids: readonly number[], at: number): number {
  let length = 0;
  while (length < MAX_MATCH && length < at && ids[at - 1 - length] === ids[ids.length - 1 - length]) length++;
  return length;
}

/** Of the `length` tokens before `end`. */
function hash(ids: readonly number[], end: number, length: number): number {
  let value = length;
  for (let i = end - length; i < end; i++) value = Math.imul(value ^ ids[i]!, 0x9e3779b1) ^ (value >>> 15);
  return value >>> (32 - TABLE_BITS);
}
