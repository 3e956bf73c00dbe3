// A heap of (logit, token id) in arrays that are allocated once: how draw.ts finds the k likeliest tokens, and the
// order inside a group of tokens, without sorting a vocabulary. Ties go to the lower id, so results do not depend on
// the order of insertion. Single-threaded scratch: contents are only valid within one draw.

export class Candidates {
  /** Parallel arrays; entries [0, size) are in use. */
  values = new Float64Array(256);
  ids = new Int32Array(256);
  size = 0;

  clear(): void {
    this.size = 0;
  }

  /** Appends without keeping heap order. */
  append(value: number, id: number): void {
    if (this.size === this.values.length) this.#grow();
    this.values[this.size] = value;
    this.ids[this.size++] = id;
  }

  /** Leaves the k best of the row [offset, offset + vocab), best first. Skips NaN and -Infinity. */
  takeBest(logits: Float32Array, offset: number, vocabSize: number, k: number): void {
    this.clear();
    let threshold = -Infinity;
    for (let id = 0; id < vocabSize; id++) {
      const value = logits[offset + id] ?? NaN;
      // Also false for NaN. An equal value has the higher id here and stays out.
      if (!(value > threshold)) continue;
      if (this.size < k) {
        this.append(value, id);
        if (this.size < k) continue;
        for (let i = (k >> 1) - 1; i >= 0; i--) this.#siftWorst(i, k);
      } else {
        this.values[0] = value;
        this.ids[0] = id;
        this.#siftWorst(0, k);
      }
      threshold = this.values[0] ?? 0;
    }
    if (this.size < k) for (let i = (this.size >> 1) - 1; i >= 0; i--) this.#siftWorst(i, this.size);
    // The worst is on top: taking it off again and again fills the array from the back, best first.
    for (let end = this.size - 1; end > 0; end--) {
      this.#swap(0, end);
      this.#siftWorst(0, end);
    }
  }

  /** Orders what was appended as a heap for popBest. */
  heapify(): void {
    for (let i = (this.size >> 1) - 1; i >= 0; i--) this.#siftBest(i);
  }

  /** Moves the best entry to position `size` of the arrays and shrinks; read it there before the next call. */
  popBest(): void {
    this.#swap(0, --this.size);
    this.#siftBest(0);
  }

  /** True when entry a comes after entry b in order of likelihood. */
  #isWorse(a: number, b: number): boolean {
    const x = this.values[a] ?? 0;
    const y = this.values[b] ?? 0;
    return x < y || (x === y && (this.ids[a] ?? 0) > (this.ids[b] ?? 0));
  }

  #siftWorst(from: number, end: number): void {
    for (let i = from; ;) {
      let child = 2 * i + 1;
      if (child >= end) return;
      if (child + 1 < end && this.#isWorse(child + 1, child)) child++;
      if (!this.#isWorse(child, i)) return;
      this.#swap(i, child);
      i = child;
    }
  }

  #siftBest(from: number): void {
    for (let i = from; ;) {
      let child = 2 * i + 1;
      if (child >= this.size) return;
      if (child + 1 < this.size && this.#isWorse(child, child + 1)) child++;
      if (!this.#isWorse(i, child)) return;
      this.#swap(i, child);
      i = child;
    }
  }

  #swap(a: number, b: number): void {
    const value = this.values[a] ?? 0;
    const id = this.ids[a] ?? 0;
    this.values[a] = this.values[b] ?? 0;
    this.ids[a] = this.ids[b] ?? 0;
    this.values[b] = value;
    this.ids[b] = id;
  }

  #grow(): void {
    const values = new Float64Array(this.values.length * 2);
    const ids = new Int32Array(this.ids.length * 2);
    values.set(this.values);
    ids.set(this.ids);
    this.values = values;
    this.ids = ids;
  }
}
