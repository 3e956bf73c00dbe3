// The seam between the engine and whatever computes logits. The engine knows slots, rows and token ids;
// an implementation knows tensors. `fake.ts` and `onnx-model.ts` implement it.
import type { TopRows } from '../sampling/top-rows.ts';

/** One opened model in one thread. Calls are synchronous and hold the thread for the whole forward pass. */
export interface Model {
  readonly vocabSize: number;
  /**
   * The likeliest tokens of the rows of logits that the last call returned; null where the vocabulary is so small that
   * walking through a row costs less than asking for them.
   */
  readonly top: TopRows | null;
  /**
   * One decode step over the slots [first, first + n): row i appends tokens[i] at position past[i].
   * Returns logits [n, vocab]; the array belongs to the model and is valid until its next call.
   * `isAlone`: no other thread computes meanwhile, so it may use their cores; the result is the same.
   */
  decode(first: number, n: number, tokens: ArrayLike<number>, past: ArrayLike<number>, isAlone?: boolean): Float32Array;
  /** `decode` has more cores to use when it is alone. */
  readonly canDecodeAlone: boolean;
  /** Where the model decides that itself: the next run of so many rows takes other workers' cores (solo-model.ts). */
  isAlone?(rows: number): boolean;
  /**
   * Appends ids at positions past.. of one slot (one prefill chunk; at least 2 ids, except for a one-token prompt).
   * Returns the logits [vocab] after the last id, valid until the next call, or undefined when not wanted.
   * `isAlone`: nothing decodes in any thread meanwhile, so it may use the other workers' cores; the result is the same.
   */
  prefill(
    slot: number,
    ids: ArrayLike<number>,
    past: number,
    wantLogits: boolean,
    isAlone?: boolean,
  ): Float32Array | undefined;
  /** Numbers of tokens that `verify` takes, ascending; empty when this model cannot verify. */
  readonly verifySizes: readonly number[];
  /**
   * Appends tokens at positions past.. of one slot in one run. Returns logits [tokens, vocab], and leaves KV memory, bit
   * for bit as that many decode steps of one row would; valid until the next call. Takes only `verifySizes`.
   * `isAlone` as in `decode`.
   */
  verify(slot: number, tokens: ArrayLike<number>, past: number, isAlone?: boolean): Float32Array;
  /**
   * Opens one more of the parts that a model can begin without (canDecodeAlone and verifySizes tell when they are there);
   * takes tens of milliseconds. False: nothing was left to open.
   */
  openNext(): boolean;
  /** Runs whose outputs were copied because the no-copy hook was lost; always 0 in good health. */
  readonly hookMisses: number;
  dispose(): void;
}
