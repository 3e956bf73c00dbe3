// What one model may take of the KV memory that all models share. Its workers take more from the common pot as slots fill,
// by atomics and without asking anybody; the main thread (src/engine/kv-pot.ts) opens and closes leases and sets their
// caps. What must stay true: the leases of all models and what is left in the pot add up to KV_MEMORY, always.
import { Lease, Pot } from '../messages/shared.ts';
import type { KvLeaseShared } from '../messages/shared.ts';

export class KvLease {
  readonly #lease: Int32Array;
  readonly #pot: BigInt64Array;
  readonly #bytesPerToken: bigint;

  constructor(shared: KvLeaseShared, bytesPerToken: number) {
    this.#lease = new Int32Array(shared.lease);
    this.#pot = new BigInt64Array(shared.pot);
    this.#bytesPerToken = BigInt(bytesPerToken);
  }

  /**
   * Whether the model may hold so many tokens; takes what is missing from the pot. What was taken stays with the model
   * until its memory is given back as a whole: pages that were written cannot be.
   */
  covers(tokens: number): boolean {
    const granted = Atomics.load(this.#lease, Lease.granted);
    if (tokens <= granted) return true;
    const isTaken =
      tokens <= Atomics.load(this.#lease, Lease.cap) && this.#take(BigInt(tokens - granted) * this.#bytesPerToken);
    // Two workers that ask at once each take what they miss, so that a grant is never too small.
    if (isTaken) Atomics.add(this.#lease, Lease.granted, tokens - granted);
    else Atomics.add(this.#pot, Pot.refusals, 1n);
    return isTaken;
  }

  #take(bytes: bigint): boolean {
    for (let free = Atomics.load(this.#pot, Pot.freeBytes); free >= bytes;) {
      const seen = Atomics.compareExchange(this.#pot, Pot.freeBytes, free, free - bytes);
      if (seen === free) return true;
      free = seen;
    }
    return false;
  }
}
