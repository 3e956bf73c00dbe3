// Writes one response's log to one HTTP client as server-sent events, whatever the dialect: the dialect renders entries,
// this file decides when. The first event leaves at once; later ones of a busy server are collected for a short window,
// which gives the engines back the time of needless wake-ups. A full socket stops the pulling, never the log.
import { FLUSH_WINDOW_MS } from '../../protocol/constants.ts';
import type { ServiceError } from '../../protocol/errors.ts';
import type { LogEntry } from '../responses/response-log.ts';
import type { Response, Subscriber } from '../responses/response.ts';
import type { Exchange } from './exchange.ts';
import { EventStream } from './sse.ts';

/**
 * The head of the answer waits this long for the first event, so that a request that fails at once (prompt too long,
 * queue full) gets its HTTP status. Longer would let proxies take the silence for a dead server.
 */
export const HEAD_WAIT_MS = 5000;
/** Events per write; more are written by the next one if the socket still takes them. */
const EVENTS_PER_WRITE = 512;

export interface LogWriterOptions {
  exchange: Exchange;
  response: Response;
  /** Events of the dialect that come before the first of the log. */
  opening: string;
  /** Text of one entry as complete server-sent events; also of the end, with whatever the dialect sends last. */
  render(entry: LogEntry): string;
  /** Others are being served: small events may be collected. */
  isBusy(): boolean;
  /** Called after each write that carried new events. */
  onWritten(): void;
}

/** Callbacks that run together at the end of the current window. */
class FlushWindow {
  readonly #late = new Set<() => void>();
  #timer: NodeJS.Timeout | null = null;

  add(callback: () => void): void {
    this.#late.add(callback);
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const late = [...this.#late];
      this.#late.clear();
      for (const flush of late) flush();
    }, FLUSH_WINDOW_MS);
  }
}

const flushWindow = new FlushWindow();

/** Lives from admission until the log's end was written or the client left; then it has unsubscribed itself. */
export class LogWriter implements Subscriber {
  readonly #options: LogWriterOptions;
  readonly #headTimer: NodeJS.Timeout;
  readonly #flush = (): void => this.#pump();
  #stream: EventStream | null = null;
  #seq = 0;
  #lastWriteAt = -Infinity;
  #isDone = false;

  constructor(options: LogWriterOptions) {
    this.#options = options;
    this.#headTimer = setTimeout(() => this.#open(), HEAD_WAIT_MS);
    options.response.subscribe(this);
    options.exchange.onGone(() => {
      this.#finish();
      cancelIfUnwatched(options.response);
    });
  }

  notify(): void {
    if (this.#isDone) return;
    const { response, isBusy } = this.#options;
    const mayWait = this.#seq > 0 && !response.isEnded && (response.class === 'chat' || response.class === 'batch');
    if (mayWait && isBusy() && performance.now() - this.#lastWriteAt < FLUSH_WINDOW_MS) flushWindow.add(this.#flush);
    else this.#pump();
  }

  #pump(): void {
    if (this.#isDone) return;
    const { log } = this.#options.response;
    if (!this.#stream) {
      const error = this.#failedAtOnce();
      if (error) {
        this.#finish();
        this.#options.exchange.sendError(error);
        return;
      }
      if (!this.#open()) return;
    }
    const stream = this.#stream!;
    while (this.#seq < log.head && !stream.isBlocked && !stream.isOver) {
      const entries = log.read(this.#seq, EVENTS_PER_WRITE);
      const last = entries.at(-1)!;
      this.#seq = last.seq;
      stream.write(entries.map((entry) => this.#options.render(entry)).join(''));
      this.#options.onWritten();
      if (last.event.kind === 'end') {
        this.#finish();
        stream.end();
        return;
      }
    }
    this.#lastWriteAt = performance.now();
  }

  /** False when nobody is there any more. */
  #open(): boolean {
    clearTimeout(this.#headTimer);
    if (this.#stream) return true;
    if (this.#options.exchange.isOver) return false;
    this.#stream = new EventStream(this.#options.exchange);
    this.#stream.onUnblocked = this.#flush;
    if (this.#options.opening !== '') this.#stream.write(this.#options.opening);
    return true;
  }

  /** The error of a response that ended without a single other event. */
  #failedAtOnce(): ServiceError | null {
    const { state, log } = this.#options.response;
    return state.kind === 'ended' && log.head === 1 ? state.end.error : null;
  }

  #finish(): void {
    this.#isDone = true;
    clearTimeout(this.#headTimer);
    this.#options.response.unsubscribe(this);
  }
}

/** An answer over HTTP ends when its last reader leaves. Call after unsubscribing. */
export function cancelIfUnwatched(response: Response): void {
  if (response.numSubscribers === 0) response.cancel();
}
