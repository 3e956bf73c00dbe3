// The home of each sequence the lead let in: where it finds one and how much of its prompt is there already, and what
// becomes of the home when the sequence leaves. Used by the scheduler and its admission; it deals in ids and slots, never
// in tensors. What must stay true: a sequence has a seat from the moment it has a home until it gives that up.
import type { SlotTable } from './kv/slots.ts';
import type { Seats } from './seats.ts';
import type { Sequence } from './sequence.ts';
import type { Claim } from './shares.ts';

/** What of its ids a sequence finds: so many of the first, in its home, or in `copyFrom` to be copied from there. */
export interface Found {
  cached: number;
  copyFrom: number | null;
}

export class Homes {
  readonly #slots: SlotTable;
  readonly #seats: Seats;
  readonly #maxLen: number;

  /** `maxLen`: positions of a slot. */
  constructor(slots: SlotTable, seats: Seats, maxLen: number) {
    this.#slots = slots;
    this.#seats = seats;
    this.#maxLen = maxLen;
  }

  /** Gives a sequence a home, the one with its longest beginning or one to copy that into. Null when there is none now. */
  find(sequence: Sequence): Found | null {
    const { tenant, session } = sequence.meta;
    const length = Math.min(this.#maxLen, sequence.ids.length + 1);
    const hit = this.#slots.findPrefix(tenant, session, sequence.ids);
    if (hit?.inPlace && this.#slots.take(hit.slot, length)) {
      return this.#enter(sequence, hit.slot, { cached: hit.length, copyFrom: null });
    }
    if (hit) this.#slots.pin(hit.slot);
    const home = this.#slots.allocate(length);
    if (home !== null) return this.#enter(sequence, home, { cached: hit?.length ?? 0, copyFrom: hit?.slot ?? null });
    if (!hit) return null;
    // The only slot left is the one with the prefix: use it up, unless others are copying from it.
    this.#slots.unpin(hit.slot);
    if (!this.#slots.take(hit.slot, length)) return null;
    return this.#enter(sequence, hit.slot, { cached: hit.length, copyFrom: null });
  }

  /** Back to the home where its KV was set aside. False when that was given to others. */
  goBack(sequence: Sequence): boolean {
    const home = this.#slots.takeParked(sequence.id);
    if (home === null) {
      this.forgetAside(sequence);
      sequence.home = -1;
      return false;
    }
    this.#enter(sequence, home, null);
    return true;
  }

  /** A home for another choice of a prompt, whose KV is to be copied from `source`; false when there is none. */
  findFork(fork: Sequence, source: number): boolean {
    // Before the allocation, which must not take the home that is copied from.
    this.#slots.pin(source);
    const home = this.#slots.allocate(Math.min(this.#maxLen, fork.ids.length));
    if (home === null) this.#slots.unpin(source);
    else this.#enter(fork, home, null);
    return home !== null;
  }

  /** It decodes elsewhere, as another object: what its home holds stays as it is. */
  goesElsewhere({ home, meta, ids, homeLength }: Sequence): void {
    this.#slots.seat(home, { meta, ids, homeLength });
  }

  /** A decode worker held it before the lead began. */
  adopt(id: number, home: number, claim: Claim): void {
    this.#slots.markBusy(home);
    this.#seats.adopt(id, claim, home);
  }

  /** It is over, or begins anew: its KV is there for others. */
  keep(sequence: Sequence): void {
    this.#keep(sequence, 0);
  }

  /** Its KV stays in its home under its id, if all of it is there; the last kind of resident to be given to others. */
  setAside(sequence: Sequence): void {
    this.#keep(sequence, sequence.homeLength === sequence.past ? sequence.id : 0);
  }

  /** Nobody goes on from what was set aside under this id. */
  forgetAside({ id }: Sequence): void {
    this.#slots.unpark(id);
  }

  /** The worker that held it died, and its home holds nothing that can be trusted. */
  lose(id: number, home: number): void {
    this.#seats.leave(id);
    this.#slots.free(home);
  }

  /** Its home is its own from now on, and it counts among those who were let in. */
  #enter<T>(sequence: Sequence, home: number, found: T): T {
    sequence.home = home;
    this.#slots.seat(home, sequence);
    this.#seats.take(sequence.id, sequence.meta, home, sequence.numGenerated);
    return found;
  }

  #keep(sequence: Sequence, parked: number): void {
    const { home, numPrompt, meta } = sequence;
    const { tenant, session } = meta;
    this.#seats.leave(sequence.id);
    this.#slots.keep(home, { tenant, session, parked, numPrompt, ids: sequence.ids.slice(0, sequence.homeLength) });
  }
}
