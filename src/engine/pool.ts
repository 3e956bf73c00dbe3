// The threads behind the engines: the only door to Piscina. A CPU pool for short stateless work (encoding long prompts,
// embeddings), one for what takes seconds or minutes (downloading and compiling models), so that neither waits for the
// other, and per model a pool of endless engine tasks. Used by models.ts, and by `npm run models`.
// Never abort, time out or destroy a running engine task: ending a thread inside a run aborts the process.
import { availableParallelism } from 'node:os';
import { MessageChannel, SHARE_ENV, type MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { CpuRequest, CpuResult, CpuTask, EncodeResult } from '../../workers/messages/cpu-tasks.ts';
import type {
  CompiledModel,
  CompileProgress,
  HubAccess,
  KvChoice,
  ProductChoice,
  ModelsAction,
  ModelsReport,
} from '../../workers/messages/models.ts';

/** nice value of engine threads, so that the main thread gets a core soon after a step's message (README, Why). */
const NICE = 10;
const CPU_NICE = 15;
/** JavaScript heap of an engine thread. KV memory and weights are outside of it. */
const HEAP_MB = 768;
/** A decoder and the encoder of embeddings may be compiled at once. */
const LOADER_THREADS = 2;
/** What was compiled last keeps its thread for so long. */
const LOADER_IDLE_MS = 5000;

export interface CompileRequest {
  model: string;
  cacheDir: string;
  kv: KvChoice;
  products: ProductChoice;
  maxContext: number | null;
  hub?: HubAccess;
}

/** The pools that all models share. */
export class SharedThreads {
  /** Threads of the pool for short work. */
  readonly numThreads = Math.max(1, Math.floor(availableParallelism() / 2));
  readonly #loaders = openCpuPool(LOADER_THREADS, 0, LOADER_IDLE_MS);
  /** Opened when it is first needed: at start the cores are for the model. */
  #cpu: Piscina | null = null;
  /** Of what the loaders do. */
  readonly #progress = new Set<MessagePort>();

  run(task: CpuRequest): Promise<CpuResult> {
    if (task.op === 'compileEncoder' || task.op === 'describeEncoder') return this.#load(task, () => {});
    return this.#pool.run(task) as Promise<CpuResult>;
  }

  async encode(compiled: CompiledModel, task: Omit<CpuTask & { op: 'encode' }, 'op' | 'textDir'>) {
    return (await this.run({ op: 'encode', textDir: compiled.textDir, ...task })) as EncodeResult;
  }

  /** Opens the pool for short work, if it is not: the first long prompt need not wait for that. */
  warm(): void {
    void this.#pool;
  }

  /** Downloads and compiles. `signal` stops both, within the step they are at. */
  async compile(
    request: CompileRequest,
    onProgress: (progress: CompileProgress) => void,
    signal: AbortSignal,
  ): Promise<CompiledModel> {
    return (await this.#load({ op: 'compile', ...request }, onProgress, signal)) as CompiledModel;
  }

  /** Stops all downloads and compiles. */
  stopLoads(): void {
    for (const port of this.#progress) port.postMessage('stop');
  }

  /** Ends the threads once they are done with what they do. */
  async close(): Promise<void> {
    await Promise.all([this.#loaders.close({ force: true }), this.#cpu?.close({ force: true })]);
  }

  async #load(
    request: CpuRequest,
    onProgress: (progress: CompileProgress) => void,
    signal?: AbortSignal,
  ): Promise<CpuResult> {
    const { port1, port2 } = new MessageChannel();
    const stop = (): void => port1.postMessage('stop');
    port1.on('message', onProgress);
    this.#progress.add(port1);
    signal?.addEventListener('abort', stop);
    try {
      return (await this.#loaders.run({ ...request, progress: port2 }, { transferList: [port2] })) as CpuResult;
    } finally {
      signal?.removeEventListener('abort', stop);
      this.#progress.delete(port1);
      port1.close();
    }
  }

  get #pool(): Piscina {
    return (this.#cpu ??= openCpuPool(this.numThreads));
  }
}

/** Runs one command of `npm run models` on a thread of its own. Rejects with an Error whose message is for people. */
export async function runModelsAction(
  action: ModelsAction,
  settings: { hub: HubAccess; cacheDir: string },
  onProgress: (progress: CompileProgress) => void,
): Promise<ModelsReport> {
  const pool = openCpuPool(1);
  const { port1, port2 } = new MessageChannel();
  port1.on('message', onProgress);
  try {
    const task: CpuTask = { op: 'models', action, ...settings, progress: port2 };
    return (await pool.run(task, { transferList: [port2] })) as ModelsReport;
  } finally {
    port1.close();
    await pool.close({ force: true });
  }
}

function openCpuPool(maxThreads: number, minThreads = 1, idleTimeout = 30_000): Piscina {
  return new Piscina({
    filename: new URL('../../workers/cpu-worker.ts', import.meta.url).href,
    minThreads,
    maxThreads,
    idleTimeout,
    niceIncrement: CPU_NICE,
  });
}

/** Threads for the endless tasks of one model; each task keeps its thread. */
export function enginePool(numWorkers: number): Piscina {
  return new Piscina({
    filename: new URL('../../workers/worker.ts', import.meta.url).href,
    minThreads: numWorkers,
    maxThreads: numWorkers,
    concurrentTasksPerWorker: 1,
    atomics: 'disabled',
    idleTimeout: Infinity,
    niceIncrement: NICE,
    // The decode session reads its settings from the environment while it is created.
    env: SHARE_ENV,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
}
