// Server-sent events over one exchange. A full socket is respected: `isBlocked` says to stop pulling, `onUnblocked` to
// go on, so what a slow reader has missed stays in the response log and not in a buffer of its own. Comments keep
// proxies from cutting silent streams.
import type { Exchange } from './exchange.ts';

/** Below the shortest idle limit seen in proxies (30 s), and often enough to survive one lost. */
export const PING_MS = 12_000;
/** A reader that takes nothing for this long is cut off. */
export const STALL_MS = 120_000;

const HEADERS: readonly [string, string][] = [
  ['cache-control', 'no-cache, no-transform'],
  ['x-accel-buffering', 'no'],
];

export class EventStream {
  readonly #exchange: Exchange;
  readonly #ping: NodeJS.Timeout;
  #stall: NodeJS.Timeout | null = null;
  #isBlocked = false;
  /** Called when a blocked stream may be written again. */
  onUnblocked: (() => void) | null = null;

  /** Writes the head at once. The stream is over when the exchange is. */
  constructor(exchange: Exchange) {
    this.#exchange = exchange;
    exchange.begin(200, 'text/event-stream; charset=utf-8', HEADERS);
    this.#ping = setInterval(() => {
      if (!this.#isBlocked) this.write(': ping\n\n');
    }, PING_MS);
    exchange.onGone(() => this.#stop());
    exchange.onWritable(() => {
      this.#isBlocked = false;
      if (this.#stall) clearTimeout(this.#stall);
      this.#stall = null;
      this.onUnblocked?.();
    });
  }

  /** The socket is full. Further writes are kept in memory without limit, so there must be none. */
  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  get isOver(): boolean {
    return this.#exchange.isOver;
  }

  /** Writes whole events, each already ending in an empty line. */
  write(events: string): void {
    if (this.#exchange.write(events) || this.isOver) return;
    this.#isBlocked = true;
    this.#stall ??= setTimeout(() => this.#exchange.abort(), STALL_MS);
  }

  /** Ends the stream; what was written is still delivered. */
  end(): void {
    this.#stop();
    this.#exchange.end();
  }

  #stop(): void {
    clearInterval(this.#ping);
    if (this.#stall) clearTimeout(this.#stall);
    this.#stall = null;
  }
}

/** One event with this data. JSON has no raw line ends, so one line is enough. */
export function dataEvent(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}

/** The end mark of OpenAI streams; clients compare it exactly. */
export const DONE_EVENT = 'data: [DONE]\n\n';
