// The record of one response: append-only, complete, in order. Every dialect is a rendering of it, so what a client
// sees live and what it reads again later cannot differ. It holds the text once and one end offset per event;
// its owner (response.ts) appends, everybody else only reads. Bounded by the response's token limit.
import { randomBytes } from 'node:crypto';
import type { FinishReason, Timings, TokenLogprob, Usage } from '../../protocol/messages.ts';
import type { ServiceError } from '../../protocol/errors.ts';

export interface EndEvent {
  kind: 'end';
  reason: FinishReason;
  usage: Usage;
  timings: Timings;
  error: ServiceError | null;
}

export type LogEvent =
  /** `logprobs`: tokens of this text, where the response has them; all of them joined are all of the text. */
  | { kind: 'text'; text: string; logprobs?: TokenLogprob[] }
  | { kind: 'toolBegin'; index: number; callId: string; name: string }
  | { kind: 'toolDelta'; index: number; text: string }
  | { kind: 'toolEnd'; index: number }
  | EndEvent;

/** One rendered event. For merged text, `seq` is the last event it covers. */
export interface LogEntry {
  seq: number;
  event: LogEvent;
}

/** Pieces are folded into one string this often: live readers then never flatten the whole text. */
const FOLD_EVENTS = 512;
/** Estimated overhead of an event that is not text. */
const EVENT_BYTES = 96;
/** Estimated memory of a token's log-probability. */
const LOGPROB_BYTES = 160;

export class ResponseLog {
  /** 64 random bits as 16 hex characters: tells this log from one of an earlier process. */
  readonly epoch = randomBytes(8).toString('hex');
  /** Text of the events up to `#foldedSeq`; the pieces of later events follow one by one. */
  #folded = '';
  #foldedSeq = 0;
  #pieces: string[] = [];
  /** ends[seq - 1] is the length of the text up to and including event seq. */
  #ends: number[] | Uint32Array = [];
  /** Events other than text, by seq. */
  readonly #others = new Map<number, Exclude<LogEvent, { kind: 'text' }>>();
  /** By seq of the text event; empty unless log-probabilities were asked for. */
  readonly #logprobs = new Map<number, TokenLogprob[]>();
  #otherBytes = 0;

  /** Sequence number of the last event; 0 when there is none. */
  get head(): number {
    return this.#ends.length;
  }

  /** Characters (UTF-16 units) of text so far. */
  get textLength(): number {
    return this.#ends.at(-1) ?? 0;
  }

  /** Where the text of the events up to `seq` ends, in UTF-16 units. */
  textEnd(seq: number): number {
    return seq <= 0 ? 0 : (this.#ends[Math.min(seq, this.head) - 1] ?? 0);
  }

  /** All text so far. */
  get text(): string {
    this.#fold();
    return this.#folded;
  }

  /** Estimated memory, for the retention budget. */
  get bytes(): number {
    return this.textLength * 2 + this.#ends.length * 8 + this.#otherBytes;
  }

  /** Appends one event and returns its seq. Only response.ts calls this. */
  append(event: LogEvent): number {
    const text = event.kind === 'text' ? event.text : '';
    if (!Array.isArray(this.#ends)) throw new Error('The log has ended');
    this.#ends.push(this.textLength + text.length);
    this.#pieces.push(text);
    if (event.kind === 'text' && event.logprobs !== undefined) {
      this.#logprobs.set(this.head, event.logprobs);
      this.#otherBytes += event.logprobs.reduce((sum, [, , , top]) => sum + (1 + top.length) * LOGPROB_BYTES, 0);
    }
    if (event.kind !== 'text') {
      this.#others.set(this.head, event);
      this.#otherBytes += EVENT_BYTES + (event.kind === 'toolDelta' ? event.text.length * 2 : 0);
    }
    if (event.kind === 'end') this.#seal();
    else if (this.#pieces.length >= FOLD_EVENTS) this.#fold();
    return this.head;
  }

  /** Text of the events after `fromSeq` up to and including `toSeq`. */
  textBetween(fromSeq: number, toSeq: number): string {
    const to = Math.min(toSeq, this.head);
    if (fromSeq >= to) return '';
    if (fromSeq < this.#foldedSeq) {
      const start = fromSeq <= 0 ? 0 : this.#ends[fromSeq - 1]!;
      const folded = this.#folded.slice(start, this.#ends[Math.min(to, this.#foldedSeq) - 1]!);
      return to <= this.#foldedSeq ? folded : folded + this.textBetween(this.#foldedSeq, to);
    }
    if (to - fromSeq === 1) return this.#pieces[fromSeq - this.#foldedSeq]!;
    return this.#pieces.slice(fromSeq - this.#foldedSeq, to - this.#foldedSeq).join('');
  }

  /** Log-probabilities of the tokens of the events after `fromSeq` up to and including `toSeq`. */
  logprobsBetween(fromSeq: number, toSeq: number): TokenLogprob[] {
    const tokens: TokenLogprob[] = [];
    if (this.#logprobs.size === 0) return tokens;
    for (let seq = fromSeq + 1; seq <= toSeq; seq++) tokens.push(...(this.#logprobs.get(seq) ?? []));
    return tokens;
  }

  /**
   * Events after `afterSeq`, covering at most `limit` sequence numbers. Consecutive text events come as one;
   * tool and end events are never merged.
   */
  read(afterSeq: number, limit = Infinity): LogEntry[] {
    const last = Math.min(this.head, afterSeq + limit);
    const entries: LogEntry[] = [];
    let textFrom = afterSeq;
    const flushText = (to: number): void => {
      if (to <= textFrom) return;
      const event: LogEvent = { kind: 'text', text: this.textBetween(textFrom, to) };
      if (this.#logprobs.size > 0) event.logprobs = this.logprobsBetween(textFrom, to);
      entries.push({ seq: to, event });
    };
    if (this.#others.size > 0) {
      for (let seq = afterSeq + 1; seq <= last; seq++) {
        const event = this.#others.get(seq);
        if (event === undefined) continue;
        flushText(seq - 1);
        entries.push({ seq, event });
        textFrom = seq;
      }
    }
    flushText(last);
    return entries;
  }

  /** Nothing more comes: a retained log is one string and one array, less than half of a live one. */
  #seal(): void {
    this.#fold();
    this.#ends = Uint32Array.from(this.#ends);
  }

  #fold(): void {
    if (this.#pieces.length === 0) return;
    this.#folded += this.#pieces.join('');
    this.#foldedSeq = this.head;
    this.#pieces = [];
  }
}
