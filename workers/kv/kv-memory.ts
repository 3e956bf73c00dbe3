// The KV memory: per layer one shared buffer for K and one for V, [slots, kvHeads, maxLen, headDim] in
// float32 or int8, seen by all workers of a model. Pages are touched on first write and never given back, so each slot has a
// high-water mark, and the sum of the marks stays below what the model may take (kv-lease.ts). A slot has exactly one writer at a time;
// ownership passes by message, and is asserted here when `debugOwners` is on.
import { kvArray, kvBytesPerToken } from '../messages/models.ts';
import type { KvArray, ModelShape } from '../messages/models.ts';
import type { EngineShared, SlotLayout } from '../messages/shared.ts';
import { KvLease } from './kv-lease.ts';

/** Marks grow by this many tokens at once, so that the shared counter is touched rarely. */
const GROWTH_TOKENS = 64;

/** Bytes copied at once at most: a bit over a millisecond of memory bandwidth, so that no step waits long. */
const SLICE_BYTES = 12 << 20;

/** Tokens a copy between slots may move before it must let the next step run. */
export function sliceTokens(kv: { bytesPerToken: number }): number {
  return Math.max(16, Math.floor(SLICE_BYTES / kv.bytesPerToken));
}

export class KvMemory {
  readonly bytesPerToken: number;
  readonly maxLen: number;
  readonly #views: KvArray[];
  readonly #owners: Int32Array;
  /** Tokens ever written per slot; the last entry is their sum. */
  readonly #marks: Int32Array;
  readonly #layout: SlotLayout;
  readonly #shape: ModelShape;
  readonly #worker: number;
  readonly #debug: boolean;
  readonly #lease: KvLease | null;

  constructor(shape: ModelShape, layout: SlotLayout, shared: EngineShared, worker: number, debugOwners: boolean) {
    this.#shape = shape;
    this.#layout = layout;
    this.#views = shared.kv.map((buffer) => kvArray(shape.kvType, buffer));
    this.#owners = new Int32Array(shared.owners);
    this.#marks = new Int32Array(shared.marks);
    this.#worker = worker;
    this.#debug = debugOwners;
    this.bytesPerToken = kvBytesPerToken(shape);
    this.maxLen = layout.maxLen;
    this.#lease = shared.kvLease === undefined ? null : new KvLease(shared.kvLease, this.bytesPerToken);
  }

  get usedTokens(): number {
    return Atomics.load(this.#marks, this.#layout.numSlots);
  }

  mark(slot: number): number {
    return Atomics.load(this.#marks, slot);
  }

  /** True when the slot may hold `length` tokens within the budget; raises its mark. The caller must own the slot. */
  reserve(slot: number, length: number): boolean {
    const mark = Atomics.load(this.#marks, slot);
    if (length <= mark) return true;
    const next = Math.min(this.maxLen, Math.ceil(length / GROWTH_TOKENS) * GROWTH_TOKENS);
    const growth = next - mark;
    const total = this.#layout.numSlots;
    const sum = Atomics.add(this.#marks, total, growth) + growth;
    if (sum > this.#layout.budgetTokens || this.#lease?.covers(sum) === false) {
      Atomics.sub(this.#marks, total, growth);
      return false;
    }
    Atomics.store(this.#marks, slot, next);
    return true;
  }

  /** Takes over the right to write this slot; the previous owner has given it up by message. */
  claim(slot: number): void {
    if (this.#debug) Atomics.store(this.#owners, slot, this.#worker + 1);
  }

  /** Throws when another worker may be writing one of these slots: a wrong KV memory is worse than a restart. */
  assertOwned(first: number, count = 1): void {
    if (!this.#debug) return;
    for (let slot = first; slot < first + count; slot++) {
      const owner = Atomics.load(this.#owners, slot) - 1;
      if (owner !== this.#worker) throw new Error(`slot ${slot} belongs to worker ${owner}, not ${this.#worker}`);
    }
  }

  /** Copies the KV of positions [from, to) between slots (memcpy per layer and head). */
  copy(source: number, target: number, from: number, to: number): void {
    this.assertOwned(target);
    const { numKvHeads, headDim } = this.#shape;
    const headElements = this.maxLen * headDim;
    const slotElements = numKvHeads * headElements;
    for (const view of this.#views) {
      for (let head = 0; head < numKvHeads; head++) {
        const start = source * slotElements + head * headElements;
        view.copyWithin(
          target * slotElements + head * headElements + from * headDim,
          start + from * headDim,
          start + to * headDim,
        );
      }
    }
  }
}
