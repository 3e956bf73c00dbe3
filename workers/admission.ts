// Who of those that wait comes in, and who has to leave a row for them. Owned by the scheduler, which computes prompts
// and places sequences; who is next is decided by the waiting queue (queue.ts) and the shares behind it (shares.ts), where
// one finds a home by the homes (homes.ts). Reading order: `admit`, then what it asks.
import type { AwaitedPrefixes } from './awaited.ts';
import type { DecodeRange } from './decode-range.ts';
import type { Found, Homes } from './homes.ts';
import type { Lending } from './lending.ts';
import type { Prefill } from './prefill.ts';
import { WaitingQueue } from './queue.ts';
import type { Seats } from './seats.ts';
import type { Sequence } from './sequence.ts';
import { classRank, isUrgent } from './shares.ts';
import type { Shares } from './shares.ts';

/** Prompts prefilled in turns at most; more wait, except those that would come before all of them, up to the second. */
const MAX_PREFILLING = 8;
const MAX_PREFILLING_URGENT = 12;
/** While an urgent request (voice, ide) runs, and so long after one came, the next ones find rows free and short chunks. */
const URGENT_MS = 10_000;
/**
 * One row in so many is kept free for them, and as many more may come in beyond the rows: while their prompts are being
 * computed somebody leaves a row.
 */
const ROWS_PER_RESERVED = 8;
/** A sequence asked to leave its row has left it by then, unless it ended first or its worker died. */
const YIELD_TIMEOUT_MS = 500;

/** Takes over those that are let in. Both have a home. */
export interface AdmissionHost {
  /** Its prompt is to be computed. */
  begin(sequence: Sequence, found: Found): void;
  /** It was running before, and its KV is in its home. */
  goOn(sequence: Sequence): void;
}

/** What admission looks at; all of it is the scheduler's. */
export interface AdmissionParts {
  shares: Shares;
  seats: Seats;
  homes: Homes;
  prefill: Prefill;
  awaited: AwaitedPrefixes;
  lending: Lending;
  range: DecodeRange;
}

export class Admission {
  readonly #parts: AdmissionParts;
  readonly #host: AdmissionHost;
  readonly #waiting: WaitingQueue<Sequence>;
  /** Found no memory; comes back when it can have the fully backed row for itself. */
  readonly #preempted = new Set<number>();
  /** Waiting sequences whose KV may still be in the home they had: read again after parking, or made room for others. */
  readonly #aside = new Set<number>();
  /** The sequence asked to make room, and when. */
  #yielding: { id: number; askedMs: number } | null = null;
  /** When the latest request of each urgent class came, by rank. */
  readonly #lastUrgentMs = new Map<number, number>();

  constructor(parts: AdmissionParts, host: AdmissionHost) {
    this.#parts = parts;
    this.#host = host;
    this.#waiting = new WaitingQueue<Sequence>(parts.shares);
  }

  /** Requests that wait, without their other choices. */
  get size(): number {
    return this.#waiting.size;
  }

  /** Requests that wait, with their other choices. */
  get numWaiting(): number {
    return this.#waiting.items().reduce((sum, sequence) => sum + numChoices(sequence), 0);
  }

  /** Sequences that decode or are being prefilled, and the choices that wait for the latter. */
  get numAdmitted(): number {
    const { prefill, lending } = this.#parts;
    return prefill.sequences.reduce((sum, sequence) => sum + numChoices(sequence), 0) + lending.numRunning;
  }

