// Streams that go on while something else happens, and what they feel of it: used by burst and beside.
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeLink } from './native-link.ts';
import { ask, gapsWithin, type Stream } from './watched-stream.ts';

const SETTLE_MS = 300;

/** Streams that begin again when they end, until `stop`. */
export class RunningStreams {
  readonly streams: Stream[] = [];
  readonly #first: Promise<unknown>;
  #isStopped = false;

  /** On the lane LANE, which the caller has opened. */
  constructor(link: NativeLink, count: number, prompt: () => string) {
    const begun = Array.from({ length: count }, () => this.#begin(link, prompt()));
    this.#first = Promise.all(begun.map((stream) => stream.first));
    for (const stream of begun) void this.#goOn(stream, link, prompt);
  }

  async #goOn(stream: Stream, link: NativeLink, prompt: () => string): Promise<void> {
    for (let current = stream; !this.#isStopped;) {
      // The next prompt is made now: making it takes time of this thread.
      const next = prompt();
      await current.done;
      if (!this.#isStopped) current = this.#begin(link, next);
    }
  }

  #begin(link: NativeLink, content: string): Stream {
    const stream = ask(link, content, 2000);
    this.streams.push(stream);
    return stream;
  }

  /** All of them decode. */
  async begun(): Promise<void> {
    await this.#first;
    await sleep(SETTLE_MS);
  }

  gaps(fromMs: number, toMs: number): number[] {
    return gapsWithin(this.streams, fromMs, toMs);
  }

  /** Pieces of text that arrived in the window. */
  arrivals(fromMs: number, toMs: number): number {
    return this.streams.flatMap(({ arrivals }) => arrivals.filter((atMs) => atMs >= fromMs && atMs <= toMs)).length;
  }

  stop(): void {
    this.#isStopped = true;
  }
}
