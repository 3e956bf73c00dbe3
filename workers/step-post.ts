// Posts a worker's steps to the main thread, numbered among those of all workers. Where the engine threads take every
// core, the main thread gets one only at their cost: so steps whose text may be collected are posted together every few
// milliseconds, and a step with text for voice or ide is handed over, its worker waiting until it was delivered.
// The engine is the only caller; nothing may come between taking a number and posting.
import type { MessagePort } from 'node:worker_threads';
import { Haste } from './messages/events.ts';
import { Order } from './messages/shared.ts';
import type { FromWorker, Step } from './messages/events.ts';
import type { EngineShared } from './messages/shared.ts';

/** Longest wait for one step to be delivered; a main thread that is busier than that must not stop the engine. */
const HANDOVER_MS = 1;
/** A step waits so long for later ones, at most. */
export const COLLECT_MS = 12;
/** Nor does it wait for one that would end so long after the last message with tokens: two long steps are a gap. */
export const MAX_SILENCE_MS = 18;

export class StepPost {
  readonly #port: MessagePort;
  readonly #order: Int32Array;
  readonly #busy: Int32Array;
  readonly #cores: number;
  /** Not posted yet. */
  #held: Step[] = [];
  #heldSinceMs = 0;
  /** When the rows' tokens were last posted; a first token says nothing to the others. */
  #toldAtMs = -Infinity;

  constructor(port: MessagePort, shared: EngineShared, cores: number) {
    this.#port = port;
    this.#order = new Int32Array(shared.order);
    this.#busy = new Int32Array(shared.busy);
    this.#cores = cores;
  }

  /** After a step that may wait, call again when the next one is done, or `flush`. */
  post(step: Step, haste: Haste): void {
    const now = performance.now();
    if (this.#held.length === 0) this.#heldSinceMs = now;
    this.#held.push(step);
    // The next step will take about as long as this one.
    const nextMs = now + step.stats.stepMs;
    const isSoon = nextMs - this.#heldSinceMs < COLLECT_MS && nextMs - this.#toldAtMs <= MAX_SILENCE_MS;
    if (haste === Haste.later && isSoon && this.#areCoresTaken) return;
    const order = this.#post();
    if (haste === Haste.urgent && this.#areCoresTaken) this.#awaitDelivery(order);
  }

  /** Posts what waits. Call before doing something long, and before a sequence can go on in another worker. */
  flush(): void {
    if (this.#held.length > 0) this.#post();
  }

  #post(): number {
    const order = Atomics.add(this.#order, Order.next, 1);
    this.#port.postMessage({ op: 'step', order, steps: this.#held } satisfies FromWorker);
    if (this.#held.some(({ stats }) => stats.batchSize > 0)) this.#toldAtMs = performance.now();
    this.#held = [];
    return order;
  }

  /** With a core to spare the main thread runs there, and waiting would only cost time. */
  get #areCoresTaken(): boolean {
    let threads = 0;
    for (let worker = 0; worker < this.#busy.length; worker++) threads += Atomics.load(this.#busy, worker);
    return threads >= this.#cores;
  }

  #awaitDelivery(order: number): void {
    const until = performance.now() + HANDOVER_MS;
    for (;;) {
      const delivered = Atomics.load(this.#order, Order.delivered);
      // Both are Int32 that wrap around.
      if (((delivered - order) | 0) > 0) return;
      const leftMs = until - performance.now();
      if (leftMs <= 0 || Atomics.wait(this.#order, Order.delivered, delivered, leftMs) === 'timed-out') return;
    }
  }
}
