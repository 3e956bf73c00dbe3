// Selects the likeliest tokens of rows of logits, for onnx-model.ts: a graph of one node and a session of its own, run
// after the model's. Not part of the model's graphs, since TopK of ONNX Runtime 1.30 ends the process with a division
// by zero when there are no rows, as in every chunk of a prompt but the last.
import type { TopRows } from '../sampling/top-rows.ts';
import { DataType, OnnxWriter } from './onnx-writer.ts';
import { OrtSession, tensor } from './ort-binding.ts';

/** Tokens selected of a row. */
export const TOP_SIZE = 64;
/** From here on the selection is cheaper than a walk through the row (README, "Why large vocabularies…"). */
const LARGE_VOCABULARY = 32_000;

/** True where the selection pays. */
export function isLargeVocabulary(vocabSize: number): boolean {
  return vocabSize >= LARGE_VOCABULARY;
}

export class TopSelection {
  readonly #session: OrtSession;
  readonly #vocabSize: number;
  readonly #tick = tensor('int64', new BigInt64Array(2), [2]);
  /** Grown to the largest batch so far. */
  #values: Float32Array = new Float32Array(0);
  #ids: Int32Array = new Int32Array(0);

  /** `vocabSize` is at least TOP_SIZE. `forceCopy` and `loadLock` as in OpenOptions. */
  constructor(vocabSize: number, options: { forceCopy?: boolean; loadLock?: Int32Array }) {
    this.#vocabSize = vocabSize;
    this.#session = new OrtSession(selectionGraph(vocabSize), { ...options, threads: 1 });
  }

  get hookMisses(): number {
    return this.#session.hookMisses;
  }

  /** From logits [n, vocab], n ≥ 1. The result is valid until the next call. */
  select(logits: Float32Array, n: number): TopRows {
    const length = n * TOP_SIZE;
    if (this.#values.length < length) {
      this.#values = new Float32Array(length);
      this.#ids = new Int32Array(length);
    }
    const dims = [n, TOP_SIZE];
    const feeds = { logits: tensor('float32', logits.subarray(0, n * this.#vocabSize), [n, this.#vocabSize]) };
    this.#session.run(feeds, {
      tick: this.#tick,
      values: tensor('float32', this.#values.subarray(0, length), dims),
      ids: tensor('int32', this.#ids.subarray(0, length), dims),
    });
    return { size: TOP_SIZE, values: this.#values, ids: this.#ids };
  }

  dispose(): void {
    this.#session.dispose();
  }
}

/** logits [n, vocab] → tick (first, for the no-copy hook), values and ids [n, TOP_SIZE], best first, lower ids first. */
function selectionGraph(vocabSize: number): Uint8Array {
  const w = new OnnxWriter(null);
  w.input('logits', DataType.float32, ['n', vocabSize]);
  w.output(w.node('Shape', ['logits'], 'tick'), DataType.int64, [2]);
  w.tensor('size', DataType.int64, [1], BigInt64Array.of(BigInt(TOP_SIZE)));
  w.node('TopK', ['logits', 'size'], ['values', 'wide_ids'], { axis: -1, largest: 1, sorted: 1 });
  w.node('Cast', ['wide_ids'], 'ids', { to: DataType.int32 });
  w.output('values', DataType.float32, ['n', TOP_SIZE]);
  w.output('ids', DataType.int32, ['n', TOP_SIZE]);
  return w.finish();
}
