// Which tokens a sequence has seen and how often its answer contains them. Owned by one Sampler, read by the penalty
// processors. Rebuilt from the sequence's ids when it moves to another thread, so it is never sent anywhere.

export class TokenCounts {
  /** Distinct ids of prompt and answer in order of appearance; entries from numSeen on are unused. */
  seenIds: Int32Array;
  numSeen = 0;
  /** [vocab] occurrences in the answer. */
  readonly answerCounts: Uint32Array;
  readonly #isSeen: Uint8Array;

  constructor(vocabSize: number, promptIds: ArrayLike<number>, answerIds: ArrayLike<number>) {
    this.answerCounts = new Uint32Array(vocabSize);
    this.#isSeen = new Uint8Array(vocabSize);
    this.seenIds = new Int32Array(Math.min(vocabSize, promptIds.length + answerIds.length + 256));
    for (let i = 0; i < promptIds.length; i++) this.#see(promptIds[i] ?? 0);
    for (let i = 0; i < answerIds.length; i++) this.add(answerIds[i] ?? 0);
  }

  /** A token of the answer. */
  add(id: number): void {
    if (id >= this.answerCounts.length) return;
    this.answerCounts[id] = (this.answerCounts[id] ?? 0) + 1;
    this.#see(id);
  }

  #see(id: number): void {
    if (id >= this.#isSeen.length || this.#isSeen[id] === 1) return;
    this.#isSeen[id] = 1;
    if (this.numSeen === this.seenIds.length) {
      const larger = new Int32Array(Math.min(this.#isSeen.length, this.numSeen * 2));
      larger.set(this.seenIds);
      this.seenIds = larger;
    }
    this.seenIds[this.numSeen++] = id;
  }
}
