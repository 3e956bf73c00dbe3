// Makes and ends the threads behind models: compile, find room, open, dismiss. All of them share one KV budget and the
// memory of the machine. Used by models.ts and idle.ts, which decide when.
// What must stay true: the part of KV_MEMORY that threads hold is free again when, and only when, they have ended.
import { ServiceError } from '../../protocol/errors.ts';
import type { StepStats } from '../../workers/messages/events.ts';
import type { CompiledModel, CompileProgress } from '../../workers/messages/models.ts';
import { KvPot } from './kv-pot.ts';
import { formatBytes } from './memory.ts';
import type { ModelSource } from './model-admin.ts';
import { ModelEngine } from './model-engine.ts';
import type { EngineOptions } from './options.ts';
import { enginePool, SharedThreads } from './pool.ts';
import type { Instance } from './served-model.ts';

/** What threads and sessions take beside weights and KV memory, roughly. */
const OVERHEAD_BYTES = 64 << 20;

export interface OpenRequest {
  name: string;
  compiled: CompiledModel;
  /** Aborted: the threads are not wanted any more. */
  signal: AbortSignal;
  /** Look at the machine's memory first. */
  isChecked: boolean;
  /** There is too little KV memory: models that are idle may give some up. */
  makeRoom(): Promise<void>;
}

export class Instances {
  readonly threads = new SharedThreads();
  readonly pot: KvPot;
  /** When threads ended whose memory is not free yet, epoch milliseconds; 0: there is none. */
  garbageSinceMs = 0;
  onStepStats: ((model: string, stats: StepStats) => void) | null = null;
  onRestart: ((model: string, index: number, reason: string) => void) | null = null;
  onFatal: ((reason: string) => void) | null = null;
  readonly #options: EngineOptions;
  /** With the end of those that are ending. */
  readonly #all = new Map<Instance, Promise<void> | null>();
  #isStopping = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.pot = new KvPot(options.kvMemoryBytes);
  }

  /** Of several models each may count on an equal part of KV_MEMORY. Rejects with an Error for people. */
  compile(
    source: ModelSource,
    numModels: number,
    onProgress: (progress: CompileProgress) => void,
    signal: AbortSignal,
  ): Promise<CompiledModel> {
    const { cacheDir, maxContext, kvType, kvMemoryBytes, products, hub } = this.#options;
    const request = {
      model: source.spec,
      cacheDir,
      kv: { type: kvType, memoryBytes: kvMemoryBytes / numModels },
      products,
      maxContext: source.contextLength ?? maxContext,
      ...(hub ? { hub } : {}),
    };
    return this.threads.compile(request, onProgress, signal);
  }

  /** Rejects with ServiceError when the model does not fit, with the signal's reason, or with what a thread died of. */
  async open({ name, compiled, signal, isChecked, makeRoom }: OpenRequest): Promise<Instance> {
    signal.throwIfAborted();
    const encode = this.threads.encode.bind(this.threads);
    const engine = new ModelEngine(name, compiled, this.#options, enginePool, encode);
    if (isChecked) this.#assertMemory(engine, compiled);
    if (!this.pot.fits(engine.demand)) await makeRoom();
    signal.throwIfAborted();
    const instance: Instance = { engine, share: this.pot.open(engine.demand), compiled };
    this.#all.set(instance, null);
    engine.onStepStats = (stats) => this.onStepStats?.(name, stats);
    engine.onRestart = (index, reason) => this.onRestart?.(name, index, reason);
    engine.onFatal = (reason) => this.onFatal?.(reason);
    try {
      if (this.#isStopping) throw new ServiceError('shutting_down', 'the server is shutting down');
      await engine.start(instance.share);
      signal.throwIfAborted();
      return instance;
    } catch (error) {
      await this.dismiss(instance);
      throw error;
    }
  }

  /** Ends the threads, and what still runs there with this error. Idempotent. */
  dismiss(instance: Instance, error?: ServiceError): Promise<void> {
    const known = this.#all.get(instance);
    if (known === undefined) return Promise.resolve();
    if (known !== null) return known;
    const ended = instance.engine.stop(error).finally(() => {
      this.pot.close(instance.share);
      this.#all.delete(instance);
      this.garbageSinceMs ||= Date.now();
    });
    this.#all.set(instance, ended);
    return ended;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all([...this.#all.keys()].map((instance) => this.dismiss(instance)));
  }

  /** The system would go on without it, but slowly: weights are mapped, and would be read from disk again and again. */
  #assertMemory({ demand }: ModelEngine, { weightsBytes }: CompiledModel): void {
    const available = (this.#options.availableBytes ?? (() => process.availableMemory()))();
    const needed = weightsBytes + demand.floorTokens * demand.bytesPerToken + OVERHEAD_BYTES;
    if (needed <= available) return;
    const message = `the model needs about ${formatBytes(needed)} of memory, and ${formatBytes(available)} are there: unload another one`;
    throw new ServiceError('invalid_request', message, { param: 'model' });
  }
}
