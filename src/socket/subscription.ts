// One handle: a response as one connection watches it. Owns the two positions that matter, what was sent and what
// the client acknowledged, and so the credit between them, and what the client asked to see; the outbox renders,
// dispatch feeds the acks. Positions are seqs of the log: a resumed handle begins at the seq its client has.
import { Limits } from '../../protocol/constants.ts';
import type { Delta, LatencyClass, LiveState, TokenLogprob, ViewOptions } from '../../protocol/messages.ts';
import type { LogEntry } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { SentenceScanner } from '../responses/sentence-scanner.ts';

/** Events whose bytes are freed together, by the ack of the last of them. */
const RUN_EVENTS = 16;

/** What a client wants to see: of Create or Resume, whose `logprobs` differ in type but both say yes by being there. */
export type View = ViewOptions & { logprobs?: number | boolean };

export class Subscription {
  readonly handle: number;
  /** Lane of the Create; events other than Deltas travel on it, even after it was closed. */
  readonly lane: number;
  readonly class: LatencyClass;
  /** Lanes whose Cancel waits for its answer, in order. */
  readonly cancelLanes: number[] = [];
  /** The log's owner; null once Done was sent, so that this handle keeps no answer in memory. */
  #response: Response | null;
  #lastSentSeq: number;
  #lastAckSeq: number;
  /** Something was sent on this handle. */
  #hasSent = false;
  readonly #view: View;
  readonly #scanner: SentenceScanner | null;
  /** What the client was told last, for those who asked. */
  #toldState: LiveState | null = null;
  #toldPosition: number | undefined;
  /** What was sent and not acknowledged, oldest first; each entry covers a run of events, so that there are few. */
  readonly #unacked: { fromSeq: number; seq: number; bytes: number }[] = [];
  #isCancelling = false;

  /** `fromSeq`: the last event the client has; what comes after it is sent. */
  constructor(handle: number, lane: number, response: Response, view: View = {}, fromSeq = 0) {
    this.handle = handle;
    this.lane = lane;
    this.class = response.class;
    this.#response = response;
    this.#lastSentSeq = fromSeq;
    this.#lastAckSeq = fromSeq;
    this.#view = view;
    this.#scanner = view.sentences === true ? new SentenceScanner() : null;
    // What the client has decides where it is in a sentence; the ends in it were told with it.
    this.#scanner?.push(response.log.textBetween(0, fromSeq));
  }

  get response(): Response | null {
    return this.#response;
  }

  /** The next delta is the first on this handle: it must not wait. */
  get isFresh(): boolean {
    return !this.#hasSent;
  }

  /** Events that the client does not have for certain. */
  get behindBy(): number {
    return this.#response === null ? 0 : this.#response.log.head - this.#lastAckSeq;
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

  /** The next run of text as the client wants it, up to and including event `seq`. Call `sent` afterwards. */
  delta(seq: number, text: string, tokens: TokenLogprob[] = []): Delta {
    const { offsets, logprobs = false } = this.#view;
    if (offsets !== true && logprobs === false && this.#scanner === null) return [this.handle, seq, text];
    const offset = this.#response?.log.textEnd(this.#lastSentSeq) ?? 0;
    const ends = this.#scanner?.push(text) ?? [];
    if (logprobs !== false && tokens.length > 0) return [this.handle, seq, text, offset, ends, tokens];
    return ends.length === 0 ? [this.handle, seq, text, offset] : [this.handle, seq, text, offset, ends];
  }

  /** The state to tell, when it was asked for and is new; `position` counts only while queued. */
  newState(position: () => number | undefined): { state: LiveState; position: number | undefined } | null {
    const state = this.#response?.state.kind;
    if (this.#view.states !== true || state === undefined || state === 'ended') return null;
    const place = state === 'queued' ? position() : undefined;
    if (state === this.#toldState && place === this.#toldPosition) return null;
    this.#toldState = state;
    this.#toldPosition = place;
    return { state, position: place };
  }

  /** The client is being told positions of this handle. */
  get wantsPosition(): boolean {
    return this.#view.states === true && this.#response?.state.kind === 'queued';
  }

  /** From now on credit holds nothing up. */
  cancel(lane: number): void {
    this.cancelLanes.push(lane);
    this.#isCancelling = true;
    this.#response?.cancel();
  }

  /** Events up to `seq` were written in about `bytes` bytes. */
  sent(seq: number, bytes: number): void {
    const last = this.#unacked.at(-1);
    if (last === undefined || seq - last.fromSeq >= RUN_EVENTS) {
      this.#unacked.push({ fromSeq: this.#lastSentSeq, seq, bytes });
    } else {
      last.seq = seq;
      last.bytes += bytes;
    }
    this.#lastSentSeq = seq;
    this.#hasSent = true;
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
