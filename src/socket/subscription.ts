// One handle: a response as one connection watches it. Owns the two positions that matter, what was sent and what
// the client acknowledged, and so the credit between them; the outbox renders, dispatch feeds the acks.
// Positions are seqs of the log: another connection could go on from `lastAckSeq`.
import { Limits } from '../../protocol/constants.ts';
import type { LatencyClass } from '../../protocol/messages.ts';
import type { LogEntry } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';

export class Subscription {
  readonly handle: number;
  /** Lane of the Create; events other than Deltas travel on it, even after it was closed. */
  readonly lane: number;
  readonly class: LatencyClass;
  /** Lanes whose Cancel waits for its answer, in order. */
  readonly cancelLanes: number[] = [];
  /** The log's owner; null once Done was sent, so that this handle keeps no answer in memory. */
  #response: Response | null;
  #lastSentSeq = 0;
  #lastAckSeq = 0;
  /** What was sent and not acknowledged, oldest first. Each entry covers at least one event. */
  readonly #unacked: { seq: number; bytes: number }[] = [];
  #isCancelling = false;

  constructor(handle: number, lane: number, response: Response) {
    this.handle = handle;
    this.lane = lane;
    this.class = response.class;
    this.#response = response;
  }

  get response(): Response | null {
    return this.#response;
  }

  get lastSentSeq(): number {
    return this.#lastSentSeq;
  }

  get lastAckSeq(): number {
    return this.#lastAckSeq;
  }

  /** Events that may be sent now. A cancelled response is let out whole: what is left is bounded by the cancel. */
  get credit(): number {
    if (this.#isCancelling) return Infinity;
    return Limits.creditEvents - (this.#lastSentSeq - this.#lastAckSeq);
  }

  /** True when there is something that may be sent, credit permitting. */
  get isReady(): boolean {
    const response = this.#response;
    if (response === null || response.log.head <= this.#lastSentSeq) return false;
    return this.credit > 0 || this.#isOnlyDoneLeft(response);
  }

  /** What may be sent now, in order; Done alone needs no credit. */
  read(): LogEntry[] {
    const response = this.#response;
    if (response === null) return [];
    const { credit } = this;
    const entries = credit > 0 ? response.log.read(this.#lastSentSeq, credit) : [];
    const readTo = entries.at(-1)?.seq ?? this.#lastSentSeq;
    const isDoneNext = response.isEnded && readTo === response.log.head - 1;
    return isDoneNext ? [...entries, ...response.log.read(readTo, 1)] : entries;
  }

  /** From now on credit holds nothing up. */
  cancel(lane: number): void {
    this.cancelLanes.push(lane);
    this.#isCancelling = true;
    this.#response?.cancel();
  }

  /** Events up to `seq` were written in about `bytes` bytes. */
  sent(seq: number, bytes: number): void {
    this.#lastSentSeq = seq;
    this.#unacked.push({ seq, bytes });
  }

  /** Done was sent: the handle is no longer live. */
  finish(): void {
    this.#response = null;
  }

  /** Returns the bytes freed; -1 for a seq that was never sent. An older ack than the last changes nothing. */
  ack(seq: number): number {
    if (seq > this.#lastSentSeq) return -1;
    if (seq <= this.#lastAckSeq) return 0;
    this.#lastAckSeq = seq;
    let count = 0;
    let freed = 0;
    for (const entry of this.#unacked) {
      if (entry.seq > seq) break;
      count++;
      freed += entry.bytes;
    }
    this.#unacked.splice(0, count);
    return freed;
  }

  /** True when everything up to Done has arrived. */
  get isFullyAcked(): boolean {
    return this.#response === null && this.#lastAckSeq === this.#lastSentSeq;
  }

  #isOnlyDoneLeft(response: Response): boolean {
    return response.isEnded && response.log.head === this.#lastSentSeq + 1;
  }
}
