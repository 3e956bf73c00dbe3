// The one KV budget of all models. Each holds a lease: at first room for one full context, then what its workers take
// while they serve (workers/kv/kv-lease.ts). Written pages cannot be given back one by one, so a lease only shrinks by
// ending, with the memory itself. Used by served-model.ts and models.ts.
// What must stay true: leases and what is free add up to KV_MEMORY.
import { ServiceError } from '../../protocol/errors.ts';
import { Lease, Pot } from '../../workers/messages/shared.ts';
import type { KvLeaseShared } from '../../workers/messages/shared.ts';
import { formatBytes } from './memory.ts';

/** Of an equal part, what others cannot take from a model that has not needed it so far. */
const GUARANTEED = 0.5;
/** One more model fits, or the successor of one, as long as its context takes no more of all than this. */
const MAX_SPARE = 1 / 8;
/** Contexts are advised in multiples of this many tokens. */
const CONTEXT_STEP = 64;

export interface KvDemand {
  /** Without it the model cannot serve one full context. */
  floorTokens: number;
  bytesPerToken: number;
}

/** The part of one model, until `KvPot.close`. */
export class KvShare {
  readonly shared: KvLeaseShared;
  readonly demand: KvDemand;
  readonly #lease: Int32Array;

  constructor(pot: SharedArrayBuffer, demand: KvDemand) {
    const lease = new SharedArrayBuffer(4 * Lease.size);
    this.shared = { lease, pot };
    this.demand = demand;
    this.#lease = new Int32Array(lease);
    this.#lease[Lease.granted] = this.#lease[Lease.cap] = demand.floorTokens;
  }

  get floorBytes(): number {
    return this.demand.floorTokens * this.demand.bytesPerToken;
  }

  /** Bytes the model holds of KV_MEMORY. */
  get bytes(): number {
    return Atomics.load(this.#lease, Lease.granted) * this.demand.bytesPerToken;
  }

  /** It holds more than one that was just loaded. */
  get hasGrown(): boolean {
    return this.bytes > this.floorBytes;
  }

  set cap(bytes: number) {
    const tokens = Math.min(2 ** 31 - 1, Math.floor(bytes / this.demand.bytesPerToken));
    Atomics.store(this.#lease, Lease.cap, Math.max(this.demand.floorTokens, tokens));
  }
}

export class KvPot {
  readonly totalBytes: number;
  readonly #shared = new SharedArrayBuffer(8 * Pot.size);
  readonly #pot = new BigInt64Array(this.#shared);
  readonly #shares = new Set<KvShare>();

  constructor(totalBytes: number) {
    this.totalBytes = totalBytes;
    this.#pot[Pot.freeBytes] = BigInt(totalBytes);
  }

  /** Bytes that no model holds. */
  get freeBytes(): number {
    return Number(Atomics.load(this.#pot, Pot.freeBytes));
  }

  /** Times so far that a model wanted more and did not get it. */
  get refusals(): number {
    return Number(Atomics.load(this.#pot, Pot.refusals));
  }

  /** Whether `open` would succeed now. */
  fits({ floorTokens, bytesPerToken }: KvDemand): boolean {
    return floorTokens * bytesPerToken <= this.freeBytes;
  }

  /** Throws `invalid_request` that says what would fit. */
  open(demand: KvDemand): KvShare {
    const share = new KvShare(this.#shared, demand);
    const bytes = BigInt(share.floorBytes);
    if (Atomics.sub(this.#pot, Pot.freeBytes, bytes) < bytes) {
      Atomics.add(this.#pot, Pot.freeBytes, bytes);
      throw this.#tooLittle(demand);
    }
    this.#shares.add(share);
    this.#share();
    return share;
  }

  /** Its workers have ended. Idempotent. */
  close(share: KvShare): void {
    if (!this.#shares.delete(share)) return;
    Atomics.add(this.#pot, Pot.freeBytes, BigInt(share.bytes));
    this.#share();
  }

  /** Nobody may take so much that another model is left with less than a part of its own. */
  #share(): void {
    const shares = [...this.#shares];
    const guaranteed = (share: KvShare): number =>
      Math.max(share.floorBytes, (GUARANTEED * this.totalBytes) / shares.length);
    const largest = Math.max(0, ...shares.map(({ floorBytes }) => floorBytes));
    const spare = largest <= MAX_SPARE * this.totalBytes ? largest : 0;
    const all = shares.reduce((sum, share) => sum + guaranteed(share), spare);
    for (const share of shares) share.cap = this.totalBytes - (all - guaranteed(share));
  }

  #tooLittle({ floorTokens, bytesPerToken }: KvDemand): ServiceError {
    const { freeBytes } = this;
    const context = Math.floor(freeBytes / bytesPerToken / 2 / CONTEXT_STEP) * CONTEXT_STEP;
    const advice = [
      ...(context > 0 ? [`a context of ${context} tokens would fit`] : []),
      'unload another model',
      'raise KV_MEMORY',
    ];
    return new ServiceError(
      'invalid_request',
      `one full context needs ${formatBytes(floorTokens * bytesPerToken)} of KV memory, and ${formatBytes(freeBytes)} ` +
        `of ${formatBytes(this.totalBytes)} are free: ${advice.join(', or ')}`,
    );
  }
}
