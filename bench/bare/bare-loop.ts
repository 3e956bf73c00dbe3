// The bare decode loop: what the engine could do if there were no server, no scheduler and no text. Rows are split over
// worker threads as the engine splits them. `decode` measures it; `serve` compares itself with it in the same run.
import { availableParallelism } from 'node:os';
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { allocateShared } from '../../src/engine/memory.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import type { SlotLayout } from '../../workers/messages/shared.ts';
import { largest, median } from '../statistics.ts';
import type { BareFill, BareInit, BareJob, BareResult } from './bare-worker.ts';

export interface BareOptions {
  model: CompiledModel;
  workers: number;
  /** Per worker. */
  threads: number;
  /** Threads of a session spin while they wait for work. */
  spin?: boolean;
  /** Most rows of one run. */
  rows: number;
  /** Slot length as in the server, since strides follow from it. */
  maxLen: number;
}

export interface BareRun {
  /** Tokens of all rows per second, from the start of the first thread to the end of the last. */
  tokensPerSecond: number;
  /** Median time of a step, of the slowest thread. */
  stepMs: number;
  /** Time of prefill of the slowest thread, 0 without. */
  prefillMs: number;
  /** Threads that had rows. */
  numWorkers: number;
}

export class BareLoop {
  readonly #workers: Worker[];
  readonly #rowsPerWorker: number;
  readonly #gate: Int32Array;
  #numRuns = 0;

  private constructor(workers: Worker[], rowsPerWorker: number, gate: Int32Array) {
    this.#workers = workers;
    this.#rowsPerWorker = rowsPerWorker;
    this.#gate = gate;
  }

  static async open(options: BareOptions): Promise<BareLoop> {
    const { model, workers: numWorkers, threads, maxLen } = options;
    const rowsPerWorker = Math.ceil(options.rows / numWorkers);
    const numSlots = rowsPerWorker * numWorkers;
    const layout: SlotLayout = { rowsPerWorker, numWorkers, numSlots, maxLen, budgetTokens: numSlots * maxLen };
    const shared = allocateShared(model.shape, layout, 1);
    const gate = new SharedArrayBuffer(4);
    const workers: Worker[] = [];
    for (let index = 0; index < numWorkers; index++) {
      const init: BareInit = { model, layout, shared, threads, spin: options.spin === true, index, gate };
      // The decode session reads a setting from the environment while it is created.
      const worker = new Worker(new URL('./bare-worker.ts', import.meta.url), { workerData: init, env: SHARE_ENV });
      workers.push(worker);
      await answer(worker);
    }
    return new BareLoop(workers, rowsPerWorker, new Int32Array(gate));
  }

  /** Puts `ids` into the KV memory of all rows, so that a run can begin behind them. */
  async fill(ids: number[]): Promise<void> {
    for (const [index, worker] of this.#workers.entries()) {
      const message: BareFill = { fill: { first: index * this.#rowsPerWorker, count: this.#rowsPerWorker, ids } };
      worker.postMessage(message);
      await answer(worker);
    }
  }

  /** One run over as many rows as prompts, split evenly. All rows generate `steps` tokens (one more with prefill). */
  async run(options: Pick<BareJob, 'prompts' | 'prefill' | 'fixedContext' | 'steps'>): Promise<BareRun> {
    const run = ++this.#numRuns;
    const numWorkers = Math.min(this.#workers.length, options.prompts.length);
    const share = Math.ceil(options.prompts.length / numWorkers);
    const pending: Promise<BareResult>[] = [];
    for (let index = 0; index < numWorkers; index++) {
      const prompts = options.prompts.slice(index * share, (index + 1) * share);
      if (prompts.length === 0) break;
      const worker = this.#workers[index]!;
      worker.postMessage({ ...options, run, first: index * this.#rowsPerWorker, prompts } satisfies BareJob);
      pending.push(answer(worker) as Promise<BareResult>);
    }
    // Time for the messages to arrive; a thread that is late starts late, which the result then shows.
    await new Promise((resolve) => setTimeout(resolve, 5));
    Atomics.store(this.#gate, 0, run);
    Atomics.notify(this.#gate, 0);
    const results = await Promise.all(pending);
    const startMs = -largest(results.map((result) => -result.startMs));
    const endMs = largest(results.map((result) => result.endMs));
    const numTokens = options.prompts.length * (options.steps + (options.prefill ? 1 : 0));
    return {
      tokensPerSecond: (numTokens * 1000) / (endMs - startMs),
      stepMs: largest(results.map(({ stepMs }) => median(stepMs))),
      prefillMs: options.prefill ? largest(results.map(({ prefillMs }) => prefillMs)) : 0,
      numWorkers: results.length,
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

/** Layout of the server's defaults on this machine. */
export function defaultLayout(): { workers: number; threads: number } {
  const cores = availableParallelism();
  const workers = Math.min(2, cores);
  return { workers, threads: Math.max(1, Math.floor(cores / workers)) };
}

function answer(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('error', reject);
    worker.once('message', (message) => {
      worker.off('error', reject);
      resolve(message);
    });
  });
}
