// The lead's policy: who is admitted to a home slot, where a prefilled sequence goes, who makes room, and what becomes of
// a home afterwards. It deals in ids, slots and counts, never in tensors. Who comes next is decided by the waiting queue
// (queue.ts) and the shares behind it (shares.ts), which worker decodes what by the lending (lending.ts).
import type { DecodeRange, LeaveKind } from './decode-range.ts';
import { AwaitedPrefixes } from './awaited.ts';
import type { KvMemory } from './kv/kv-memory.ts';
import { SlotTable } from './kv/slots.ts';
import { Lending, RECALL_PAUSE_MS } from './lending.ts';
import type { LendingHost } from './lending.ts';
import type { DecodeMessage, LeadMessage, Link } from './link.ts';
import type { Model } from './model/model.ts';
import type { EngineGauges, SlotLayout } from './messages.ts';
import type { Outputs } from './outputs.ts';
import { Prefill } from './prefill.ts';
import { WaitingQueue } from './queue.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { Seats } from './seats.ts';
import { Sequence } from './sequence.ts';
import type { SequenceContext, SequenceState } from './sequence.ts';
import { isUrgent, PROMPT_TOKEN_COST, Shares } from './shares.ts';
import type { Claim } from './shares.ts';

/** Above this much pending prefill new streams go to decode workers, and above the second the own ones follow. */
const BUSY_PREFILL_MS = 40;
const LEND_ALL_PREFILL_MS = 60;
const WAITING_CHECK_MS = 100;
const IDLE_MS = 1000;
/** Prompts prefilled in turns at most; more wait, except those that would come before all of them, up to the second. */
const MAX_PREFILLING = 8;
const MAX_PREFILLING_URGENT = 12;
/** While an urgent request (voice, ide) runs, and so long after one came, the next ones find rows free and short chunks. */
const URGENT_MS = 10_000;
/** One row in so many is kept free for them. */
const ROWS_PER_RESERVED = 8;
/** A sequence asked to leave its row has left it by then, unless it ended first or its worker died. */
const YIELD_TIMEOUT_MS = 500;

export class Scheduler implements LendingHost {
  readonly #shares = new Shares();
  readonly #waiting = new WaitingQueue<Sequence>(this.#shares);
  readonly #seats: Seats;
  readonly #prefill: Prefill;
  readonly #slots: SlotTable;
  readonly #awaited: AwaitedPrefixes;
  readonly #lending: Lending;
  readonly #kv: KvMemory;
  readonly #layout: SlotLayout;
  readonly #range: DecodeRange;
  readonly #context: SequenceContext;
  readonly #out: Outputs;
  /** Found no memory; comes back when it can have the fully backed row for itself. */
  readonly #preempted = new Set<number>();
  /** A prompt that others may have waited for was computed since the last admission. */
  #isAwaitedDone = false;
  /** Requests nobody reads, oldest first. Their homes are the last resident slots to be given to others. */
  readonly #parked = new Map<number, Sequence>();
  /** Waiting sequences whose KV may still be in the home they had: read again after parking, or made room for others. */
  readonly #aside = new Set<number>();
  /** The sequence asked to make room, and when. */
  #yielding: { id: number; askedMs: number } | null = null;
  #lastUrgentMs = -Infinity;
  /** Prefilled in this step, not yet placed. */
  #prefilled: Sequence | null = null;

  /** `model` is only run here, to learn how fast it is. */
  constructor(
    model: Model,
    kv: KvMemory,
    layout: SlotLayout,
    range: DecodeRange,
    context: SequenceContext,
    out: Outputs,
    soloRows: Int32Array,
  ) {
    this.#kv = kv;
    this.#layout = layout;
    this.#range = range;
    this.#context = context;
    this.#out = out;
    const first = layout.rowsPerWorker * layout.numWorkers;
    this.#slots = new SlotTable(first, layout.numSlots - first, kv);
    this.#seats = new Seats(context.generated, this.#shares);
    this.#prefill = new Prefill(kv, this.#shares, (slot) => this.#slots.unpin(slot));
    this.#awaited = new AwaitedPrefixes(this.#prefill, this.#slots);
    this.#lending = new Lending(range, soloRows);
    // One row and one home are backed in full from the start, so that any sequence can always run alone.
    kv.reserve(0, layout.maxLen);
    kv.reserve(first, layout.maxLen);
    // In an own row: a home may belong to a decode worker that outlived the last lead.
    this.#prefill.calibrate(model, 0);
  }

