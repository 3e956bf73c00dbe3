// Which worker decodes what: the lead's own range, and the sequences it has lent to the decode workers. Streams are lent
// away while much is to be prefilled, so that prefill never stalls decoding, and half of the difference is recalled
// when nothing is. Used by the scheduler, which knows homes; here are ids and counts only.
import type { DecodeRange, LeaveKind } from './decode-range.ts';
import { SOLO_WORKER } from './messages/shared.ts';
import type { DecodeMessage, LeadMessage, Link } from './link.ts';
import type { Sequence, SequenceState } from './sequence.ts';
import { isUrgent } from './shares.ts';
import type { Claim } from './shares.ts';

/** Pause between two recalls, so that streams do not wander with every short prompt. */
export const RECALL_PAUSE_MS = 30;

/** Streams that were split among workers are gathered when they were few enough for so long. */
const FEW_MS = 200;

interface DecodeWorker {
  link: Link<LeadMessage, DecodeMessage>;
  /** Home slots of the sequences lent to it, by request id. */
  lent: Map<number, number>;
  /** False until its inventory arrived. */
  isKnown: boolean;
  /** Recall under way. */
  recalling: boolean;
}

/** Hears what decode workers say. */
export interface LendingHost {
  /** A decode worker held this before the lead began. */
  held(id: number, home: number, claim: Claim): void;
  /** A sequence came back. */
  cameBack(sequence: SequenceState, kind: LeaveKind): void;
}

export class Lending {
  readonly #workers = new Map<number, DecodeWorker>();
  readonly #range: DecodeRange;
  readonly #soloRows: Int32Array;
  #lastRecall = 0;
  /** Rows of decode workers that only urgent sequences get. */
  #numKept = 0;
  /** When there were last more streams than the solo worker should be left. */
  #manyAtMs = 0;

  /** `range`: the lead's own. `soloRows`: as in EngineShared. */
  constructor(range: DecodeRange, soloRows: Int32Array) {
    this.#range = range;
    this.#soloRows = soloRows;
  }

  attach(index: number, link: Link<LeadMessage, DecodeMessage>): void {
    this.#workers.set(index, { link, lent: new Map(), isKnown: false, recalling: false });
  }

  /** A decode worker died. Returns the homes of what was lent to it, by request id. */
  drop(index: number): ReadonlyMap<number, number> {
    const worker = this.#workers.get(index);
    this.#workers.delete(index);
    worker?.link.close();
    return worker?.lent ?? new Map();
  }

  receive(host: LendingHost): void {
    for (const worker of this.#workers.values()) {
      for (let message; (message = worker.link.receive());) this.#handle(worker, message, host);
    }
  }

