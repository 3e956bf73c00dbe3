// The lead's order of work: what becomes of a request from its arrival to its end, in one worker or another. It deals in
// ids, slots and counts, never in tensors. Who comes in, and who makes room, is decided by the admission (admission.ts), whose
// prompt is next by the prefill (prefill.ts), which worker decodes what by the lending (lending.ts).
import type { DecodeRange, LeaveKind } from './decode-range.ts';
import { Admission, heirOf } from './admission.ts';
import type { AdmissionHost } from './admission.ts';
import { AwaitedPrefixes } from './awaited.ts';
import { Homes } from './homes.ts';
import type { Found } from './homes.ts';
import type { KvMemory } from './kv/kv-memory.ts';
import { SlotTable } from './kv/slots.ts';
import { Lending, RECALL_PAUSE_MS } from './lending.ts';
import type { LendingHost } from './lending.ts';
import type { DecodeMessage, LeadMessage, Link } from './link.ts';
import type { Model } from './model/model.ts';
import type { EngineGauges } from './messages/events.ts';
import type { SlotLayout } from './messages/shared.ts';
import type { Outputs } from './outputs.ts';
import { Prefill } from './prefill.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { Seats } from './seats.ts';
import { Sequence } from './sequence.ts';
import type { SequenceContext, SequenceState } from './sequence.ts';
import { PROMPT_TOKEN_COST, Shares } from './shares.ts';
import type { Claim } from './shares.ts';

/** Above this much pending prefill new streams go to decode workers, and above the second the own ones follow. */
const BUSY_PREFILL_MS = 40;
const LEND_ALL_PREFILL_MS = 60;
const WAITING_CHECK_MS = 100;
const IDLE_MS = 1000;
export class Scheduler implements LendingHost, AdmissionHost {
  readonly #shares = new Shares();
  readonly #seats: Seats;
  readonly #prefill: Prefill;
  readonly #slots: SlotTable;
  readonly #homes: Homes;
  readonly #admission: Admission;
  readonly #awaited: AwaitedPrefixes;
  readonly #lending: Lending;
  readonly #kv: KvMemory;
  readonly #range: DecodeRange;
  readonly #context: SequenceContext;
  readonly #out: Outputs;
  /** A prompt that others may have waited for was computed since the last admission. */
  #isAwaitedDone = false;
  /** Requests nobody reads, oldest first. Their homes are the last resident slots to be given to others. */
  readonly #parked = new Map<number, Sequence>();
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
    this.#range = range;
    this.#context = context;
    this.#out = out;
    const first = layout.rowsPerWorker * layout.numWorkers;
    this.#slots = new SlotTable(first, layout.numSlots - first, kv);
    this.#seats = new Seats(context.generated, this.#shares);
    this.#prefill = new Prefill(kv, this.#shares, (slot) => this.#slots.unpin(slot));
    this.#awaited = new AwaitedPrefixes(this.#prefill, this.#slots);
    this.#lending = new Lending(range, soloRows);
    this.#homes = new Homes(this.#slots, this.#seats, layout.maxLen);
    const parts = { shares: this.#shares, seats: this.#seats, homes: this.#homes, prefill: this.#prefill };
    this.#admission = new Admission({ ...parts, awaited: this.#awaited, lending: this.#lending, range }, this);
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
    return this.#admission.size + this.#parked.size > 0 ? WAITING_CHECK_MS : IDLE_MS;
  }

  gauges(hookMisses: number): EngineGauges {
    return {
      op: 'gauges',
      waiting: this.#admission.numWaiting,
      running: this.#admission.numAdmitted,
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
    this.#admission.submit(sequence);
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
      this.#homes.lose(id, home);
    }
  }

  receive(): void {
    this.#lending.receive(this);
  }

  held(id: number, home: number, claim: Claim): void {
    this.#homes.adopt(id, home, claim);
  }

