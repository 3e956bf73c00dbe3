// The seats of the rows that decode: who holds one, what was generated there so far, and, when all are taken and
// somebody waits, whose turn it is to give one up. Kept by the scheduler; the decode ranges know nothing of it.
import { classRank, GENERATED_TOKEN_COST } from './shares.ts';
import type { Claim, Shares } from './shares.ts';

/** A sequence that was admitted. */
export interface Seat {
  id: number;
  claim: Claim;
  /** Slot whose entry of `generated` counts its tokens. */
  home: number;
  /** Tokens of its answer that its tenant was charged for. */
  charged: number;
  /** Tokens it had when it began to decode; -1 while it is being prefilled. */
  since: number;
}

/** Nobody is asked to leave before it decoded this many tokens: changing places must stay cheap beside them. */
const MIN_TURN = 16;
/** Within a tenant, a class takes a seat only from one at least so many ranks below: voice from chat, ide from batch. */
const RANKS_BELOW = 2;

export class Seats {
  readonly #seats = new Map<number, Seat>();
  readonly #generated: Int32Array;
  readonly #shares: Shares;

  /** `generated`: per slot, tokens of the answer of the sequence whose home it is; written wherever that decodes. */
  constructor(generated: SharedArrayBuffer, shares: Shares) {
    this.#generated = new Int32Array(generated);
    this.#shares = shares;
  }

  /** A sequence has a home; `numGenerated` tokens of its answer were charged before. */
  take(id: number, claim: Claim, home: number, numGenerated: number): void {
    Atomics.store(this.#generated, home, numGenerated);
    this.#seats.set(id, { id, claim, home, charged: numGenerated, since: -1 });
  }

  /** A decode worker held it before this lead began. */
  adopt(id: number, claim: Claim, home: number): void {
    const charged = Atomics.load(this.#generated, home);
    this.#seats.set(id, { id, claim, home, charged, since: charged });
  }

  /** It goes on in a row. */
  decodes(id: number): void {
    const seat = this.#seats.get(id);
    if (seat) seat.since = Atomics.load(this.#generated, seat.home);
  }

  /** It gave its home up. */
  leave(id: number): void {
    const seat = this.#seats.get(id);
    if (!seat) return;
    this.#charge(seat);
    this.#seats.delete(id);
  }

  /** Rank of the most urgent class that holds one; Infinity without any. */
  get firstRank(): number {
    let first = Infinity;
    for (const { claim } of this.#seats.values()) first = Math.min(first, classRank[claim.class]);
    return first;
  }

  /** Charges everybody for what was generated since the last call. */
  charge(): void {
    for (const seat of this.#seats.values()) this.#charge(seat);
  }

  /**
   * Which sequence gives its seat to this claim, of `numSeats` that are all taken; null when it has to wait. A tenant
   * that holds less than its share by weight takes one from the tenant that is furthest above its own; within a tenant
   * voice and ide take one from classes well below them. The lowest class leaves first, of those the last to come.
   */
  victim(claim: Claim, numSeats: number): number | null {
    const seats = [...this.#seats.values()];
    const held = new Map([[claim.tenant, { weight: claim.weight, count: 0 }]]);
    for (const { claim: holder } of seats) {
      const tenant = held.get(holder.tenant);
      if (tenant) tenant.count++;
      else held.set(holder.tenant, { weight: holder.weight, count: 1 });
    }
    const weights = [...held.values()].reduce((sum, { weight }) => sum + weight, 0);
    const share = (tenant: string): number => Math.max(1, (numSeats * held.get(tenant)!.weight) / weights);
    const excess = (tenant: string): number => held.get(tenant)!.count / share(tenant);
    const isBelow = held.get(claim.tenant)!.count + 1 <= share(claim.tenant);
    const mayTake = ({ claim: holder }: Seat): boolean =>
      holder.tenant === claim.tenant
        ? classRank[holder.class] - classRank[claim.class] >= RANKS_BELOW
        : isBelow && held.get(holder.tenant)!.count - 1 >= share(holder.tenant);
    const candidates = seats.filter((seat) => this.#hadItsTurn(seat) && mayTake(seat));
    if (candidates.length === 0) return null;
    const first = (a: Seat, b: Seat): number =>
      excess(b.claim.tenant) - excess(a.claim.tenant) || classRank[b.claim.class] - classRank[a.claim.class];
    // The map is in the order they came, so of equals the last one wins.
    return candidates.reduce((worst, seat) => (first(seat, worst) <= 0 ? seat : worst)).id;
  }

  #hadItsTurn({ since, home }: Seat): boolean {
    return since >= 0 && Atomics.load(this.#generated, home) - since >= MIN_TURN;
  }

  #charge(seat: Seat): void {
    const numGenerated = Atomics.load(this.#generated, seat.home);
    this.#shares.charge(seat.claim, (numGenerated - seat.charged) * GENERATED_TOKEN_COST);
    seat.charged = numGenerated;
  }
}
