// The models of this process and what becomes of them: which is loaded, swapped, unloaded, and who may be. Requests find
// theirs here; the admin API (src/http/admin.ts) and signals change what there is. How a load goes is model-loader.ts's
// business. Made by main.ts (startEngines).
// What must stay true: a failed load or swap leaves everything else as it was, and no running request is dropped unless
// somebody asks for that.
import { ServiceError } from '../../protocol/errors.ts';
import type { StepStats } from '../../workers/messages/events.ts';
import type { CompileProgress } from '../../workers/messages/models.ts';
import { Embedder, type Embeddings } from './embedder.ts';
import { IdleModels } from './idle.ts';
import { Instances } from './instances.ts';
import type { LoadOptions, ModelAdmin, ModelSource, ModelView, ReloadReport } from './model-admin.ts';
import { ModelLoader } from './model-loader.ts';
import { conflict, keyOf, ModelNames } from './model-names.ts';
import { messageOf, viewOf } from './model-view.ts';
import type { EngineOptions } from './options.ts';
import { ServedModel, type ModelHost } from './served-model.ts';
import type { Engine } from './types.ts';
import { defaultQueue } from './waiting-room.ts';

export interface EngineSet {
  /** Those that clients may know of, the default first. */
  readonly engines: readonly Engine[];
  readonly admin: ModelAdmin;
  /** Null without an embedding model. Not part of `isReady`: its graph is compiled and opened at the first request. */
  readonly embeddings: Embeddings | null;
  /** By id or alias; undefined and 'default' are the default. Throws `unknown_model` or `model_loading`. */
  find(model: string | undefined): Engine;
  /** The models of the start are loaded, and there is one to answer. */
  readonly isReady: boolean;
  /** Models of the start that are still loading. */
  readonly progress: ({ model: string } & CompileProgress)[];
  /** Resolves when all models of the start serve; rejects when one cannot be loaded. */
  readonly loaded: Promise<void>;
  /** As Engine.onStepEnd, of all models. */
  onStepEnd: ((isCollected: boolean) => void) | null;
  onStepStats: ((model: string, stats: StepStats) => void) | null;
  onWorkerRestart: ((model: string, index: number, reason: string) => void) | null;
  /** `engines`, or what they say of themselves, may have changed. */
  onModelsChanged: (() => void) | null;
  /** No request of it will come any more. */
  onModelGone: ((model: string) => void) | null;
  /** The process cannot go on: a worker hangs inside a run, or dies again and again. */
  onFatal: ((reason: string) => void) | null;
  /** Cooperative: every worker leaves its loop, then the pools close. Active requests end with `shutting_down`. */
  stop(): Promise<void>;
}

const DEFAULT_MAX_MODELS = 8;
/** Models that could not be loaded, kept to be seen. */
const MAX_FAILED = 16;

/** Returns at once; models load in the background. */
export function startEngines(options: EngineOptions): EngineSet {
  return new Models(options);
}

