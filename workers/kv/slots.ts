// The lead's table of home slots: the slots after all decode ranges. A sequence is prefilled in its home, decodes
// in a row of some worker's range, and its KV comes back to the home at the end, where the next turn finds it.
// Other prompts copy what they have in common with it, also while it is prefilled and while it decodes: what its home
// holds already is not written again. Policy only (ids and marks, no tensors): the caller does the copying.

export interface Resident {
  tenant: string;
  /** Session that wants it back, or ''. */
  session: string;
  /** Token ids whose KV the slot holds, from position 0. */
  ids: number[];
  /** Of these, so many were its prompt, the rest is an answer; absent: all. */
  numPrompt?: number;
  /** Id of a parked request that will go on from it, or 0. */
  parked: number;
  lastUsed: number;
  /** Copies out of it under way; it is neither evicted nor continued meanwhile. */
  pins: number;
  /** Copies out of it so far, also while a sequence lived there. */
  shares: number;
}

/** A sequence in its home, as far as others are concerned. `homeLength` may grow. */
export interface Occupant {
  readonly meta: { readonly tenant: string; readonly session: string };
  readonly ids: readonly number[];
  /** Leading ids whose KV the home holds. */
  readonly homeLength: number;
}

/** Home of a sequence. Nobody copies out of it while its occupant is not known. */
interface Busy {
  occupant: Occupant | null;
  pins: number;
  shares: number;
}

export interface PrefixHit {
  slot: number;
  /** Leading tokens whose KV can be reused. */
  length: number;
  /** Continue in that very slot instead of copying out of it. */
  inPlace: boolean;
}

/** What the table must know of the KV memory. */
export interface SlotBudget {
  mark(slot: number): number;
  reserve(slot: number, length: number): boolean;
}

/** A prefix shorter than this costs less to compute than to look after. */
const MIN_PREFIX = 16;
/** Copies that make a beginning one that a tenant's prompts share, such as a system prompt. */
const MIN_SHARES = 2;
/** Tokens left to compute at least: a chunk of one token would take another kernel path and round differently. */
const MIN_COMPUTED = 2;

export class SlotTable {
  readonly #first: number;
  /** Index: slot - first. null = free. */
  readonly #slots: (Resident | Busy | null)[];
  readonly #budget: SlotBudget;
  #clock = 0;

  constructor(first: number, count: number, budget: SlotBudget) {
    this.#first = first;
    this.#slots = Array.from({ length: count }, () => null);
    this.#budget = budget;
  }

  get numBusy(): number {
    return this.#slots.reduce((sum, slot) => sum + (slot !== null && !isResident(slot) ? 1 : 0), 0);
  }

  get numResident(): number {
    return this.#slots.reduce((sum, slot) => sum + (isResident(slot) ? 1 : 0), 0);
  }

  /** The slot of this tenant with the longest common token prefix in memory, if one is worth using. */
  findPrefix(tenant: string, session: string, ids: readonly number[]): PrefixHit | null {
    let best: PrefixHit | null = null;
    for (const [index, slot] of this.#slots.entries()) {
      const held = slot === null ? null : readable(slot);
      if (slot === null || held === null || held.tenant !== tenant || held.length <= (best?.length ?? 0)) continue;
      const common = Math.min(commonPrefix(held.ids, ids), held.length, ids.length - MIN_COMPUTED);
      if (common < MIN_PREFIX || (best && common <= best.length)) continue;
      best = {
        slot: this.#first + index,
        length: common,
        inPlace: isResident(slot) && isGoneOn(slot, session, common),
      };
    }
    return best;
  }

