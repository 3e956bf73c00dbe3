// Posts a worker's steps to the main thread, numbered among those of all workers. Where the engine threads take every
// core, a step with text for voice or ide is also handed over: its worker waits until the main thread has delivered it.
// The engine is the only caller; nothing may come between taking a number and posting.
import { availableParallelism } from 'node:os';
import type { MessagePort } from 'node:worker_threads';
import { Order } from './messages.ts';
import type { EngineShared, FromWorker, StepOutput } from './messages.ts';

/** Longest wait for one step to be delivered; a main thread that is busier than that must not stop the engine. */
const HANDOVER_MS = 1;

export class StepPost {
  readonly #port: MessagePort;
  readonly #order: Int32Array;
  readonly #busy: Int32Array;
  readonly #cores: number;

  constructor(port: MessagePort, shared: EngineShared, cores = availableParallelism()) {
    this.#port = port;
    this.#order = new Int32Array(shared.order);
    this.#busy = new Int32Array(shared.busy);
    this.#cores = cores;
  }

  /** `isUrgent`: it carries tokens of a class whose text may not be collected. */
  post(output: Omit<StepOutput, 'order'>, isUrgent: boolean): void {
    const order = Atomics.add(this.#order, Order.next, 1);
    this.#port.postMessage({ ...output, order } satisfies FromWorker);
    if (isUrgent && this.#areCoresTaken) this.#awaitDelivery(order);
  }

  /** With a core to spare the main thread runs there, and waiting for it would only cost time. */
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