class Models implements EngineSet, ModelAdmin {
  onStepEnd: ((isCollected: boolean) => void) | null = null;
  onStepStats: ((model: string, stats: StepStats) => void) | null = null;
  onWorkerRestart: ((model: string, index: number, reason: string) => void) | null = null;
  onModelsChanged: (() => void) | null = null;
  onModelGone: ((model: string) => void) | null = null;
  onFatal: ((reason: string) => void) | null = null;
  readonly embeddings: Embedder | null;
  readonly loaded: Promise<void>;
  readonly #options: EngineOptions;
  readonly #instances: Instances;
  readonly #idle: IdleModels;
  readonly #host: ModelHost;
  readonly #names = new ModelNames();
  /** Of the start, until they serve. */
  readonly #initial = new Set<ServedModel>();
  readonly #loader: ModelLoader;
  #isStopping = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#instances = new Instances(options);
    this.#instances.onStepStats = (model, stats) => this.onStepStats?.(model, stats);
    this.#instances.onRestart = (model, index, reason) => this.onWorkerRestart?.(model, index, reason);
    this.#instances.onFatal = (reason) => this.onFatal?.(reason);
    this.#idle = new IdleModels(
      {
        models: this.#names.all,
        isBusy: (model) => this.#loader.isBusy(model),
        recompile: (model) => this.#loader.recompile(model),
        changed: () => this.#changed(),
      },
      this.#instances,
      options,
    );
    this.#loader = new ModelLoader({
      names: this.#names,
      instances: this.#instances,
      numModels: () => Math.max(options.models.length, this.#names.all.length),
      makeRoom: () => this.#idle.makeRoom(),
      view: (model) => this.#view(model),
      changed: () => this.#changed(),
      failed: (model, message) => this.#failed(model, message),
    });
    const queue = { ...defaultQueue, ...options.queue };
    this.#host = {
      queue,
      encode: (compiled, task) => this.#instances.threads.encode(compiled, task),
      wake: (model) => this.#idle.wake(model),
      dismiss: (instance, error) => this.#instances.dismiss(instance, error),
      successor: ({ model }) => this.#names.find(model.id) ?? null,
    };
    const { embeddingModel = null, cacheDir, hub, log } = options;
    const { threads } = this.#instances;
    this.embeddings =
      embeddingModel === null
        ? null
        : new Embedder({
            model: embeddingModel,
            cacheDir,
            ...(hub === undefined ? {} : { hub }),
            // A thread is left for other tasks where there are several.
            numThreads: Math.max(1, threads.numThreads - 1),
            queue,
            run: (task) => threads.run(task),
            onError: (error) => log.error({ err: error, model: embeddingModel }, 'embeddings could not be computed'),
          });
    for (const source of options.models) {
      const model = this.#add(typeof source === 'string' ? { spec: source } : source);
      model.isFromSettings = true;
      this.#initial.add(model);
    }
    this.loaded = this.#loadInitial();
    this.loaded.catch(() => {});
  }

  // --- what requests see

  get engines(): readonly Engine[] {
    return this.#names.all.filter((model) => model.isReady || this.#initial.has(model));
  }

  get admin(): ModelAdmin {
    return this;
  }

  find(name = 'default'): Engine {
    const model = this.#names.find(name);
    if (model?.isReady) return model;
    if (model) throw model.unavailable();
    const message = name === 'default' ? 'no model is loaded' : `there is no model "${name}"`;
    throw new ServiceError('unknown_model', message, { param: 'model' });
  }

  get isReady(): boolean {
    return this.#initial.size === 0 && this.#names.all.some(({ isReady }) => isReady);
  }

  get progress(): ({ model: string } & CompileProgress)[] {
    return [...this.#initial].flatMap(({ model, progress }) => (progress ? [{ model: model.id, ...progress }] : []));
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#idle.stop();
    this.#loader.abortAll(shuttingDown());
    this.#instances.threads.stopLoads();
    for (const model of this.#names.all) model.refuseWaiting(shuttingDown());
    await Promise.all([this.#instances.stop(), this.embeddings?.stop()]);
    await this.#instances.threads.close();
  }

  // --- what operators see and do

  list(): ModelView[] {
    return this.#names.all.map((model) => this.#view(model));
  }

  get kvMemory(): { totalBytes: number; freeBytes: number } {
    const { totalBytes, freeBytes } = this.#instances.pot;
    return { totalBytes, freeBytes };
  }

  async load(source: ModelSource, options: LoadOptions = {}): Promise<ModelView> {
    if (this.#isStopping) throw shuttingDown();
    if (options.replace !== undefined) return this.#swap(options.replace, source, options);
    const known = this.#names.known(source);
    if (known) {
      const loading = this.#loader.sourceFor(known);
      if (loading && isSame(loading, source)) return this.#loader.join(known, options.onProgress);
      if (known.isReady && !loading && isSame(known.source, source)) return this.#again(known, options);
      if (known.state !== 'failed') throw conflict(`there is a model ${known.model.id} already: unload or replace it`);
      this.#remove(known);
    }
    this.#names.assertFree([source.id, ...(source.aliases ?? [])], null);
    const { maxModels = DEFAULT_MAX_MODELS } = this.#options;
    if (this.#names.all.filter(({ state }) => state !== 'failed').length >= maxModels) {
      throw conflict(`there are ${maxModels} models already, as many as MAX_MODELS allows: unload one first`);
    }
    const model = this.#add(source);
    model.isFromSettings = options.isFromSettings ?? false;
    return this.#loader.load(model, true, options);
  }

  async unload(name: string, { isForced = false }: { isForced?: boolean } = {}): Promise<ModelView> {
    const model = this.#names.findAny(name);
    if (!model) throw new ServiceError('unknown_model', `there is no model "${name}"`, { param: 'model' });
    const { id } = model.model;
    this.#loader.abort(model, conflict(`model ${id} was unloaded meanwhile`));
    const isLoaded = model.isReady || model.state === 'draining';
    const drained = model.drain();
    if (isForced) {
      const message = `model ${id} was unloaded while it answered`;
      model.hurry(new ServiceError('unknown_model', message, { param: 'model' }));
    }
    this.#changed();
    await drained;
    await this.#idle.settled(model);
    if (this.#names.all.includes(model)) {
      this.#remove(model);
      if (isLoaded) this.#options.log.info({ model: id }, 'model unloaded');
    }
    return this.#view(model);
  }

  async reload(sources?: readonly ModelSource[]): Promise<ReloadReport> {
    const report: ReloadReport = { loaded: [], swapped: [], unloaded: [], unchanged: [], failed: [] };
    const before = this.#names.all.filter(({ isReady }) => isReady);
    for (const source of sources ?? before.map((model) => model.source)) {
      const model = before.find((each) => keyOf(each.source) === keyOf(source));
      try {
        if (!model) report.loaded.push((await this.load(source, { isFromSettings: true })).id);
        else if (await this.#refresh(model, source)) report.swapped.push(model.model.id);
        else report.unchanged.push(model.model.id);
      } catch (error) {
        report.failed.push({ model: keyOf(source), message: messageOf(error) });
      }
    }
    if (sources === undefined) return report;
    const first = sources[0] && this.#names.known(sources[0]);
    if (first?.isReady) {
      this.#names.makeDefault(first);
      this.#changed();
    }
    const wanted = new Set(sources.map(keyOf));
    for (const model of before) {
      if (wanted.has(keyOf(model.source)) || !model.isFromSettings) continue;
      report.unloaded.push(model.model.id);
      // Running answers may take their time; nobody need wait for that.
      void this.unload(model.model.id);
    }
    return report;
  }

  // --- loading

  async #loadInitial(): Promise<void> {
    // Takes milliseconds, and a wrong name shows before anything large is loaded.
    await this.embeddings?.describe();
    for (const model of this.#initial) {
      await this.#loader.load(model, false).catch((error: unknown) => {
        // Somebody unloaded it while it was loaded: then it is not wanted.
        if (this.#names.all.includes(model)) throw error;
      });
      this.#initial.delete(model);
      this.#changed();
    }
    if (!this.#isStopping) this.#instances.threads.warm();
  }

  /** `given` takes the place of the model of this name. */
  async #swap(name: string, given: ModelSource, options: LoadOptions): Promise<ModelView> {
    const model = this.#names.find(name);
    if (!model) throw new ServiceError('unknown_model', `there is no model "${name}"`, { param: 'replace' });
    const { id } = model.model;
    const aliases = [...new Set([...(model.source.aliases ?? []), ...(given.aliases ?? [])])];
    const source = { ...given, id, aliases };
    const loading = this.#loader.sourceFor(model);
    if (loading && isSame(loading, source)) return this.#loader.join(model, options.onProgress);
    if (loading || !model.isReady) throw conflict(`model ${id} is being loaded or unloaded already`);
    if (given.id !== undefined && given.id !== id) {
      const message = `id must be absent: what takes the place of ${id} takes its name`;
      throw new ServiceError('invalid_request', message, { param: 'id' });
    }
    this.#names.assertFree(given.aliases ?? [], model);
    return this.#loader.swap(model, source, options);
  }

  /** True when other weights serve now. */
  async #refresh(model: ServedModel, source: ModelSource): Promise<boolean> {
    if (this.#loader.isBusy(model)) throw conflict(`model ${model.model.id} is being loaded already`);
    this.#names.assertFree(source.aliases ?? [], model);
    return this.#loader.refresh(model, source);
  }

  /** Asked for again. */
  async #again(model: ServedModel, { isDefault = false }: LoadOptions): Promise<ModelView> {
    if (isDefault) this.#names.makeDefault(model);
    if (model.state === 'unloaded') this.#idle.wake(model);
    await this.#idle.settled(model);
    if (model.state !== 'ready') throw new ServiceError('model_loading', model.failure, { retryAfterMs: 1000 });
    this.#changed();
    return this.#view(model);
  }

  #failed(model: ServedModel, message: string): void {
    // Who started the process is told by `loaded`.
    if (!this.#isStopping && !this.#initial.has(model)) {
      this.#options.log.warn({ model: model.model.id, reason: message }, 'a model could not be loaded');
    }
    const failed = this.#names.all.filter((each) => each.state === 'failed' && !this.#initial.has(each));
    for (const old of failed.slice(0, Math.max(0, failed.length - MAX_FAILED))) this.#remove(old);
  }

  #add(source: ModelSource): ServedModel {
    const model = new ServedModel(source, this.#host);
    model.onStepEnd = (isCollected) => this.onStepEnd?.(isCollected);
    this.#names.add(model);
    return model;
  }

  #remove(model: ServedModel): void {
    this.#names.remove(model);
    this.#changed();
    if (this.#names.find(model.model.id) === undefined) this.onModelGone?.(model.model.id);
  }

  #changed(): void {
    this.#names.review();
    this.onModelsChanged?.();
  }

  #view(model: ServedModel): ModelView {
    return viewOf(model, model === this.#names.default);
  }
}

function isSame(a: ModelSource, b: ModelSource): boolean {
  return (
    a.spec === b.spec &&
    (a.id ?? b.id) === (b.id ?? a.id) &&
    a.contextLength === b.contextLength &&
    (b.aliases === undefined || aliasesOf(a) === aliasesOf(b))
  );
}

function aliasesOf({ aliases = [] }: ModelSource): string {
  return JSON.stringify([...aliases].sort());
}

function shuttingDown(): ServiceError {
  return new ServiceError('shutting_down', 'the server is shutting down');
}