  /** Rank of the most urgent class that is running or came of late; Infinity when that is not urgent. */
  get expectedRank(): number {
    const sinceMs = performance.now() - URGENT_MS;
    let first = this.#parts.seats.firstRank;
    for (const [rank, ms] of this.#lastUrgentMs) if (ms > sinceMs) first = Math.min(first, rank);
    return first <= classRank.ide ? first : Infinity;
  }

  /** Rows that only urgent sequences get now. */
  get numKeptRows(): number {
    return this.expectedRank === Infinity ? 0 : this.#numReserved;
  }

  get #numReserved(): number {
    return Math.floor(this.#parts.lending.numRows / ROWS_PER_RESERVED);
  }

  /** Tokens of the prompt that is going to be computed next; 0 when none can come in. */
  get nextPromptTokens(): number {
    const next = this.#waiting.peek();
    const isNext = next && !this.#aside.has(next.id) && this.#hasRoomFor(next) && this.#mayPrefill(next);
    return isNext ? next.ids.length : 0;
  }

  // --- who waits

  /** A request; its other choices are its `forks`. */
  submit(sequence: Sequence): void {
    if (isUrgent(sequence.meta)) this.#lastUrgentMs.set(classRank[sequence.meta.class], performance.now());
    this.#waiting.add(sequence);
  }

  /** A choice that found no home, or that takes the place of one that ended: before those that have not begun. */
  putBack(sequence: Sequence): void {
    this.#waiting.putBack(sequence);
  }

  /** It was running before and its KV was set aside: it waits before those of its class that have not begun. */
  putBackAside(sequence: Sequence): void {
    this.#aside.add(sequence.id);
    this.#waiting.putBack(sequence);
  }

  /** It found no memory and has no home: it comes back when it can have the fully backed row for itself. */
  putBackPreempted(sequence: Sequence): void {
    this.#preempted.add(sequence.id);
    this.#waiting.putBack(sequence);
  }

  /** Whether it must have the fully backed row; it is asked when it gets a row. */
  takePreempted({ id }: Sequence): boolean {
    return this.#preempted.delete(id);
  }

  /** It left its row, perhaps because it was asked to. */
  hasLeft({ id }: Sequence): void {
    if (this.#yielding?.id === id) this.#yielding = null;
  }

  /** Lets those go that have ended while they waited. */
  reap(ended: (sequence: Sequence, isWaiting: boolean) => boolean): void {
    for (const sequence of this.#waiting.items()) {
      sequence.forks = sequence.forks.filter((fork) => !ended(fork, true));
      if (!ended(sequence, true)) continue;
      const heir = heirOf(sequence);
      if (heir) this.#waiting.replace(sequence, heir);
      else this.#waiting.remove(sequence);
      this.#parts.awaited.forget(sequence);
      this.#preempted.delete(sequence.id);
      if (this.#aside.delete(sequence.id)) this.#parts.homes.forgetAside(sequence);
    }
  }

  // --- who comes in

  /** Gives waiting requests a home, as far as there are places. Those whose beginning is being computed wait for it. */
  admit(): void {
    const { lending, prefill } = this.#parts;
    if (!lending.isComplete) return;
    this.#waiting.beginRound();
    const first = this.#admitUntilFull();
    // The rows kept free are for urgent requests also where somebody else would come first, except one that needs all.
    if (first && !isUrgent(first.meta) && !this.#preempted.has(first.id) && this.expectedRank !== Infinity) {
      this.#waiting.passAll((sequence) => !isUrgent(sequence.meta));
      this.#admitUntilFull();
    }
    // First for those that are in already.
    const isFull = this.numAdmitted > lending.numRows;
    const claimant = isFull ? prefill.sequences.find(({ meta }) => isUrgent(meta)) : first;
    if (claimant && (isFull || !this.#hasRoomFor(claimant))) this.#makeRoom(claimant);
  }

  /** In the order of the queue. Returns whoever has to wait for a place; null when the queue has been gone through. */
  #admitUntilFull(): Sequence | null {
    const { prefill, range, homes, awaited } = this.#parts;
    for (let sequence; (sequence = this.#waiting.peek());) {
      if (!this.#hasRoomFor(sequence)) return sequence;
      // A preempted sequence comes back when it can have the fully backed row for itself.
      const isAlone = prefill.size === 0 && range.isIdle;
      if (this.#preempted.has(sequence.id) && !isAlone) return sequence;
      if (this.#aside.delete(sequence.id) && homes.goBack(sequence)) this.#host.goOn(sequence);
      else {
        if (!this.#mayPrefill(sequence)) return sequence;
        if (awaited.isAwaiting(sequence)) {
          this.#waiting.pass(sequence);
          continue;
        }
        const found = homes.find(sequence);
        if (found === null) return sequence;
        this.#host.begin(sequence, found);
      }
      this.#waiting.remove(sequence);
    }
    return null;
  }

  /**
   * Admission takes in no more than can decode, except a few urgent ones. All choices of a request come in together; more
   * than there are rows come when nothing else is in. The last rows are for urgent ones, where any have come of late.
   */
  #hasRoomFor(sequence: Sequence): boolean {
    const used = this.numAdmitted;
    const { numRows } = this.#parts.lending;
    const most = isUrgent(sequence.meta) ? numRows + this.#numReserved : numRows - this.numKeptRows;
    return used === 0 || used + numChoices(sequence) <= most;
  }

  #mayPrefill(sequence: Sequence): boolean {
    const { prefill } = this.#parts;
    if (prefill.size < MAX_PREFILLING) return true;
    return prefill.size < MAX_PREFILLING_URGENT && prefill.isBeforeAll(sequence);
  }

  /** All rows are taken. Asks for one if another tenant holds more than its share, or a lower class of the same one. */
  #makeRoom(sequence: Sequence): void {
    const { seats, lending } = this.#parts;
    const now = performance.now();
    if (this.#yielding && now - this.#yielding.askedMs < YIELD_TIMEOUT_MS) return;
    const id = seats.victim(sequence.meta, lending.numRows);
    if (id !== null && lending.yield(id)) this.#yielding = { id, askedMs: now };
  }
}

function numChoices(sequence: Sequence): number {
  return 1 + sequence.forks.length;
}

/** Another choice takes the place of a sequence that ended while others waited for its prompt. */
export function heirOf(sequence: Sequence): Sequence | null {
  const [heir, ...forks] = sequence.forks;
  if (heir === undefined) return null;
  heir.forks = forks;
  return heir;
}