  /** False while a decode worker may hold homes that the lead does not know of. */
  get isComplete(): boolean {
    return [...this.#workers.values()].every((worker) => worker.isKnown);
  }

  /** Rows of all workers. */
  get numRows(): number {
    return this.#range.numRows * (1 + this.#ready().length);
  }

  get numLent(): number {
    return [...this.#workers.values()].reduce((sum, worker) => sum + worker.lent.size, 0);
  }

  /** So many rows of decode workers, where no chunk of a prompt comes between two tokens, are for urgent sequences. */
  keepFree(numRows: number): void {
    this.#numKept = numRows;
  }

  /** Sequences that decode, here or elsewhere. */
  get numRunning(): number {
    return this.numLent + this.#range.size;
  }

  /** Streams that would better decode elsewhere than they do. */
  get surplus(): number {
    const solo = this.#solo(0);
    if (solo) return this.numRunning - solo.lent.size;
    const fullest = this.#fullest();
    if (!fullest || fullest.recalling) return 0;
    const own = this.#range.size;
    return Math.max(0, Math.min(Math.floor((fullest.lent.size - own) / 2), this.#range.numRows - own));
  }

  /** Lends it where fewest are. False when it had better decode here: there is room, and the lead is not busy. */
  lend(sequence: Sequence, isLeadBusy: boolean): boolean {
    const own = this.#range.size;
    const kept = isUrgent(sequence.meta) ? 0 : this.#keptByEach;
    const free = this.#ready().filter((worker) => worker.lent.size < this.#range.numRows - kept);
    const solo = this.#solo(1);
    if (solo) return this.#lendTo(solo, sequence);
    const least = free.reduce<DecodeWorker | null>((a, b) => (a && a.lent.size <= b.lent.size ? a : b), null);
    if (!least || !(isLeadBusy || own >= this.#range.numRows || least.lent.size <= own)) return false;
    return this.#lendTo(least, sequence);
  }

  /** Asks a sequence, wherever it decodes, to make room for others. False when it does not decode. */
  yield(id: number): boolean {
    const worker = [...this.#workers.values()].find(({ lent }) => lent.has(id));
    if (!worker) return this.#range.yield(id);
    worker.link.send({ op: 'yield', id });
    return true;
  }

  /** Lets own streams go, as many as the others have room for. True while some are about to leave. */
  releaseAll(): boolean {
    this.#release(this.#range.size);
    return this.#range.isReleasing;
  }

  /** As `releaseAll`, for those that find no row here. */
  releaseExcess(): void {
    this.#release(this.#range.size - this.#range.numRows);
  }

  /** Sends few streams to the solo worker; of many, fetches back what others hold above their part. */
  balance(): void {
    if (performance.now() - this.#lastRecall < RECALL_PAUSE_MS) return;
    const count = this.surplus;
    if (count === 0) return;
    const solo = this.#solo(0);
    if (solo) return this.#gather(solo);
    const fullest = this.#fullest()!;
    this.#lastRecall = performance.now();
    fullest.recalling = true;
    fullest.link.send({ op: 'recall', count });
  }

  /** Hangs up, for shutdown. */
  close(): void {
    for (const worker of this.#workers.values()) worker.link.close();
  }

  /** The worker that all streams, with `added` more, are best left to; null when they are too many for that. */
  #solo(added: number): DecodeWorker | null {
    const worker = this.#workers.get(SOLO_WORKER);
    const rows = Math.min(Atomics.load(this.#soloRows, 0), this.#range.numRows);
    const now = performance.now();
    if (this.numRunning > rows) this.#manyAtMs = now;
    if (worker?.isKnown !== true || this.numRunning + added > rows) return null;
    // Those that were split stay so for a while: in the moment between one stream and the next none wanders to and fro.
    const isGathered = worker.lent.size === this.numRunning;
    return isGathered || now - this.#manyAtMs >= FEW_MS ? worker : null;
  }

  #release(count: number): void {
    const most = this.#range.numRows - this.#keptByEach;
    const space = this.#ready().reduce((sum, { lent }) => sum + Math.max(0, most - lent.size), 0);
    if (count > 0 && space > 0) this.#range.release(Math.min(count, space));
  }

  #gather(solo: DecodeWorker): void {
    this.#lastRecall = performance.now();
    this.#range.release(this.#range.size);
    for (const worker of this.#ready()) {
      if (worker === solo || worker.recalling || worker.lent.size === 0) continue;
      worker.recalling = true;
      worker.link.send({ op: 'recall', count: worker.lent.size });
    }
  }

  get #keptByEach(): number {
    return Math.ceil(this.#numKept / Math.max(1, this.#ready().length));
  }

  #lendTo(worker: DecodeWorker, sequence: Sequence): true {
    worker.lent.set(sequence.id, sequence.home);
    worker.link.send({ op: 'lend', sequence: sequence.state() });
    return true;
  }

  #ready(): DecodeWorker[] {
    return [...this.#workers.values()].filter((worker) => worker.isKnown);
  }

  #fullest(): DecodeWorker | undefined {
    return this.#ready().sort((a, b) => b.lent.size - a.lent.size)[0];
  }

  #handle(worker: DecodeWorker, message: DecodeMessage, host: LendingHost): void {
    switch (message.op) {
      case 'inventory':
        for (const { id, home, claim } of message.held) {
          worker.lent.set(id, home);
          host.held(id, home, claim);
        }
        worker.isKnown = true;
        return;
      case 'solo':
        // Being woken is all: what follows is balance's.
        return;
      case 'recalled':
        worker.recalling = false;
        return;
      case 'left':
        worker.lent.delete(message.sequence.meta.id);
        host.cameBack(message.sequence, message.kind);
        return;
    }
  }
}
