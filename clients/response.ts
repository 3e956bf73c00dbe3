// One answer as the caller sees it: an async iterable of text, typed events, a `finished` promise and `cancel()`.
// watches.ts feeds it through the `ResponseFeed` that the constructor hands out, over as many connections as it takes;
// each event counts once, by its seq, and the answer ends exactly once, in `#settle`.
import type {
  FinishReason,
  LiveState,
  StateDetail,
  Timings,
  TokenLogprob,
  ToolCall,
  Usage,
} from '../protocol/messages.ts';
import type { ResponsePosition } from './errors.ts';
import { Pace } from './pace.ts';
import { sentencesOf } from './response-events.ts';
import type { CancelCause, Finished, ResponseEvent, ResponseState, Sentence } from './response-events.ts';

/** What a response asks of its client. Not public. */
export interface ResponsePort {
  /** Stop it; with `heard`, fulfils when the server has cut its history there. */
  cancel(heard: number | null): Promise<void>;
  /** Events up to `seq` were taken in. */
  processed(seq: number): void;
}

/** What the client tells a response. Not public. */
export interface ResponseFeed {
  sent(): void;
  created(response: string, epoch: string, session: string | null): void;
  /** Its connection is gone. */
  cut(): void;
  resumed(): void;
  state(state: LiveState, detail: StateDetail): void;
  text(
    seq: number,
    text: string,
    offset?: number,
    sentenceEnds?: readonly number[],
    tokens?: readonly TokenLogprob[],
  ): void;
  toolBegin(seq: number, index: number, callId: string, name: string): void;
  toolDelta(seq: number, index: number, text: string): void;
  toolEnd(seq: number, index: number): void;
  done(seq: number, reason: FinishReason, usage: Usage, timings: Timings): void;
  failed(error: Error): void;
  /** A later answer replaces this one, or after all does not. */
  replaced(isReplaced: boolean): void;
  isEnded(): boolean;
  isCancelled(): boolean;
  /** Null until `created`. */
  position(): ResponsePosition | null;
}

const noUsage: Usage = { promptTokens: 0, cachedTokens: 0, completionTokens: 0, droppedMessages: 0 };
const noTimings: Timings = { queuedMs: 0, prefillMs: 0, ttftMs: 0, totalMs: 0 };

/**
 * An answer that is on its way. A lost connection only delays it: it goes on with the next event on the next one.
 *
 *     const response = session.send('Hello');
 *     for await (const text of response) process.stdout.write(text);
 *     const { usage, reason } = await response.finished;
 *
 * Whoever iterates (text, events or sentences) sets the pace: a loop that stops taking pieces lets the server run
 * ahead by its credit (256 events) and then wait. Without a loop, everything that arrives counts as read.
 */
export class ResponseStream implements AsyncIterable<string> {
  /** Fulfils once with the whole answer (also when cancelled); rejects with ServiceError or ConnectionLostError. */
  readonly finished: Promise<Finished>;
  /** Called as each tool call is complete; its arguments are whole JSON then. */
  onToolCall: ((call: ToolCall) => void) | null = null;
  #text = '';
  /** Offset of the first character of `#text` in the answer; above 0 only when watched from its middle. */
  #base = 0;
  #sentenceEnds: number[] = [];
  readonly #tokens: TokenLogprob[] = [];
  #id: string | null = null;
  #session: string | null = null;
  #epoch = '';
  #lastSeq: number;
  #firstTextAtMs: number | null = null;
  readonly #startedAtMs = performance.now();
  readonly #openCalls = new Map<number, ToolCall>();
  readonly #toolCalls: ToolCall[] = [];
  #state: ResponseState;
  readonly #stateListeners = new Set<(state: ResponseState) => void>();
  #isCancelled = false;
  #isReplaced = false;
  #heardUpTo: number | null = null;
  #end: { error: Error | null } | null = null;
  #resolve!: (finished: Finished) => void;
  #reject!: (error: Error) => void;
  readonly #port: ResponsePort;
  readonly #pace: Pace;
  /** Wakes iterators that wait for more. */
  #waiters: (() => void)[] = [];
  readonly #eventQueues = new Set<ResponseEvent[]>();
  #stopListening: (() => void) | null = null;

