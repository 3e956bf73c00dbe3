// The lead's policy: who waits, who is admitted to a home slot, where a prefilled sequence decodes, and how load moves
// between the lead's own range and the decode workers. It deals in ids, slots and counts, never in tensors.
// So that prefill never stalls decoding, streams are lent away while much is to be prefilled and fetched back after.
import type { DecodeRange, LeaveKind } from './decode-range.ts';
import type { KvMemory } from './kv/kv-memory.ts';
import { commonPrefix, SlotTable } from './kv/slots.ts';
import type { DecodeMessage, LeadMessage, Link } from './link.ts';
import type { Model } from './model/model.ts';
import type { EngineGauges, SlotLayout } from './messages.ts';
import type { Outputs } from './outputs.ts';
import { classRank, Prefill } from './prefill.ts';
import { Sequence } from './sequence.ts';
import type { SequenceContext } from './sequence.ts';

/** Above this much pending prefill new streams go to decode workers, and above the second the own ones follow. */
const BUSY_PREFILL_MS = 40;
const LEND_ALL_PREFILL_MS = 60;
/** Pause between two recalls, so that streams do not wander with every short prompt. */
const RECALL_PAUSE_MS = 30;
const WAITING_CHECK_MS = 100;
const IDLE_MS = 1000;
/** A prompt waits for another that is computing at least this many tokens of it; fewer are sooner computed twice. */
const MIN_AWAITED = 64;
/** Prompts prefilled in turns at most; more wait, in order of class. */
const MAX_PREFILLING = 8;

interface DecodeWorker {
  link: Link<LeadMessage, DecodeMessage>;
  /** Home slots of the sequences lent to it, by request id. */
  lent: Map<number, number>;
  /** False until its inventory arrived. */
  isKnown: boolean;
  /** Recall under way. */
  recalling: boolean;
}

export class Scheduler {
  readonly #waiting: Sequence[] = [];
  readonly #prefill: Prefill;
  readonly #slots: SlotTable;
  readonly #workers = new Map<number, DecodeWorker>();
  readonly #kv: KvMemory;
  readonly #layout: SlotLayout;
  readonly #range: DecodeRange;
  readonly #context: SequenceContext;
  readonly #out: Outputs;
  readonly #preempted = new Set<number>();
  /** Waiting prompts whose beginning another one is computing, as of the last admission. */
  readonly #awaiting = new Map<Sequence, { source: Sequence; length: number }>();
  /** A prompt that others may have waited for was computed since the last admission. */
  #isAwaitedDone = false;
  /** Requests nobody reads, oldest first. Their homes are the last resident slots to be given to others. */
  readonly #parked = new Map<number, Sequence>();
  /** Prefilled in this step, not yet placed. */
  #prefilled: Sequence | null = null;
  #lastRecall = 0;

  /** `model` is only run here, to learn how fast it is. */
  constructor(
    model: Model,
    kv: KvMemory,
    layout: SlotLayout,
    range: DecodeRange,
    context: SequenceContext,
    out: Outputs,
  ) {
    this.#kv = kv;
    this.#layout = layout;
    this.#range = range;
    this.#context = context;
    this.#out = out;
    const first = layout.rowsPerWorker * layout.numWorkers;
    this.#slots = new SlotTable(first, layout.numSlots - first, kv);
    this.#prefill = new Prefill(kv, (slot) => this.#slots.unpin(slot));
    // One row and one home are backed in full from the start, so that any sequence can always run alone.
    kv.reserve(0, layout.maxLen);
    kv.reserve(first, layout.maxLen);
    // In an own row: a home may belong to a decode worker that outlived the last lead.
    this.#prefill.calibrate(model, 0);
  }