  cameBack(state: SequenceState, kind: LeaveKind): void {
    this.left(new Sequence(state, this.#context), kind);
  }

  /** Ends what was cancelled or came too late among the sequences the lead itself holds, except those in its range. */
  reap(ended: (sequence: Sequence, isWaiting: boolean) => boolean): void {
    this.#admission.reap(ended);
    for (const sequence of this.#parked.values()) {
      if (!ended(sequence, false)) continue;
      this.#parked.delete(sequence.id);
      this.#homes.forgetAside(sequence);
    }
    for (const sequence of this.#prefill.sequences) {
      sequence.forks = sequence.forks.filter((fork) => !ended(fork, false));
      if (!ended(sequence, false)) continue;
      this.#prefill.remove(sequence);
      this.#homes.keep(sequence);
      // What is computed of the prompt is found again in that home.
      const heir = heirOf(sequence);
      if (heir) this.#admission.putBack(heir);
    }
  }

  /** Parked requests that are read again wait for a place, before those of their class that have not begun. */
  unpark(isWanted: (sequence: Sequence) => boolean): void {
    for (const sequence of this.#parked.values()) {
      if (!isWanted(sequence)) continue;
      this.#parked.delete(sequence.id);
      this.#admission.putBackAside(sequence);
    }
  }

  // --- one step

  /** Gives waiting requests a home, as far as there are places. Those whose beginning is being computed wait for it. */
  admit(): void {
    this.#isAwaitedDone = false;
    this.#seats.charge();
    this.#lending.keepFree(this.#admission.numKeptRows);
    this.#admission.admit();
  }

  begin(sequence: Sequence, { cached, copyFrom }: Found): void {
    this.#prefill.add(sequence, cached, copyFrom);
    for (const choice of [sequence, ...sequence.forks]) {
      if (choice.numGenerated === 0) this.#out.prefill(choice.id, cached);
    }
  }

  goOn(sequence: Sequence): void {
    this.#place(sequence);
  }

  /**
   * Moves streams between the own range and the decode workers when the load asks for it. Returns true when own streams
   * are about to leave.
   */
  balance(): boolean {
    if (this.#pendingMs() > LEND_ALL_PREFILL_MS) return this.#lending.releaseAll();
    this.#lending.releaseExcess();
    if (this.#prefill.size === 0) this.#lending.balance();
    return false;
  }

  /** A prompt is being computed here. */
  get isPrefilling(): boolean {
    return this.#prefill.size > 0;
  }

  /** An urgent prompt (voice, ide) is being computed here, or one that such a one waits for. */
  get hasUrgentPrompt(): boolean {
    return this.#prefill.hasUrgent;
  }

  /** Computes one prefill chunk. Returns the tokens computed. */
  prefill(model: Model): number {
    const elsewhere = this.#lending.numRunning > 0 ? 'elsewhere' : 'nowhere';
    const decoding = this.#range.numLive > 0 ? 'here' : elsewhere;
    const chunk = this.#prefill.step(model, decoding, this.#admission.expectedRank, this.#range.stepMs);
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
        this.#homes.keep(sequence);
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
    this.#admission.hasLeft(sequence);
    switch (kind) {
      case 'done':
        return this.#homes.keep(sequence);
      case 'moved':
        return this.#place(sequence);
      case 'parked':
        this.#homes.setAside(sequence);
        this.#parked.set(sequence.id, sequence);
        return;
      case 'yielded':
        this.#homes.setAside(sequence);
        return this.#admission.putBackAside(sequence);
      case 'preempted':
        this.#homes.keep(sequence);
        sequence.home = -1;
        return this.#admission.putBackPreempted(sequence);
    }
  }

  /** Hangs up on the decode workers, for shutdown. */
  close(): void {
    this.#lending.close();
  }

  // --- inner workings

  #pendingMs(): number {
    return this.#prefill.pendingMs(this.#admission.nextPromptTokens);
  }

  /** The prompt of the other choices is computed: each draws its own first token and gets a home with a copy of its KV. */
  #fork(sequence: Sequence, logits: Float32Array, top: TopRows | null): void {
    const { forks } = sequence;
    sequence.forks = [];
    for (const fork of forks) {
      const cause = fork.accept(logits, 0, this.#out, top);
      if (cause !== null) this.#out.conclude(fork.id, cause);
      else if (this.#homes.findFork(fork, sequence.home)) this.#prefill.addFork(fork, sequence.home);
      else this.#admission.putBack(fork);
    }
  }

  #place(sequence: Sequence): void {
    this.#seats.decodes(sequence.id);
    const isBusy = this.#pendingMs() > BUSY_PREFILL_MS;
    if (this.#admission.takePreempted(sequence) || !this.#lending.lend(sequence, isBusy)) this.#range.join(sequence);
    else this.#homes.goesElsewhere(sequence);
  }
}
