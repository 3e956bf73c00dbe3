// Writes the logs of a request's responses (one, or one per choice) to one HTTP client as server-sent events, whatever
// the dialect: the dialect renders events, this file decides when. The first event leaves at once; later ones of a busy server are collected for a short window,
// which gives the engines back the time of needless wake-ups. A full socket stops the pulling, never the log; how far
// the reader is behind decides with that of the others whether the response parks.
import { FLUSH_WINDOW_MS } from '../../protocol/constants.ts';
import { isUrgent } from '../../protocol/messages.ts';
import type { ServiceError } from '../../protocol/errors.ts';
import type { Response } from '../responses/response.ts';
import type { Subscriber } from '../responses/subscribers.ts';
import type { Exchange } from './exchange.ts';
import { EventStream } from './sse.ts';

/**
 * The head of the answer waits this long for the first event, so that a request that fails at once (prompt too long,
 * queue full) gets its HTTP status. Longer would let proxies take the silence for a dead server.
 */
export const HEAD_WAIT_MS = 5000;
/** Events of the log per write; more are written by the next one if the socket still takes them. */
const EVENTS_PER_WRITE = 512;

/** A dialect's view of one log for one reader. It keeps its own place. */
export interface StreamRenderer {
  /** The last event of the log it has rendered. */
  readonly seq: number;
  /** The end was rendered; nothing follows. */
  readonly isDone: boolean;
  /**
   * What comes next as complete server-sent events, up to `limit` events of the log; '' when nothing is ready. The
   * first call may begin with events that the log does not have; later calls may tell of a changed state alone.
   */
  next(limit: number): string;
}

/** A response and how this client sees it. */
export interface Track {
  response: Response;
  renderer: StreamRenderer;
}

export interface LogWriterOptions {
  exchange: Exchange;
  /** At least one; all are written as their events come. */
  tracks: readonly Track[];
  /** What ends the stream when all tracks are done; '' for nothing. */
  ending?(): string;
  /** How long the head waits for the first event of the log, in milliseconds. */
  headWaitMs: number;
  /** When all fail before their first event, and before the head was written, the answer is the failure's status. */
  failsWithStatus: boolean;
  /** Others are being served: small events may be collected. */
  isBusy(): boolean;
  /** Called after each write that carried new events. */
  onWritten(response: Response): void;
}

/** Callbacks that run together, when the first of them must. */
class FlushWindow {
  readonly #late = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;
  #dueMs = Infinity;

  /** `dueMs`: when this callback must run at the latest, by `performance.now()`. */
  add(callback: () => void, dueMs: number): void {
    this.#late.add(callback);
    if (dueMs >= this.#dueMs) return;
    clearTimeout(this.#timer);
    this.#dueMs = dueMs;
    this.#timer = setTimeout(() => {
      this.#dueMs = Infinity;
      const late = [...this.#late];
      this.#late.clear();
      for (const flush of late) flush();
    }, dueMs - performance.now());
  }
}

const flushWindow = new FlushWindow();

/** Lives from admission until the log's end was written or the client left; then it has unsubscribed itself. */
export class LogWriter implements Subscriber {
  readonly #options: LogWriterOptions;
  readonly #headTimer: NodeJS.Timeout | undefined;
  readonly #flush = (): void => this.#pump();
  #stream: EventStream | null = null;
  #lastWriteAt = -Infinity;
  #isDone = false;

  constructor(options: LogWriterOptions) {
    this.#options = options;
    const { tracks, exchange, headWaitMs } = options;
    for (const { response } of tracks) response.subscribe(this);
    exchange.onGone(() => this.#finish());
    if (headWaitMs > 0) this.#headTimer = setTimeout(() => this.#openAndPump(), headWaitMs);
    else this.#openAndPump();
  }

  notify(response: Response): void {
    if (this.#isDone) return;
    const { isBusy } = this.#options;
    const mayWait = this.#seqOf(response) > 0 && !response.isEnded && !isUrgent(response.class);
    const dueMs = this.#lastWriteAt + FLUSH_WINDOW_MS;
    if (mayWait && isBusy() && performance.now() < dueMs) flushWindow.add(this.#flush, dueMs);
    else this.#pump();
  }

  /** Only a full socket counts: what waits for its window is no sign of a slow reader. */
  behindBy(response: Response): number {
    return this.#stream?.isBlocked ? response.log.head - this.#seqOf(response) : 0;
  }

  #seqOf(response: Response): number {
    return this.#options.tracks.find((track) => track.response === response)!.renderer.seq;
  }

  #pump(): void {
    if (this.#isDone) return;
    if (!this.#stream) {
      const { tracks, failsWithStatus, exchange } = this.#options;
      const failures = tracks.map(({ response }) => (failsWithStatus ? failedAtOnce(response) : null));
      if (failures.every((error) => error !== null)) {
        this.#finish();
        exchange.sendError(failures[0]);
        return;
      }
      // A change of state alone is no reason to give up the status of a failure.
      if (tracks.every(({ response }, index) => response.log.head === 0 || failures[index] !== null)) return;
      this.#open();
    }
    this.#write();
  }

  #openAndPump(): void {
    if (this.#isDone) return;
    this.#open();
    this.#write();
  }

  #open(): void {
    clearTimeout(this.#headTimer);
    this.#stream = new EventStream(this.#options.exchange);
    this.#stream.onUnblocked = () => {
      this.#pump();
      if (this.#isDone) return;
      for (const { response } of this.#options.tracks) response.reviewParking();
    };
  }

  #write(): void {
    const { tracks, ending } = this.#options;
    const stream = this.#stream!;
    while (!stream.isBlocked && !stream.isOver) {
      let events = '';
      const advanced: Response[] = [];
      for (const { response, renderer } of tracks) {
        if (renderer.isDone) continue;
        const { seq } = renderer;
        events += renderer.next(EVENTS_PER_WRITE);
        if (renderer.seq > seq) advanced.push(response);
      }
      const isOver = tracks.every(({ renderer }) => renderer.isDone);
      if (isOver) events += ending?.() ?? '';
      if (events !== '') stream.write(events);
      for (const response of advanced) this.#options.onWritten(response);
      if (isOver) {
        this.#finish();
        stream.end();
        return;
      }
      if (advanced.length === 0) break;
    }
    this.#lastWriteAt = performance.now();
  }

  #finish(): void {
    this.#isDone = true;
    clearTimeout(this.#headTimer);
    for (const { response } of this.#options.tracks) response.unsubscribe(this);
  }
}

/** The error of a response that ended without a single other event. */
function failedAtOnce({ state, log }: Response): ServiceError | null {
  return state.kind === 'ended' && log.head === 1 ? state.end.error : null;
}
