// How far an answer has been taken in by its readers: what the server may count as processed. Without readers that is
// everything that has arrived; with some, the place of the one that is furthest, so that a program that stops reading
// stops the server after its credit instead of filling its own memory. Owned by response.ts.

/** One reader: `seq` is the last event it has dealt with. */
export interface Reader {
  seq: number;
}

export class Pace {
  readonly #readers = new Set<Reader>();
  readonly #onProcessed: (seq: number) => void;
  #arrived = 0;
  #told = 0;

  /** `onProcessed` is called with growing seqs only. */
  constructor(onProcessed: (seq: number) => void) {
    this.#onProcessed = onProcessed;
  }

  /** Events up to `seq` are here. */
  arrived(seq: number): void {
    this.#arrived = Math.max(this.#arrived, seq);
    this.#tell();
  }

  /** From now on this reader counts, until `leave`. */
  enter(): Reader {
    const reader = { seq: 0 };
    this.#readers.add(reader);
    return reader;
  }

  /** The reader has dealt with everything up to `seq`. */
  read(reader: Reader, seq: number): void {
    reader.seq = Math.max(reader.seq, seq);
    this.#tell();
  }

  leave(reader: Reader): void {
    this.#readers.delete(reader);
    this.#tell();
  }

  #tell(): void {
    let seq = this.#readers.size === 0 ? this.#arrived : 0;
    for (const reader of this.#readers) seq = Math.max(seq, reader.seq);
    if (seq <= this.#told) return;
    this.#told = seq;
    this.#onProcessed(seq);
  }
}