  /** Made by `session.send`, `client.create` and `client.watch` only. */
  constructor(
    port: ResponsePort,
    attach: (feed: ResponseFeed) => void,
    options: { signal?: AbortSignal; from?: ResponsePosition } = {},
  ) {
    const { signal, from } = options;
    this.#port = port;
    this.#pace = new Pace((seq) => port.processed(seq));
    this.#id = from?.response ?? null;
    this.#epoch = from?.epoch ?? '';
    this.#lastSeq = from?.lastSeq ?? 0;
    this.#state = { state: 'waiting', lastSeq: this.#lastSeq };
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever only iterates gets the error there; it must not count as unhandled here.
    this.finished.catch(() => {});
    attach(this.#feed());
    if (signal?.aborted === true) {
      void this.cancel();
    } else if (signal !== undefined) {
      const abort = (): void => void this.cancel();
      signal.addEventListener('abort', abort, { once: true });
      this.#stopListening = () => signal.removeEventListener('abort', abort);
    }
  }

  /** The server's id of this response; null until it was created there. */
  get id(): string | null {
    return this.#id;
  }

  /** The session it belongs to, or null for a one-off. */
  get session(): string | null {
    return this.#session;
  }

  /** Where it stands: with this another client, or this one tomorrow, can go on with `client.watch`. */
  get position(): ResponsePosition | null {
    return this.#id === null ? null : { response: this.#id, epoch: this.#epoch, lastSeq: this.#lastSeq };
  }

  /** What is happening to it now. */
  get state(): ResponseState {
    return this.#state;
  }

  /** The text so far. */
  get text(): string {
    return this.#text;
  }

  /** The tool calls that are complete so far. */
  get toolCalls(): readonly ToolCall[] {
    return this.#toolCalls;
  }

  /** Events so far, about one per token: good enough for a live speed. */
  get numEvents(): number {
    return this.#lastSeq;
  }

  /** From sending to the first text as seen here, milliseconds; null before. */
  get firstTextMs(): number | null {
    return this.#firstTextAtMs === null ? null : this.#firstTextAtMs - this.#startedAtMs;
  }

  /** Since sending, milliseconds. */
  get elapsedMs(): number {
    return performance.now() - this.#startedAtMs;
  }

  get isEnded(): boolean {
    return this.#end !== null;
  }

  /** The offset given to `cancel`; null when all of the text counts. */
  get heardUpTo(): number | null {
    return this.#heardUpTo;
  }

  /** Calls the listener on every change of `state` from now on; returns a function that ends that. */
  onState(listener: (state: ResponseState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => this.#stateListeners.delete(listener);
  }

  /**
   * Asks the server to stop; without a connection, as soon as there is one. `finished` then fulfils with reason
   * `cancelled` and the text so far. Idempotent; fulfils when the answer has ended.
   *
   * `heardUpTo`: the user took in the text up to this offset only, and the conversation keeps no more of it. Also works
   * after the end, until a later turn runs; fulfils when the server has done it, and rejects with its ServiceError.
   * Throws RangeError for an offset that the text here does not have.
   */
  cancel(options: { heardUpTo?: number } = {}): Promise<void> {
    const heard = options.heardUpTo ?? null;
    const last = this.#base + this.#text.length;
    if (heard !== null && !(Number.isInteger(heard) && heard >= 0 && heard <= last)) {
      throw new RangeError(`heardUpTo must be an offset in the text that is here, 0 to ${last}`);
    }
    if (heard === null && (this.#isCancelled || this.#end !== null)) return this.#whenEnded();
    if (heard !== null) this.#heardUpTo = heard;
    if (this.#end === null) this.#isCancelled = true;
    const answered = this.#port.cancel(heard);
    // Whoever does not wait must not find an unhandled rejection.
    answered.catch(() => {});
    return heard === null ? this.#whenEnded() : answered;
  }

  /**
   * Yields the text from its beginning, whoever iterates and whenever. A slow reader gets larger pieces, not more.
   * Leaving the loop early does not cancel.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    const reader = this.#pace.enter();
    let offset = 0;
    try {
      for (;;) {
        const seq = this.#lastSeq;
        if (offset < this.#text.length) {
          const piece = this.#text.slice(offset);
          offset = this.#text.length;
          yield piece;
        }
        // Whoever asks for the next piece is done with this one.
        this.#pace.read(reader, seq);
        if (offset === this.#text.length && seq === this.#lastSeq && (await this.#hasEnded())) return;
      }
    } finally {
      this.#pace.leave(reader);
    }
  }

  /** Yields every event, from the first. Whoever begins late gets the past merged: its text as one event, then its calls. */
  async *events(): AsyncGenerator<ResponseEvent, void, undefined> {
    const reader = this.#pace.enter();
    const queue = this.#past();
    this.#eventQueues.add(queue);
    try {
      for (;;) {
        const event = queue.shift();
        if (event !== undefined) {
          yield event;
          this.#pace.read(reader, event.seq);
        } else if (await this.#hasEnded()) {
          return;
        }
      }
    } finally {
      this.#eventQueues.delete(queue);
      this.#pace.leave(reader);
    }
  }

  /** Yields the text in sentences, each as soon as its end is certain. Needs option `sentences`. */
  sentences(): AsyncGenerator<Sentence, void, undefined> {
    return sentencesOf(this.events());
  }

  /** Waits for the next event; true when there will be none. Throws the answer's error. */
  async #hasEnded(): Promise<boolean> {
    if (this.#end === null) await new Promise<void>((wake) => this.#waiters.push(wake));
    else if (this.#end.error !== null) throw this.#end.error;
    else return true;
    return false;
  }

  #whenEnded(): Promise<void> {
    return this.finished.then(
      () => {},
      () => {},
    );
  }

  #past(): ResponseEvent[] {
    const seq = this.#lastSeq;
    const past: ResponseEvent[] = [];
    if (this.#text !== '') {
      const place = { offset: this.#base, sentenceEnds: this.#sentenceEnds.slice() };
      past.push({ type: 'text', seq, text: this.#text, ...place, ...withTokens(this.#tokens.slice()) });
    }
    for (const [index, call] of this.#toolCalls.entries()) {
      past.push({ type: 'toolBegin', seq, index, id: call.id, name: call.name });
      past.push({ type: 'toolDelta', seq, index, text: call.arguments });
      past.push({ type: 'toolEnd', seq, index, call });
    }
    for (const [index, call] of this.#openCalls) {
      past.push({ type: 'toolBegin', seq, index, id: call.id, name: call.name });
      past.push({ type: 'toolDelta', seq, index, text: call.arguments });
    }
    return past;
  }

  #feed(): ResponseFeed {
    return {
      isEnded: () => this.#end !== null,
      isCancelled: () => this.#isCancelled,
      position: () => this.position,
      sent: () => this.#enter({ state: 'sent' }),
      created: (id, epoch, session) => {
        this.#name(id, epoch, session);
        this.#enter({ state: 'created' });
      },
      cut: () => this.#enter({ state: 'waiting', lastSeq: this.#lastSeq }),
      resumed: () => this.#enter({ state: 'resumed', lastSeq: this.#lastSeq }),
      state: (state, detail) => this.#enter({ ...detail, state }),
      replaced: (isReplaced) => {
        this.#isReplaced = isReplaced;
      },
      text: (seq, text, offset, sentenceEnds = [], tokens = []) => {
        if (!this.#isNew(seq)) return;
        if (this.#text === '' && offset !== undefined) this.#base = offset;
        const place = { offset: this.#base + this.#text.length, sentenceEnds, ...withTokens(tokens) };
        const event = { type: 'text' as const, seq, text, ...place };
        if (text !== '') this.#firstTextAtMs ??= performance.now();
        this.#text += text;
        this.#sentenceEnds.push(...sentenceEnds);
        this.#tokens.push(...tokens);
        this.#arrived(event);
      },
      toolBegin: (seq, index, id, name) => {
        if (!this.#isNew(seq)) return;
        this.#openCalls.set(index, { id, name, arguments: '' });
        this.#arrived({ type: 'toolBegin', seq, index, id, name });
      },
      toolDelta: (seq, index, text) => {
        if (!this.#isNew(seq)) return;
        const call = this.#openCalls.get(index);
        if (call !== undefined) call.arguments += text;
        this.#arrived({ type: 'toolDelta', seq, index, text });
      },
      toolEnd: (seq, index) => {
        if (!this.#isNew(seq)) return;
        const call = this.#openCalls.get(index);
        this.#openCalls.delete(index);
        if (call === undefined) return;
        this.#toolCalls.push(call);
        this.#arrived({ type: 'toolEnd', seq, index, call });
        // Later and alone, so that a listener that throws harms no other response of this frame.
        queueMicrotask(() => this.onToolCall?.(call));
      },
      done: (seq, reason, usage, timings) => {
        this.#lastSeq = Math.max(this.#lastSeq, seq);
        this.#settle(null, { reason, usage, timings });
      },
      failed: (error) => {
        // Cancelled or replaced before the server knew of it: nothing was computed and nothing failed.
        const wasNeverThere = (this.#isCancelled || this.#isReplaced) && this.#id === null;
        if (wasNeverThere) this.#settle(null, { reason: 'cancelled', usage: noUsage, timings: noTimings });
        else this.#settle(error, null);
      },
    };
  }

  #name(id: string, epoch: string, session: string | null): void {
    this.#id = id;
    this.#epoch = epoch;
    this.#session = session;
  }

  /** Events may arrive twice (a create repeated on another connection), never out of order. */
  #isNew(seq: number): boolean {
    if (this.#end !== null || seq <= this.#lastSeq) return false;
    this.#lastSeq = seq;
    return true;
  }

  #arrived(event: ResponseEvent): void {
    for (const queue of this.#eventQueues) queue.push(event);
    this.#pace.arrived(event.seq);
    this.#wake();
  }

  #settle(error: Error | null, result: Pick<Finished, 'reason' | 'usage' | 'timings'> | null): void {
    if (this.#end !== null) return;
    this.#end = { error };
    this.#stopListening?.();
    if (error !== null) {
      this.#reject(error);
    } else if (result !== null) {
      const cause: CancelCause = this.#isReplaced ? 'supersede' : this.#isCancelled ? 'caller' : 'server';
      const cancelledBy = result.reason === 'cancelled' ? cause : null;
      this.#resolve({ text: this.#text, ...result, cancelledBy, toolCalls: this.#toolCalls.slice() });
    }
    this.#wake();
    this.#enter({ state: 'ended', reason: result?.reason ?? 'error' });
  }

  #enter(state: ResponseState): void {
    if (this.#state.state === 'ended') return;
    this.#state = state;
    for (const listener of this.#stateListeners) listener(state);
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}

/** Absent where log-probabilities were not asked for. */
function withTokens(tokens: readonly TokenLogprob[]): { tokens?: readonly TokenLogprob[] } {
  return tokens.length === 0 ? {} : { tokens };
}
