// One answer as the caller sees it: an async iterable of text, a `finished` promise and `cancel()`. client.ts feeds
// it through the `ResponseFeed` that the constructor hands out; it ends exactly once, in `#settle`.
import type { FinishReason, Timings, ToolCall, Usage } from '../protocol/messages.ts';
import type { ResponsePosition } from './errors.ts';

export interface Finished {
  /** The whole text. */
  text: string;
  /** `error` never appears here: it rejects. */
  reason: FinishReason;
  usage: Usage;
  /** Measured on the server, milliseconds. */
  timings: Timings;
  toolCalls: ToolCall[];
}

/** What the client tells a response. Not public. */
export interface ResponseFeed {
  created(handle: number, response: string, epoch: string, session: string | null): void;
  /** Returns false for an event that had already arrived. */
  text(seq: number, text: string): boolean;
  toolBegin(seq: number, index: number, callId: string, name: string): boolean;
  toolDelta(seq: number, index: number, text: string): boolean;
  toolEnd(seq: number, index: number): boolean;
  done(seq: number, reason: FinishReason, usage: Usage, timings: Timings): void;
  failed(error: Error): void;
  isEnded(): boolean;
  /** Null until `created`. */
  position(): ResponsePosition | null;
}

const noUsage: Usage = { promptTokens: 0, cachedTokens: 0, completionTokens: 0, droppedMessages: 0 };
const noTimings: Timings = { queuedMs: 0, prefillMs: 0, ttftMs: 0, totalMs: 0 };

/**
 * An answer that is on its way.
 *
 *     const response = session.send('Hello');
 *     for await (const text of response) process.stdout.write(text);
 *     const { usage, reason } = await response.finished;
 */
export class ResponseStream implements AsyncIterable<string> {
  /** Fulfils once with the whole answer (also when cancelled); rejects with ServiceError or ConnectionLostError. */
  readonly finished: Promise<Finished>;
  /** Called as each tool call is complete; its arguments are whole JSON then. */
  onToolCall: ((call: ToolCall) => void) | null = null;
  #text = '';
  #id: string | null = null;
  #session: string | null = null;
  #epoch = '';
  #handle: number | null = null;
  #lastSeq = 0;
  #firstTextAtMs: number | null = null;
  readonly #startedAtMs = performance.now();
  readonly #openCalls = new Map<number, ToolCall>();
  readonly #toolCalls: ToolCall[] = [];
  #isCancelled = false;
  #end: { error: Error | null } | null = null;
  #resolve!: (finished: Finished) => void;
  #reject!: (error: Error) => void;
  /** Wakes iterators that wait for more text. */
  #waiters: (() => void)[] = [];
  readonly #sendCancel: (handle: number | null) => void;
  #stopListening: (() => void) | null = null;

  /** Made by `session.send` and `client.create` only. sendCancel gets null while the server has not named a handle. */
  constructor(sendCancel: (handle: number | null) => void, attach: (feed: ResponseFeed) => void, signal?: AbortSignal) {
    this.#sendCancel = sendCancel;
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever only iterates gets the error there; it must not count as unhandled here.
    this.finished.catch(() => {});
    attach(this.#feed());
    if (signal?.aborted === true) {
      this.cancel();
    } else if (signal !== undefined) {
      const abort = (): void => this.cancel();
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

  /** Asks the server to stop. Idempotent; `finished` then fulfils with reason `cancelled` and the text so far. */
  cancel(): void {
    if (this.#isCancelled || this.#end !== null) return;
    this.#isCancelled = true;
    this.#sendCancel(this.#handle);
  }

  /**
   * Yields the text from its beginning, whoever iterates and whenever. A slow reader gets larger pieces, not more.
   * Leaving the loop early does not cancel.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    let offset = 0;
    for (;;) {
      if (offset < this.#text.length) {
        const piece = this.#text.slice(offset);
        offset = this.#text.length;
        yield piece;
      } else if (this.#end !== null) {
        if (this.#end.error !== null) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((wake) => this.#waiters.push(wake));
      }
    }
  }

  #feed(): ResponseFeed {
    /** Events may arrive twice (a later resume), never out of order. */
    const isNew = (seq: number): boolean => {
      if (this.#end !== null || seq <= this.#lastSeq) return false;
      this.#lastSeq = seq;
      return true;
    };
    return {
      isEnded: () => this.#end !== null,
      position: () => (this.#id === null ? null : { response: this.#id, epoch: this.#epoch, lastSeq: this.#lastSeq }),
      created: (handle, id, epoch, session) => {
        this.#handle = handle;
        this.#id = id;
        this.#epoch = epoch;
        this.#session = session;
        // Ended here already: the connection was lost, and this is what still runs of it on the server.
        if (this.#isCancelled || this.#end !== null) this.#sendCancel(handle);
      },
      text: (seq, text) => {
        if (!isNew(seq)) return false;
        this.#append(text);
        return true;
      },
      toolBegin: (seq, index, callId, name) => {
        if (!isNew(seq)) return false;
        this.#openCalls.set(index, { id: callId, name, arguments: '' });
        return true;
      },
      toolDelta: (seq, index, text) => {
        if (!isNew(seq)) return false;
        const call = this.#openCalls.get(index);
        if (call !== undefined) call.arguments += text;
        return true;
      },
      toolEnd: (seq, index) => {
        if (!isNew(seq)) return false;
        const call = this.#openCalls.get(index);
        this.#openCalls.delete(index);
        if (call === undefined) return true;
        this.#toolCalls.push(call);
        // Later and alone, so that a listener that throws harms no other response of this frame.
        queueMicrotask(() => this.onToolCall?.(call));
        return true;
      },
      done: (seq, reason, usage, timings) => {
        this.#lastSeq = Math.max(this.#lastSeq, seq);
        this.#settle(null, { reason, usage, timings });
      },
      failed: (error) => {
        // Cancelled before the server knew of it: nothing was computed and nothing failed.
        if (this.#isCancelled && this.#id === null) {
          this.#settle(null, { reason: 'cancelled', usage: noUsage, timings: noTimings });
        } else {
          this.#settle(error, null);
        }
      },
    };
  }

  #append(text: string): void {
    if (text === '') return;
    this.#firstTextAtMs ??= performance.now();
    this.#text += text;
    this.#wake();
  }

  #settle(error: Error | null, result: Pick<Finished, 'reason' | 'usage' | 'timings'> | null): void {
    if (this.#end !== null) return;
    this.#end = { error };
    this.#stopListening?.();
    if (error !== null) this.#reject(error);
    else if (result !== null) this.#resolve({ text: this.#text, ...result, toolCalls: this.#toolCalls.slice() });
    this.#wake();
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}