  /** How long the lead may sleep: 0 with a prompt to compute, short while streams are to be fetched back. */
  get idleMs(): number {
    if (this.#prefill.size > 0 || this.#isAwaitedDone) return 0;
    if (this.#lending.surplus > 0) return RECALL_PAUSE_MS;
    // Deadlines of what waits are seen this often; everything else arrives by message.
    return this.#waiting.size + this.#parked.size > 0 ? WAITING_CHECK_MS : IDLE_MS;
  }

  gauges(hookMisses: number): EngineGauges {
    return {
      op: 'gauges',
      waiting: this.#waiting.items().reduce((sum, sequence) => sum + numChoices(sequence), 0),
      running: this.#numAdmitted,
      residentSlots: this.#slots.numResident,
      kvUsedTokens: this.#kv.usedTokens,
      kvBytesPerToken: this.#kv.bytesPerToken,
      kvReservedBytes: this.#kv.usedTokens * this.#kv.bytesPerToken,
      hookMisses,
    };
  }

  // --- requests and decode workers

  /** A request; its other choices are its `forks`. */
  submit(sequence: Sequence): void {
    if (isUrgent(sequence.meta)) this.#lastUrgentMs = performance.now();
    this.#waiting.add(sequence);
  }

  forget(session: string): void {
    this.#slots.forget(session);
  }

  attach(index: number, link: Link<LeadMessage, DecodeMessage>): void {
    this.#lending.attach(index, link);
  }

  /** A decode worker died: what it held is lost, and its homes hold nothing that can be trusted. */
  lost(index: number): void {
    for (const [id, home] of this.#lending.drop(index)) {
      this.#out.end(id, 'error', 'worker_lost', 'the worker with this response died');
      this.#seats.leave(id);
      this.#slots.free(home);
    }
  }

  receive(): void {
    this.#lending.receive(this);
  }

  held(id: number, home: number, claim: Claim): void {
    this.#slots.markBusy(home);
    this.#seats.adopt(id, claim, home);
  }

  cameBack(state: SequenceState, kind: LeaveKind): void {
    this.left(new Sequence(state, this.#context), kind);
  }

  /** Ends what was cancelled or came too late among the sequences the lead itself holds, except those in its range. */
  reap(ended: (sequence: Sequence, isWaiting: boolean) => boolean): void {
    for (const sequence of this.#waiting.items()) {
      sequence.forks = sequence.forks.filter((fork) => !ended(fork, true));
      if (!ended(sequence, true)) continue;
      const heir = heirOf(sequence);
      if (heir) this.#waiting.replace(sequence, heir);
      else this.#waiting.remove(sequence);
      this.#awaited.forget(sequence);
      this.#preempted.delete(sequence.id);
      if (this.#aside.delete(sequence.id)) this.#slots.unpark(sequence.id);
    }
    for (const sequence of this.#parked.values()) {
      if (!ended(sequence, false)) continue;
      this.#parked.delete(sequence.id);
      this.#slots.unpark(sequence.id);
    }
    for (const sequence of this.#prefill.sequences) {
      sequence.forks = sequence.forks.filter((fork) => !ended(fork, false));
      if (!ended(sequence, false)) continue;
      this.#prefill.remove(sequence);
      this.#keep(sequence);
      // What is computed of the prompt is found again in that home.
      const heir = heirOf(sequence);
      if (heir) this.#waiting.putBack(heir);
    }
  }

  /** Parked requests that are read again wait for a place, before those of their class that have not begun. */
  unpark(isWanted: (sequence: Sequence) => boolean): void {
    for (const sequence of this.#parked.values()) {
      if (!isWanted(sequence)) continue;
      this.#parked.delete(sequence.id);
      this.#aside.add(sequence.id);
      this.#waiting.putBack(sequence);
    }
  }

  // --- one step

  /** Gives waiting requests a home, as far as there are places. Those whose beginning is being computed wait for it. */
  admit(): void {
    this.#isAwaitedDone = false;
    this.#seats.charge();
    this.#waiting.beginRound();
    for (let sequence; (sequence = this.#waiting.peek());) {
      if (!this.#lending.isComplete) return;
      if (!this.#hasRoomFor(sequence)) return this.#makeRoom(sequence);
      // A preempted sequence comes back when it can have the fully backed row for itself.
      const isAlone = this.#prefill.size === 0 && this.#range.isIdle;
      if (this.#preempted.has(sequence.id) && !isAlone) return;
      if (!this.#resume(sequence)) {
        if (!this.#mayPrefill(sequence)) return;
        if (this.#awaited.isAwaiting(sequence)) {
          this.#waiting.pass(sequence);
          continue;
        }
        if (!this.#findHome(sequence)) return;
      }
      this.#waiting.remove(sequence);
    }
  }

  /**
   * Moves streams between the own range and the decode workers when the load asks for it. Returns true when own streams
   * are about to leave: they should not wait for a prefill chunk first.
   */
  balance(): boolean {
    if (this.#pendingMs() > LEND_ALL_PREFILL_MS) return this.#lending.releaseAll();
    if (this.#prefill.size === 0) this.#lending.balance();
    return false;
  }

  /** A prompt is being computed here. */
  get isPrefilling(): boolean {
    return this.#prefill.size > 0;
  }

  /** Computes one prefill chunk. Returns the tokens computed. */
  prefill(model: Model): number {
    const elsewhere = this.#lending.numRunning > 0 ? 'elsewhere' : 'nowhere';
    const decoding = this.#range.numLive > 0 ? 'here' : elsewhere;
    const chunk = this.#prefill.step(model, decoding, this.#expectsUrgent);
    if (!chunk) return 0;
    const { sequence, logits } = chunk;
    this.#shares.charge(sequence.meta, chunk.numTokens * PROMPT_TOKEN_COST);
    if (chunk.isForked) this.#prefilled = sequence;
    if (logits) {
      this.#isAwaitedDone = this.#awaited.size > 0;
      this.#fork(sequence, logits, model.top);
      const cause = sequence.accept(logits, 0, this.#out, model.top);
      if (cause === null) this.#prefilled = sequence;
      else {
        this.#out.conclude(sequence.id, cause);
        this.#keep(sequence);
      }
    }
    return chunk.numTokens;
  }

  /** A sequence has its first token and waits for `placePrefilled`. */
  get hasPrefilled(): boolean {
    return this.#prefilled !== null;
  }

  /** Sends it to where it decodes. Its first token must have been posted. */
  placePrefilled(): void {
    const sequence = this.#prefilled!;
    this.#prefilled = null;
    this.#place(sequence);
  }

  /** A sequence left the row it decoded in. */
  left(sequence: Sequence, kind: LeaveKind): void {
    this.#kv.claim(sequence.home);
    if (this.#yielding?.id === sequence.id) this.#yielding = null;
    switch (kind) {
      case 'done':
        return this.#keep(sequence);
      case 'moved':
        return this.#place(sequence);
      case 'parked':
        this.#setAside(sequence);
        this.#parked.set(sequence.id, sequence);
        return;
      case 'yielded':
        this.#setAside(sequence);
        this.#aside.add(sequence.id);
        return this.#waiting.putBack(sequence);
      case 'preempted':
        this.#keep(sequence);
        sequence.home = -1;
        this.#preempted.add(sequence.id);
        return this.#waiting.putBack(sequence);
    }
  }

  /** Hangs up on the decode workers, for shutdown. */
  close(): void {
    this.#lending.close();
  }

  // --- inner workings

  #pendingMs(): number {
    const next = this.#waiting.peek();
    const isNext = next && !this.#aside.has(next.id) && this.#hasRoomFor(next) && this.#mayPrefill(next);
    return this.#prefill.pendingMs(isNext ? next.ids.length : 0);
  }

  /** Sequences that decode or are being prefilled, and the choices that wait for the latter. */
  get #numAdmitted(): number {
    const prefilling = this.#prefill.sequences.reduce((sum, sequence) => sum + numChoices(sequence), 0);
    return prefilling + this.#lending.numRunning;
  }

  /**
   * Admission never takes in more than can decode. All choices of a request come in together; more than there are rows
   * come when nothing else is in. The last rows are for urgent ones, where there have been any of late.
   */
  #hasRoomFor(sequence: Sequence): boolean {
    const used = this.#numAdmitted;
    const { numRows } = this.#lending;
    const isOpen = isUrgent(sequence.meta) || !this.#expectsUrgent;
    const reserved = isOpen ? 0 : Math.floor(numRows / ROWS_PER_RESERVED);
    return used === 0 || used + numChoices(sequence) <= numRows - reserved;
  }

  get #expectsUrgent(): boolean {
    return this.#seats.hasUrgent || performance.now() - this.#lastUrgentMs < URGENT_MS;
  }

  #mayPrefill(sequence: Sequence): boolean {
    if (this.#prefill.size < MAX_PREFILLING) return true;
    return this.#prefill.size < MAX_PREFILLING_URGENT && this.#prefill.isBeforeAll(sequence);
  }

  /** All rows are taken. Asks for one if another tenant holds more than its share, or a lower class of the same one. */
  #makeRoom(sequence: Sequence): void {
    const now = performance.now();
    if (this.#yielding && now - this.#yielding.askedMs < YIELD_TIMEOUT_MS) return;
    const id = this.#seats.victim(sequence.meta, this.#lending.numRows);
    if (id !== null && this.#lending.yield(id)) this.#yielding = { id, askedMs: now };
  }

  /** One that was running before goes on in a row at once, if its home still holds its KV. */
  #resume(sequence: Sequence): boolean {
    if (!this.#aside.delete(sequence.id)) return false;
    const home = this.#slots.takeParked(sequence.id);
    if (home === null) {
      this.#slots.unpark(sequence.id);
      sequence.home = -1;
      return false;
    }
    sequence.home = home;
    this.#occupy(sequence);
    this.#place(sequence);
    return true;
  }

  /** The prompt of the other choices is computed: each draws its own first token and gets a home with a copy of its KV. */
  #fork(sequence: Sequence, logits: Float32Array, top: TopRows | null): void {
    const { forks } = sequence;
    sequence.forks = [];
    for (const fork of forks) {
      const cause = fork.accept(logits, 0, this.#out, top);
      if (cause !== null) {
        this.#out.conclude(fork.id, cause);
        continue;
      }
      // Before the next allocation, which must not take the home that is copied from.
      this.#slots.pin(sequence.home);
      const home = this.#slots.allocate(Math.min(this.#layout.maxLen, fork.ids.length));
      if (home !== null) {
        fork.home = home;
        this.#occupy(fork);
        this.#prefill.addFork(fork, sequence.home);
      } else {
        this.#slots.unpin(sequence.home);
        this.#waiting.putBack(fork);
      }
    }
  }

  #findHome(sequence: Sequence): boolean {
    const { tenant, session } = sequence.meta;
    const length = Math.min(this.#layout.maxLen, sequence.ids.length + 1);
    const hit = this.#slots.findPrefix(tenant, session, sequence.ids);
    if (hit?.inPlace && this.#slots.take(hit.slot, length)) {
      sequence.home = hit.slot;
      this.#start(sequence, hit.length, null);
      return true;
    }
    if (hit) this.#slots.pin(hit.slot);
    const home = this.#slots.allocate(length);
    if (home !== null) {
      sequence.home = home;
      this.#start(sequence, hit?.length ?? 0, hit?.slot ?? null);
      return true;
    }
    if (!hit) return false;
    // The only slot left is the one with the prefix: use it up, unless others are copying from it.
    this.#slots.unpin(hit.slot);
    if (!this.#slots.take(hit.slot, length)) return false;
    sequence.home = hit.slot;
    this.#start(sequence, hit.length, null);
    return true;
  }

  #start(sequence: Sequence, cached: number, copyFrom: number | null): void {
    this.#occupy(sequence);
    this.#prefill.add(sequence, cached, copyFrom);
    for (const choice of [sequence, ...sequence.forks]) {
      if (choice.numGenerated === 0) this.#out.prefill(choice.id, cached);
    }
  }

  /** Its home is its own from now on, and it counts among those who were let in. */
  #occupy(sequence: Sequence): void {
    this.#slots.seat(sequence.home, sequence);
    this.#seats.take(sequence.id, sequence.meta, sequence.home, sequence.numGenerated);
  }

  #place(sequence: Sequence): void {
    this.#seats.decodes(sequence.id);
    const isBusy = this.#pendingMs() > BUSY_PREFILL_MS;
    if (this.#preempted.delete(sequence.id) || !this.#lending.lend(sequence, isBusy)) {
      this.#range.join(sequence);
      return;
    }
    // The sequence itself lives on elsewhere; what its home holds stays as it is.
    const { meta, ids, homeLength } = sequence;
    this.#slots.seat(sequence.home, { meta, ids, homeLength });
  }

  /** Its KV stays in its home under its id, if all of it is there; the last kind of resident to be given to others. */
  #setAside(sequence: Sequence): void {
    this.#keep(sequence, sequence.homeLength === sequence.past ? sequence.id : 0);
  }

  #keep(sequence: Sequence, parked = 0): void {
    const { tenant, session } = sequence.meta;
    this.#seats.leave(sequence.id);
    this.#slots.keep(sequence.home, { tenant, session, parked, ids: sequence.ids.slice(0, sequence.homeLength) });
  }
}

function numChoices(sequence: Sequence): number {
  return 1 + sequence.forks.length;
}

/** Another choice takes the place of a sequence that ended while others waited for its prompt. */
function heirOf(sequence: Sequence): Sequence | null {
  const [heir, ...forks] = sequence.forks;
  if (heir === undefined) return null;
  heir.forks = forks;
  return heir;
}
