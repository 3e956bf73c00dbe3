// The threads behind the engines: the only door to Piscina. A CPU pool for stateless work (downloading and compiling
// models, encoding long prompts), and per model one pool of endless engine tasks. Readiness, worker death and the cooperative end are here.
// Never abort, time out or destroy a running engine task: ending a thread inside a run aborts the process.
import { availableParallelism } from 'node:os';
import { MessageChannel, SHARE_ENV, type MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { ServiceError } from '../../protocol/errors.ts';
import type { ModelInfo } from '../../protocol/messages.ts';
import type {
  CompiledModel,
  CompileProgress,
  CpuResult,
  CpuTask,
  EncodeResult,
  HubAccess,
  KvChoice,
  ModelsAction,
  ModelsReport,
  StepStats,
} from '../../workers/messages.ts';
import { Embedder, type Embeddings } from './embedder.ts';
import { ModelEngine } from './model-engine.ts';
import type { Engine } from './types.ts';
import { defaultQueue, type QueueOptions } from './waiting-room.ts';

export interface EngineLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface EngineOptions {
  /** Specifications in order; the first also answers to `default`. */
  models: string[];
  workers: number;
  threads: number;
  /** Guess tokens ahead while one answer decodes alone in a worker. */
  speculation: boolean;
  /** Few streams may decode on all cores. */
  solo: boolean;
  slots: number;
  /** Null: 4,096, or the model's own if that is shorter. */
  maxContext: number | null;
  kvType: KvChoice['type'];
  /** Shared evenly by all models. */
  kvMemoryBytes: number;
  cacheDir: string;
  /** Absent: models of the hub cannot be loaded. */
  hub?: HubAccess;
  /** Specification of the model behind `embeddings`; null or absent: none. */
  embeddingModel?: string | null;
  /** What is absent is as protocol/constants.ts says. */
  queue?: Partial<QueueOptions>;
  log: EngineLog;
  /** Assert slot ownership before every run. */
  debugOwners: boolean;
  /** A worker without a heartbeat for this long is taken for hung. */
  hangMs?: number;
}

export interface EngineSet {
  readonly engines: readonly Engine[];
  /** Null without an embedding model. Not part of `isReady`: its graph is compiled and opened at the first request. */
  readonly embeddings: Embeddings | null;
  /** By id or alias; undefined and 'default' are the first. Throws `unknown_model` or `model_loading`. */
  find(model: string | undefined): Engine;
  readonly isReady: boolean;
  /** Models still loading. */
  readonly progress: ({ model: string } & CompileProgress)[];
  /** Resolves when all models serve; rejects when one cannot be loaded. */
  readonly loaded: Promise<void>;
  onStepStats: ((model: string, stats: StepStats) => void) | null;
  onWorkerRestart: ((model: string, index: number, reason: string) => void) | null;
  /** The process cannot go on: a worker hangs inside a run, or dies again and again. */
  onFatal: ((reason: string) => void) | null;
  /** Cooperative: every worker leaves its loop, then the pools close. Active requests end with `shutting_down`. */
  stop(): Promise<void>;
}

/** nice value of engine threads, so that the main thread gets a core soon after a step's message (README, Why). */
const NICE = 10;
const CPU_NICE = 15;
/** JavaScript heap of an engine thread. KV memory and weights are outside of it. */
const HEAP_MB = 768;
const LOADING_RETRY_MS = 1000;

/** Returns at once; models load in the background. */
export function startEngines(options: EngineOptions): EngineSet {
  const maxThreads = Math.max(1, Math.floor(availableParallelism() / 2));
  const cpuPool = openCpuPool(maxThreads);
  /** The port of the model that is being downloaded or compiled. */
  let compiling: MessagePort | null = null;
  const encode = async (compiled: CompiledModel, task: Omit<CpuTask & { op: 'encode' }, 'op' | 'textDir'>) =>
    (await cpuPool.run({ op: 'encode', textDir: compiled.textDir, ...task } satisfies CpuTask)) as EncodeResult;

  const { embeddingModel = null, queue, log } = options;
  const embedder =
    embeddingModel === null
      ? null
      : new Embedder({
          model: embeddingModel,
          cacheDir: options.cacheDir,
          // A thread is left for other tasks where there are several.
          numThreads: Math.max(1, maxThreads - 1),
          queue: { ...defaultQueue, ...queue },
          run: (task) => cpuPool.run(task) as Promise<CpuResult>,
          onError: (error) => log.error({ err: error, model: embeddingModel }, 'embeddings could not be computed'),
        });
  const engines = options.models.map((spec) => new ModelEngine(spec, options, enginePool, encode));
  const set: EngineSet = {
    engines,
    embeddings: embedder,
    find: (model) => findEngine(engines, model),
    get isReady() {
      return engines.every((engine) => engine.isReady);
    },
    get progress() {
      return engines.flatMap(({ model, progress }) => (progress ? [{ model: model.id, ...progress }] : []));
    },
    loaded: loadAll(),
    onStepStats: null,
    onWorkerRestart: null,
    onFatal: null,
    async stop() {
      compiling?.postMessage('stop');
      await Promise.all([...engines.map((engine) => engine.stop()), embedder?.stop()]);
      await cpuPool.close({ force: true });
    },
  };
  for (const engine of engines) {
    engine.onStepStats = (stats) => set.onStepStats?.(engine.model.id, stats);
    engine.onRestart = (index, reason) => set.onWorkerRestart?.(engine.model.id, index, reason);
    engine.onFatal = (reason) => set.onFatal?.(reason);
  }
  set.loaded.catch(() => {});
  return set;

  async function loadAll(): Promise<void> {
    // Takes milliseconds, and a wrong name shows before anything large is loaded.
    await embedder?.describe();
    // One after the other: compiling uses all the memory bandwidth there is.
    for (const [index, engine] of engines.entries()) {
      const compiled = await compile(options.models[index]!, (progress) => engine.report(progress));
      const isFirst = index === 0;
      await engine.start({ ...compiled, info: withAliases(compiled.info, isFirst ? ['default'] : []) });
    }
  }

  async function compile(model: string, onProgress: (progress: CompileProgress) => void): Promise<CompiledModel> {
    const { port1, port2 } = new MessageChannel();
    port1.on('message', onProgress);
    compiling = port1;
    const { cacheDir, maxContext, kvType, kvMemoryBytes, models, hub } = options;
    const kv: KvChoice = { type: kvType, memoryBytes: kvMemoryBytes / models.length };
    const task: CpuTask = { op: 'compile', model, cacheDir, kv, maxContext, progress: port2, ...(hub ? { hub } : {}) };
    try {
      return (await cpuPool.run(task, { transferList: [port2] })) as CompiledModel;
    } finally {
      port1.close();
      compiling = null;
    }
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

function openCpuPool(maxThreads: number): Piscina {
  return new Piscina({
    filename: new URL('../../workers/cpu-worker.ts', import.meta.url).href,
    minThreads: 1,
    maxThreads,
    idleTimeout: 30_000,
    niceIncrement: CPU_NICE,
  });
}

/** Threads for the endless tasks of one model; each task keeps its thread. */
function enginePool(numWorkers: number): Piscina {
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

function findEngine(engines: readonly ModelEngine[], model: string | undefined): Engine {
  const engine =
    model === undefined || model === 'default'
      ? engines[0]
      : engines.find(({ model: info }) => info.id === model || info.aliases.includes(model));
  if (!engine) throw new ServiceError('unknown_model', `there is no model "${model}"`, { param: 'model' });
  if (!engine.isReady) {
    const { phase, done } = engine.progress ?? { phase: 'starting', done: 0 };
    const message = `model ${engine.model.id} is loading: ${phase}, ${Math.round(done * 100)} %`;
    throw new ServiceError('model_loading', message, { retryAfterMs: LOADING_RETRY_MS });
  }
  return engine;
}

function withAliases(info: ModelInfo, aliases: string[]): ModelInfo {
  return { ...info, aliases: [...info.aliases, ...aliases] };
}