  /**
   * A home for a sequence of `length` tokens: the free slot with the smallest sufficient mark, else a free one whose
   * growth fits the budget, else the resident slot least worth keeping. Null when there is none now.
   */
  allocate(length: number): number | null {
    const free = this.#candidates((slot) => slot === null);
    const found =
      this.#smallestSufficient(free, length) ??
      [...free, ...this.#evictable()].find((slot) => this.#budget.reserve(slot, length)) ??
      null;
    if (found === null) return null;
    this.#slots[found - this.#first] = { occupant: null, pins: 0, shares: 0 };
    return found;
  }

  /** Says who lives in a home from now on: others may copy what they have in common with it. */
  seat(slot: number, occupant: Occupant): void {
    const { pins = 0, shares = 0 } = this.#slots[slot - this.#first] ?? {};
    this.#slots[slot - this.#first] = { occupant, pins, shares };
  }

  /** Whether a sequence of this session still lives in a home. */
  isSeated(session: string): boolean {
    return this.#slots.some((slot) => slot !== null && !isResident(slot) && slot.occupant?.meta.session === session);
  }

  /** Takes a resident slot over as a home. False when it is in use, copied from, or its growth exceeds the budget. */
  take(slot: number, length: number): boolean {
    const held = this.#held(slot);
    if (!isResident(held) || held.pins > 0 || !this.#budget.reserve(slot, length)) return false;
    this.#slots[slot - this.#first] = { occupant: null, pins: 0, shares: held.shares };
    return true;
  }

  /** The sequence left; its KV stays for the next turn or for another prompt that begins alike. */
  keep(slot: number, resident: Omit<Resident, 'lastUsed' | 'pins' | 'shares'>): void {
    if (resident.session !== '') this.forget(resident.session);
    const { pins = 0, shares = 0 } = this.#slots[slot - this.#first] ?? {};
    this.#slots[slot - this.#first] = { ...resident, lastUsed: ++this.#clock, pins, shares };
  }

  /** The home of a parked request, busy again, if it has not been given to others. */
  takeParked(id: number): number | null {
    const index = this.#slots.findIndex((slot) => isResident(slot) && slot.parked === id);
    if (index < 0 || this.#slots[index]!.pins > 0) return null;
    this.#slots[index] = { occupant: null, pins: 0, shares: this.#slots[index]!.shares };
    return this.#first + index;
  }

  /** A parked request ended: its KV is an ordinary prefix from now on. */
  unpark(id: number): void {
    for (const slot of this.#slots) if (isResident(slot) && slot.parked === id) slot.parked = 0;
  }

  /** The sequence is lost and what was to come back to its home with it; copies out of it may end. */
  free(slot: number): void {
    const held = readable(this.#held(slot));
    const { pins } = this.#held(slot);
    this.#slots[slot - this.#first] = null;
    if (held === null || pins === 0) return;
    this.keep(slot, { tenant: held.tenant, session: '', parked: 0, ids: held.ids.slice(0, held.length) });
    this.#held(slot).pins = pins;
  }

  /** A decode worker that outlived the lead still holds this home. */
  markBusy(slot: number): void {
    this.#slots[slot - this.#first] = { occupant: null, pins: 0, shares: 0 };
  }

  /** A copy out of this slot begins; it counts as used. */
  pin(slot: number): void {
    const held = this.#held(slot);
    held.pins++;
    held.shares++;
    if (isResident(held)) held.lastUsed = ++this.#clock;
  }

  unpin(slot: number): void {
    this.#held(slot).pins--;
  }

  /** Drops the KV kept for a session; one that is being copied from only loses its name. */
  forget(session: string): void {
    for (const [index, slot] of this.#slots.entries()) {
      if (!isResident(slot) || slot.session !== session) continue;
      if (slot.pins > 0) slot.session = '';
      else this.#slots[index] = null;
    }
  }

  #held(slot: number): Resident | Busy {
    const held = this.#slots[slot - this.#first];
    if (!held) throw new Error(`slot ${slot} is free`);
    return held;
  }

  #candidates(accept: (slot: Resident | Busy | null) => boolean): number[] {
    return this.#slots.flatMap((slot, index) => (accept(slot) ? [index + this.#first] : []));
  }

  /**
   * Resident slots: those nobody will ask for by name, then sessions, then what each tenant's prompts share most, then
   * parked requests; of each kind the longest unused first.
   */
  #evictable(): number[] {
    const shared = this.#mostShared();
    const worth = (slot: number): [number, number] => {
      const resident = this.#slots[slot - this.#first] as Resident;
      const named = resident.session === '' ? 0 : 1;
      return [resident.parked !== 0 ? 3 : shared.has(resident) ? 2 : named, resident.lastUsed];
    };
    return this.#candidates((slot) => isResident(slot) && slot.pins === 0).sort((a, b) => {
      const [kindA, usedA] = worth(a);
      const [kindB, usedB] = worth(b);
      return kindA - kindB || usedA - usedB;
    });
  }

  /** Of each tenant the resident slot that was copied from most, if prompts share it at all. */
  #mostShared(): ReadonlySet<Resident> {
    const best = new Map<string, Resident>();
    for (const slot of this.#slots) {
      if (!isResident(slot) || slot.shares < MIN_SHARES) continue;
      if (slot.shares > (best.get(slot.tenant)?.shares ?? 0)) best.set(slot.tenant, slot);
    }
    return new Set(best.values());
  }

  #smallestSufficient(slots: number[], length: number): number | null {
    let best: number | null = null;
    for (const slot of slots) {
      const mark = this.#budget.mark(slot);
      if (mark >= length && (best === null || mark < this.#budget.mark(best))) best = slot;
    }
    return best;
  }
}

function isResident(slot: Resident | Busy | null): slot is Resident {
  return slot !== null && 'session' in slot;
}

/** Used up in place: its own session goes on, or nobody wants the rest of it back. */
function isGoneOn(slot: Resident, session: string, common: number): boolean {
  // Clients that send the conversation again spell the answer in other tokens, or cut it: only they know this prompt whole.
  const isContinued = common >= Math.min(slot.ids.length, slot.numPrompt ?? Infinity);
  const isItsOwn = slot.session === '' ? isContinued : slot.session === session;
  return isItsOwn && slot.pins === 0 && slot.parked === 0;
}

/** What others may copy: the first `length` ids. */
function readable(slot: Resident | Busy): { tenant: string; ids: readonly number[]; length: number } | null {
  if (isResident(slot)) return { tenant: slot.tenant, ids: slot.ids, length: slot.ids.length };
  if (slot.occupant === null) return null;
  return { tenant: slot.occupant.meta.tenant, ids: slot.occupant.ids, length: slot.occupant.homeLength };
}

export function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const end = Math.min(a.length, b.length);
  let length = 0;
  while (length < end && a[length] === b[length]) length++;
  return length;
}
