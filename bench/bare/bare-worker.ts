// One thread of the bare decode loop: the product's own model over shared KV memory, greedy, and nothing else. Started
// by bare-loop.ts; waits on a shared counter, so that all threads of a run begin together.
import { getPriority, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { KvMemory } from '../../workers/kv/kv-memory.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import type { EngineShared, SlotLayout } from '../../workers/messages/shared.ts';
import { openModel } from '../../workers/model/open-model.ts';
import { argmax } from '../../workers/sampling/draw.ts';

export interface BareInit {
  model: CompiledModel;
  layout: SlotLayout;
  shared: EngineShared;
  threads: number;
  spin: boolean;
  index: number;
  /** Int32 [gate]: a run may begin when it has this run's number. */
  gate: SharedArrayBuffer;
}

export interface BareJob {
  /** Number of this run, above that of the one before. */
  run: number;
  /** Rows of this thread: slots [first, first + prompts.length). */
  first: number;
  /** Ids already in each row, or to be prefilled within the measured time. */
  prompts: number[][];
  /** prefill: compute the prompts as part of the run. */
  prefill: boolean;
  /** Every step rewrites the same position, so that the context stays what it is. */
  fixedContext: boolean;
  steps: number;
}

export interface BareResult {
  /** Epoch milliseconds with fraction. */
  startMs: number;
  endMs: number;
  prefillMs: number;
  stepMs: number[];
}

/** Same positions for all rows of one length: copied instead of computed. */
export interface BareFill {
  fill: { first: number; count: number; ids: number[] };
}

// Same priority as the server's engine threads (src/engine/pool.ts): on a shared machine a ratio would lie otherwise.
// On Linux 0 is the calling thread; elsewhere priorities are of processes, and the default does no harm.
const NICE_INCREMENT = 10;
if (process.platform === 'linux') setPriority(0, Math.min(19, getPriority(0) + NICE_INCREMENT));

const init = workerData as BareInit;
const port = parentPort!;
const gate = new Int32Array(init.gate);
const model = await openModel(init.model, init.shared, init.layout, {
  threads: init.threads,
  spin: init.spin ? 'always' : 'never',
  role: 'both',
});
const kv = new KvMemory(init.model.shape, init.layout, init.shared, init.index, false);
const now = (): number => performance.timeOrigin + performance.now();

/** Chunks of prefill in preparation; a run prefills whole prompts. */
const FILL_CHUNK = 256;

function fill({ first, count, ids }: BareFill['fill']): void {
  for (let done = 0; done < ids.length; done += FILL_CHUNK) {
    model.prefill(first, ids.slice(done, done + FILL_CHUNK), done, false);
  }
  for (let i = 1; i < count; i++) kv.copy(first, first + i, 0, ids.length);
}

function run(job: BareJob): BareResult {
  const { first, prompts } = job;
  const tokens = prompts.map((ids) => ids.at(-1)!);
  // Past of a row: all ids but the last, which the first step computes.
  const past = prompts.map((ids) => ids.length - 1);
  Atomics.wait(gate, 0, job.run - 1);
  const startMs = now();
  if (job.prefill) {
    for (const [row, ids] of prompts.entries()) {
      tokens[row] = argmax(model.prefill(first + row, ids, 0, true)!, 0, model.vocabSize);
      past[row] = ids.length;
    }
  }
  const prefillMs = now() - startMs;
  const stepMs: number[] = [];
  for (let step = 0; step < job.steps; step++) {
    const begun = performance.now();
    const logits = model.decode(first, prompts.length, tokens, past);
    for (let row = 0; row < prompts.length; row++) {
      tokens[row] = argmax(logits, row * model.vocabSize, model.vocabSize);
      if (!job.fixedContext) past[row]!++;
    }
    stepMs.push(performance.now() - begun);
  }
  return { startMs, endMs: now(), prefillMs, stepMs };
}

port.on('message', (message: BareJob | BareFill) => {
  if ('fill' in message) fill(message.fill);
  port.postMessage('fill' in message ? null : run(message));
});
port.postMessage(null);
