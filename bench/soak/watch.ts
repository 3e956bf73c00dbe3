// The server's memory and inventory during a soak, read from /metrics every second and summed up per minute; at the end,
// how fast memory grew after warm-up, and what is still held when nobody asks for anything any more.
import { setTimeout as sleep } from 'node:timers/promises';
import { Metrics } from '../server-process.ts';
import { request } from './request.ts';

export interface Minute {
  /** Ended responses. */
  ended: number;
  /** Smallest of the minute, MiB: what garbage collection leaves. `private` leaves mapped files and KV memory out. */
  private: number;
  heap: number;
  external: number;
  /** Logs of ended responses at the end of the minute. */
  retained: number;
  sessions: number;
  timers: number;
}

const SAMPLE_MS = 1000;
/** Ended responses are kept for ten minutes: before that, more of them is no leak. */
const WARM_UP_MINUTES = 12;
const MIB = 2 ** 20;
/** What must be back at zero, and for how long before it counts: gauges of the engine are 100 ms old at most. */
const INVENTORY = ['requests_running', 'requests_waiting', 'responses_live', 'sessions', 'connections'] as const;
const QUIET_SAMPLES = 3;

export class Watch {
  readonly minutes: Minute[] = [];
  readonly #url: string;
  readonly #minuteMs: number;
  readonly #onMinute: (minute: Minute, index: number) => void;
  #isOver = false;
  readonly #done: Promise<void>;

  /** `minuteMs`: length of what is called a minute. */
  constructor(url: string, minuteMs: number, onMinute: (minute: Minute, index: number) => void) {
    this.#url = url;
    this.#minuteMs = minuteMs;
    this.#onMinute = onMinute;
    this.#done = this.#run();
    // Told by `stop`.
    this.#done.catch(() => undefined);
  }

  /** Rejects when the server could not be asked. */
  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#done;
  }

  /** Growth per minute after warm-up, by least squares, MiB. NaN with fewer than three minutes left. */
  slope(name: 'private' | 'heap' | 'external'): number {
    const warm = Math.max(WARM_UP_MINUTES, Math.ceil(this.minutes.length / 3));
    const values = this.minutes.slice(warm).map((minute) => minute[name]);
    if (values.length < 3) return NaN;
    const middle = (values.length - 1) / 2;
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    let across = 0;
    let along = 0;
    for (const [i, value] of values.entries()) {
      across += (i - middle) * (value - mean);
      along += (i - middle) ** 2;
    }
    return across / along;
  }

  async #run(): Promise<void> {
    let endedBefore = 0;
    while (!this.#isOver) {
      const until = performance.now() + this.#minuteMs;
      const minute: Minute = {
        ended: 0,
        private: Infinity,
        heap: Infinity,
        external: Infinity,
        retained: 0,
        sessions: 0,
        timers: 0,
      };
      while (!this.#isOver && performance.now() < until) {
        const metrics = await readMetrics(this.#url);
        const own = metrics.value('process_private_memory_bytes') - metrics.value('kv_reserved_bytes');
        minute.private = Math.min(minute.private, own / MIB);
        minute.heap = Math.min(minute.heap, metrics.value('process_heap_used_bytes') / MIB);
        minute.external = Math.min(minute.external, metrics.value('process_external_bytes') / MIB);
        minute.retained = metrics.value('retained_bytes') / MIB;
        minute.sessions = metrics.value('sessions');
        minute.timers = metrics.value('timers');
        minute.ended = metrics.value('responses_total') - endedBefore;
        await sleep(Math.min(SAMPLE_MS, this.#minuteMs / 4));
      }
      // A piece of a minute says nothing.
      if (performance.now() < until) return;
      endedBefore += minute.ended;
      this.minutes.push(minute);
      this.#onMinute(minute, this.minutes.length);
    }
  }
}

/** Waits until nothing is held any more. Returns what still is after `timeoutMs`, by name. */
export async function leftovers(url: string, timeoutMs: number): Promise<Map<string, number>> {
  const untilMs = performance.now() + timeoutMs;
  for (let quiet = 0; ;) {
    const metrics = await readMetrics(url);
    const held = new Map<string, number>();
    for (const name of INVENTORY) {
      // The request for the metrics is one connection itself, and others may be kept alive for reuse.
      const value = metrics.value(name, name === 'connections' ? 'kind="websocket"' : '');
      if (value > 0) held.set(name, value);
    }
    quiet = held.size === 0 ? quiet + 1 : 0;
    if (quiet === QUIET_SAMPLES || performance.now() > untilMs) return held;
    await sleep(SAMPLE_MS / 4);
  }
}

export async function readMetrics(url: string): Promise<Metrics> {
  return new Metrics((await request(`${url}/metrics`)).text);
}
