// How many requests of one model may wait, in all and of one tenant, and what the refused are advised. Counts only: the
// queue itself, its order and its timeout are the lead's (workers/queue.ts). Used by client.ts.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';

export interface QueueOptions {
  /** Requests that may wait, in all and of one tenant. */
  queueSize: number;
  tenantQueueSize: number;
  queueTimeoutMs: number;
  /** Weights of tenants by name; others have 1. */
  tenantWeights: ReadonlyMap<string, number>;
}

export const defaultQueue: QueueOptions = {
  queueSize: Limits.queuedRequests,
  tenantQueueSize: Limits.queuedRequests,
  queueTimeoutMs: Limits.queueTimeoutMs,
  tenantWeights: new Map(),
};

/** Advice while nothing is known about how fast the queue moves, and its bounds. */
const UNKNOWN_RETRY_MS = 2000;
const MIN_RETRY_MS = 500;
const MAX_RETRY_MS = 30_000;
/** Up to this much is added by chance, so that those refused together do not come back together. */
const JITTER = 0.5;
/** The queue's pace is that of so many departures. */
const PACE_WINDOW = 32;

export class WaitingRoom {
  readonly #options: QueueOptions;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #byTenant = new Map<string, number>();
  /** When the latest left, oldest first. */
  readonly #departures: number[] = [];
  #size = 0;

  constructor(options: QueueOptions, now: () => number = () => performance.now(), random = Math.random) {
    this.#options = options;
    this.#now = now;
    this.#random = random;
  }

  get size(): number {
    return this.#size;
  }

  /** For so many at once. Throws `overloaded` or, when it is this tenant alone that has too much, `rate_limited`. */
  enter(tenant: string, count = 1): void {
    const { queueSize, tenantQueueSize } = this.#options;
    if (this.#size + count > queueSize) throw this.full();
    const own = this.#byTenant.get(tenant) ?? 0;
    if (own + count > tenantQueueSize) {
      const message = `${own} of this tenant are waiting already`;
      throw new ServiceError('rate_limited', message, { retryAfterMs: this.adviceMs() });
    }
    this.#byTenant.set(tenant, own + count);
    this.#size += count;
  }

  full(): ServiceError {
    return new ServiceError('overloaded', 'too many are waiting already', { retryAfterMs: this.adviceMs() });
  }

  /** One was admitted, or it ended. */
  leave(tenant: string): void {
    const left = this.#byTenant.get(tenant)! - 1;
    if (left === 0) this.#byTenant.delete(tenant);
    else this.#byTenant.set(tenant, left);
    this.#size--;
    this.#departures.push(this.#now());
    if (this.#departures.length > PACE_WINDOW) this.#departures.shift();
  }

  /** Milliseconds after which trying again makes sense: about when all that wait now have left, and some more by chance. */
  adviceMs(): number {
    return Math.round(this.#waitMs() * (1 + JITTER * this.#random()));
  }

  #waitMs(): number {
    const { length } = this.#departures;
    if (length < 2) return UNKNOWN_RETRY_MS;
    const each = (this.#now() - this.#departures[0]!) / length;
    return Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, each * this.#size));
  }
}