  /** How long the lead may sleep: 0 with a prompt to compute, short while streams are to be fetched back. */
  get idleMs(): number {
    if (this.#prefill.size > 0 || this.#isAwaitedDone) return 0;
    if (this.#surplus() > 0) return RECALL_PAUSE_MS;
    // Deadlines of what waits are seen this often; everything else arrives by message.
    return this.#waiting.length + this.#parked.size > 0 ? WAITING_CHECK_MS : IDLE_MS;
  }

  gauges(hookMisses: number): EngineGauges {
    const lent = [...this.#workers.values()].reduce((sum, worker) => sum + worker.lent.size, 0);
    return {
      op: 'gauges',
      waiting: this.#waiting.reduce((sum, sequence) => sum + numChoices(sequence), 0),
      running: this.#numPrefilling + this.#range.size + lent,
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
    this.#waiting.push(sequence);
    this.#waiting.sort((a, b) => classRank[a.meta.class] - classRank[b.meta.class]);
  }

  forget(session: string): void {
    this.#slots.forget(session);
  }

  attach(index: number, link: Link<LeadMessage, DecodeMessage>): void {
    this.#workers.set(index, { link, lent: new Map(), isKnown: false, recalling: false });
  }

  /** A decode worker died: what it held is lost, and its homes hold nothing that can be trusted. */
  lost(index: number): void {
    const worker = this.#workers.get(index);
    if (!worker) return;
    this.#workers.delete(index);
    for (const [id, home] of worker.lent) {
      this.#out.end(id, 'error', 'worker_lost', 'the worker with this response died');
      this.#slots.free(home);
    }
    worker.link.close();
  }

  receive(): void {
    for (const worker of this.#workers.values()) {
      for (let message; (message = worker.link.receive());) this.#handle(worker, message);
    }
  }

  /** Ends what was cancelled or came too late among the sequences the lead itself holds, except those in its range. */
  reap(ended: (sequence: Sequence, isWaiting: boolean) => boolean): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const sequence = this.#waiting[i]!;
      sequence.forks = sequence.forks.filter((fork) => !ended(fork, true));
      if (!ended(sequence, true)) continue;
      this.#waiting.splice(i, 1, ...this.#heir(sequence));
      this.#awaiting.delete(sequence);
      this.#preempted.delete(sequence.id);
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
      this.#waiting.unshift(...this.#heir(sequence));
    }
  }

  /** Parked requests that are read again go on, where they stopped if their home still holds their KV. */
  unpark(isWanted: (sequence: Sequence) => boolean): void {
    for (const sequence of this.#parked.values()) {
      if (!isWanted(sequence) || this.#numPrefilling + this.#numRunning() >= this.#capacity()) continue;
      this.#parked.delete(sequence.id);
      const home = this.#slots.takeParked(sequence.id);
      if (home !== null) {
        sequence.home = home;
        this.#slots.seat(home, sequence);
        this.#place(sequence);
      } else {
        this.#slots.unpark(sequence.id);
        sequence.home = -1;
        this.#waiting.unshift(sequence);
      }
    }
  }

  // --- one step

  /** Gives waiting requests a home, as far as there are places. Those whose beginning is being computed wait for it. */
  admit(): void {
    this.#isAwaitedDone = false;
    for (let next = 0; next < this.#waiting.length && this.#canAdmit();) {
      const sequence = this.#waiting[next]!;
      // A preempted sequence comes back when it can have the fully backed row for itself.
      const isAlone = this.#prefill.size === 0 && this.#range.isIdle;
      if (!this.#hasRoomFor(sequence)) return;
      if (this.#preempted.has(sequence.id) && !isAlone) return;
      if (this.#isAwaiting(sequence)) next++;
      else if (this.#findHome(sequence)) this.#waiting.splice(next, 1);
      else return;
    }
  }

  /**
   * Moves streams between the own range and the decode workers when the load asks for it. Returns true when own streams
   * are about to leave: they should not wait for a prefill chunk first.
   */
  balance(): boolean {
    const others = this.#ready();
    if (others.length === 0) return false;
    const own = this.#range.size;
    const room = (worker: DecodeWorker): number => this.#range.numRows - worker.lent.size;
    if (this.#pendingMs() > LEND_ALL_PREFILL_MS) {
      const space = others.reduce((sum, worker) => sum + Math.max(0, room(worker)), 0);
      return own > 0 && space > 0 && this.#range.release(Math.min(own, space)) > 0;
    }
    if (this.#prefill.size > 0 || performance.now() - this.#lastRecall < RECALL_PAUSE_MS) return false;
    const surplus = this.#surplus();
    if (surplus === 0) return false;
    const fullest = this.#fullest()!;
    this.#lastRecall = performance.now();
    fullest.recalling = true;
    fullest.link.send({ op: 'recall', count: surplus });
    return false;
  }

  /** Computes one prefill chunk. Returns the tokens computed. */
  prefill(model: Model): number {
    const elsewhere = this.#numRunning() > 0 ? 'elsewhere' : 'nowhere';
    const chunk = this.#prefill.step(model, this.#range.numLive > 0 ? 'here' : elsewhere);
    if (!chunk) return 0;
    const { sequence, logits } = chunk;
    if (chunk.isForked) this.#prefilled = sequence;
    if (logits) {
      this.#isAwaitedDone = this.#awaiting.size > 0;
      this.#fork(sequence, logits);
      const cause = sequence.accept(logits, 0, this.#out);
      if (cause === null) this.#prefilled = sequence;
      else {
        this.#out.end(sequence.id, cause);
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

  /** A sequence left the lead's own range. */
  left(sequence: Sequence, kind: LeaveKind): void {
    this.#kv.claim(sequence.home);
    if (kind === 'done') this.#keep(sequence);
    else if (kind === 'preempted') this.#requeue(sequence);
    else if (kind === 'parked') this.#park(sequence);
    else this.#place(sequence);
  }

  /** Hangs up on the decode workers, for shutdown. */
  close(): void {
    for (const worker of this.#workers.values()) worker.link.close();
  }

  // --- inner workings

  #ready(): DecodeWorker[] {
    return [...this.#workers.values()].filter((worker) => worker.isKnown);
  }

  #fullest(): DecodeWorker | undefined {
    return this.#ready().sort((a, b) => b.lent.size - a.lent.size)[0];
  }

  /** Streams that would better decode in the lead's own range. */
  #surplus(): number {
    const fullest = this.#fullest();
    if (!fullest || fullest.recalling) return 0;
    const own = this.#range.size;
    return Math.max(0, Math.min(Math.floor((fullest.lent.size - own) / 2), this.#range.numRows - own));
  }

  #pendingMs(): number {
    const waiting = this.#canAdmit() ? (this.#waiting[0]?.ids.length ?? 0) : 0;
    return this.#prefill.estimateMs(this.#prefill.pendingTokens + waiting);
  }

  /** Rows of all workers that can take a sequence; admission never takes in more than can decode. */
  #capacity(): number {
    return this.#range.numRows * (1 + this.#ready().length);
  }

  #numRunning(): number {
    return [...this.#workers.values()].reduce((n, worker) => n + worker.lent.size, this.#range.size);
  }

  /** Sequences being prefilled, and the choices that wait for them. */
  get #numPrefilling(): number {
    return this.#prefill.sequences.reduce((sum, sequence) => sum + numChoices(sequence), 0);
  }

  #canAdmit(): boolean {
    if (this.#prefill.size >= MAX_PREFILLING) return false;
    if ([...this.#workers.values()].some((worker) => !worker.isKnown)) return false;
    return this.#numPrefilling + this.#numRunning() < this.#capacity();
  }

  /** All choices of a request come in together; more than there are rows come when nothing else is in. */
  #hasRoomFor(sequence: Sequence): boolean {
    const used = this.#numPrefilling + this.#numRunning();
    return used === 0 || used + numChoices(sequence) <= this.#capacity();
  }

  /** The prompt of the other choices is computed: each draws its own first token and gets a home with a copy of its KV. */
  #fork(sequence: Sequence, logits: Float32Array): void {
    const { forks } = sequence;
    sequence.forks = [];
    for (const fork of forks) {
      const cause = fork.accept(logits, 0, this.#out);
      if (cause !== null) {
        this.#out.end(fork.id, cause);
        continue;
      }
      // Before the next allocation, which must not take the home that is copied from.
      this.#slots.pin(sequence.home);
      const home = this.#slots.allocate(Math.min(this.#layout.maxLen, fork.ids.length));
      if (home !== null) {
        fork.home = home;
        this.#slots.seat(home, fork);
        this.#prefill.addFork(fork, sequence.home);
      } else {
        this.#slots.unpin(sequence.home);
        this.#waiting.unshift(fork);
      }
    }
  }

  /** Another choice takes the place of a sequence that ended while others waited for its prompt. */
  #heir(sequence: Sequence): Sequence[] {
    const [heir, ...forks] = sequence.forks;
    if (heir === undefined) return [];
    heir.forks = forks;
    return [heir];
  }

  /** Whether a prompt of the same tenant is just computing what this one begins with, more of it than is there to copy. */
  #isAwaiting(sequence: Sequence): boolean {
    const { tenant, session, class: latencyClass } = sequence.meta;
    let awaited = this.#awaiting.get(sequence);
    this.#awaiting.delete(sequence);
    if (awaited === undefined || !this.#isComing(awaited)) {
      const found = this.#prefill.sequences.map((source) => ({
        source,
        length: source.meta.tenant === tenant ? commonPrefix(source.ids, sequence.ids) : 0,
      }));
      awaited = found.sort((a, b) => b.length - a.length)[0];
      if (awaited === undefined || !this.#isComing(awaited) || awaited.length < MIN_AWAITED) return false;
      const there = this.#slots.findPrefix(tenant, session, sequence.ids)?.length ?? 0;
      if (awaited.length - there < MIN_AWAITED) return false;
    }
    this.#awaiting.set(sequence, awaited);
    this.#prefill.want(awaited.source, awaited.length, latencyClass);
    return true;
  }

  #isComing({ source, length }: { source: Sequence; length: number }): boolean {
    return source.homeLength < length && this.#prefill.sequences.includes(source);
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
    this.#slots.seat(sequence.home, sequence);
    this.#prefill.add(sequence, cached, copyFrom);
    for (const choice of [sequence, ...sequence.forks]) {
      if (choice.numGenerated === 0) this.#out.prefill(choice.id, cached);
    }
  }

  #place(sequence: Sequence): void {
    if (this.#preempted.delete(sequence.id)) {
      this.#range.join(sequence);
      return;
    }
    const free = this.#ready().filter((worker) => worker.lent.size < this.#range.numRows);
    const least = free.reduce<DecodeWorker | null>((a, b) => (a && a.lent.size <= b.lent.size ? a : b), null);
    const isBusy = this.#pendingMs() > BUSY_PREFILL_MS;
    const own = this.#range.size;
    if (least && (isBusy || own >= this.#range.numRows || least.lent.size <= own)) this.#lend(least, sequence);
    else this.#range.join(sequence);
  }

  #lend(worker: DecodeWorker, sequence: Sequence): void {
    worker.lent.set(sequence.id, sequence.home);
    // The sequence itself lives on elsewhere; what its home holds stays as it is.
    const { meta, ids, homeLength } = sequence;
    this.#slots.seat(sequence.home, { meta, ids, homeLength });
    worker.link.send({ op: 'lend', sequence: sequence.state() });
  }

  #handle(worker: DecodeWorker, message: DecodeMessage): void {
    switch (message.op) {
      case 'inventory':
        for (const { id, home } of message.held) {
          this.#slots.markBusy(home);
          worker.lent.set(id, home);
        }
        worker.isKnown = true;
        return;
      case 'recalled':
        worker.recalling = false;
        return;
      case 'left': {
        worker.lent.delete(message.sequence.meta.id);
        const sequence = new Sequence(message.sequence, this.#context);
        this.left(sequence, message.kind);
        return;
      }
    }
  }

  #park(sequence: Sequence): void {
    this.#parked.set(sequence.id, sequence);
    this.#keep(sequence, sequence.homeLength === sequence.past ? sequence.id : 0);
  }

  #requeue(sequence: Sequence): void {
    this.#keep(sequence);
    sequence.home = -1;
    this.#preempted.add(sequence.id);
    this.#waiting.unshift(sequence);
  }

  #keep(sequence: Sequence, parked = 0): void {
    const { tenant, session } = sequence.meta;
    this.#slots.keep(sequence.home, { tenant, session, parked, ids: sequence.ids.slice(0, sequence.homeLength) });
  }
}

function numChoices(sequence: Sequence): number {
  return 1 + sequence.forks.length;
}
