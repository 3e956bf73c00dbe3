// How a model gets its threads: compile, open, serve, one load at a time, with the books of how each ended. models.ts
// decides what is loaded, under which name and in whose place, and owns the only loader.
// What must stay true: a load or swap that fails leaves its model, and all others, as they were.
import { ServiceError } from '../../protocol/errors.ts';
import type { CompiledModel, CompileProgress } from '../../workers/messages/models.ts';
import type { Instances } from './instances.ts';
import { LoadQueue } from './load-queue.ts';
import type { LoadOptions, ModelSource, ModelView } from './model-admin.ts';
import type { ModelNames } from './model-names.ts';
import { messageOf } from './model-view.ts';
import type { ServedModel } from './served-model.ts';

/** What a loader needs of the models. */
export interface LoaderHost {
  readonly names: ModelNames;
  readonly instances: Instances;
  /** Models that share KV_MEMORY, those of the start counted before they are here. */
  numModels(): number;
  /** Takes KV memory from models that have nothing to do. */
  makeRoom(): Promise<void>;
  view(model: ServedModel): ModelView;
  /** Something is known of a model that was not known before. */
  changed(): void;
  failed(model: ServedModel, message: string): void;
}

type Work = (signal: AbortSignal) => Promise<void>;

export class ModelLoader {
  readonly #host: LoaderHost;
  readonly #queue: LoadQueue;

  constructor(host: LoaderHost) {
    this.#host = host;
    this.#queue = new LoadQueue((model) => {
      model.progress = null;
      host.changed();
    });
  }

  /** It has a load that waits or is under way. */
  isBusy(model: ServedModel): boolean {
    return this.#queue.has(model);
  }

  /** What is being loaded for this model, or is to be. */
  sourceFor(model: ServedModel): ModelSource | null {
    return this.#queue.sourceFor(model);
  }

  /** The end of the load that the model has. */
  join(model: ServedModel, onProgress: LoadOptions['onProgress']): Promise<ModelView> {
    return this.#queue.join(model, onProgress);
  }

  abort(model: ServedModel, reason: ServiceError): void {
    this.#queue.abort(model, reason);
  }

  abortAll(reason: ServiceError): void {
    this.#queue.abortAll(reason);
  }

  /** Its first threads. `isChecked`: not of the start, where nothing else runs yet. */
  load(model: ServedModel, isChecked: boolean, options: LoadOptions = {}): Promise<ModelView> {
    const { source } = model;
    return this.#operate(model, source, options, async (signal) => {
      const compiled = await this.#compile(model, source);
      this.#host.names.assertFree([source.id ?? compiled.info.id], model);
      await this.#serve(model, source, compiled, isChecked, signal);
    });
  }

  /** The new beside the old; then requests go to the new one, and the old one ends when it has nothing more to do. */
  swap(model: ServedModel, source: ModelSource, options: LoadOptions): Promise<ModelView> {
    return this.#operate(model, source, options, async (signal) => {
      const compiled = await this.#compile(model, source);
      await this.#serve(model, source, compiled, true, signal);
    });
  }

  /** Compiles again, which takes a moment where nothing has changed. True when other weights serve now. */
  async refresh(model: ServedModel, source: ModelSource): Promise<boolean> {
    let isSwapped = false;
    await this.#operate(model, source, {}, async (signal) => {
      const compiled = await this.#compile(model, source);
      isSwapped = contentOf(compiled) !== contentOf(model.compiled!);
      if (isSwapped) return this.#serve(model, source, compiled, true, signal);
      model.source = source;
      model.rename(this.#host.names.describe(model, source, compiled, model.model.contextLength));
    });
    return isSwapped;
  }

  /** Only compiled, for the next time it is opened. */
  async recompile(model: ServedModel): Promise<void> {
    await this.#operate(model, model.source, {}, async () => {
      model.compiled = await this.#compile(model, model.source);
    });
  }

  /** Does the work when its turn comes, and keeps the books of how it ended. */
  #operate(
    model: ServedModel,
    source: ModelSource,
    { isDefault = false, onProgress }: LoadOptions,
    work: Work,
  ): Promise<ModelView> {
    return this.#queue.add(model, source, onProgress, async (signal) => {
      try {
        signal.throwIfAborted();
        await work(signal);
      } catch (error) {
        throw this.#failed(model, signal.aborted ? signal.reason : error);
      }
      model.failure = '';
      if (isDefault) this.#host.names.makeDefault(model);
      return this.#host.view(model);
    });
  }

  #failed(model: ServedModel, error: unknown): ServiceError {
    const message = messageOf(error);
    model.failure = message;
    if (model.state === 'loading') model.state = 'failed';
    this.#host.failed(model, message);
    if (error instanceof ServiceError) return error;
    return new ServiceError('invalid_request', message, { param: 'model', cause: error });
  }

  #compile(model: ServedModel, source: ModelSource): Promise<CompiledModel> {
    const onProgress = (progress: CompileProgress): void => this.#report(model, progress);
    const signal = this.#queue.compileSignal(model);
    return this.#host.instances.compile(source, this.#host.numModels(), onProgress, signal);
  }

  /** Opens threads for it and has them take the requests, instead of those it has. */
  async #serve(
    model: ServedModel,
    source: ModelSource,
    compiled: CompiledModel,
    isChecked: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const { names, instances } = this.#host;
    const name = source.id ?? compiled.info.id;
    this.#report(model, { phase: 'starting workers', done: 1 });
    const makeRoom = (): Promise<void> => this.#host.makeRoom();
    const instance = await instances.open({ name, compiled, signal, isChecked, makeRoom });
    model.source = source;
    model.serve(instance, names.describe(model, source, compiled, instance.engine.layout.maxLen));
  }

  #report(model: ServedModel, progress: CompileProgress): void {
    if (!this.#queue.has(model)) return;
    model.progress = progress;
    this.#queue.tell(model, this.#host.view(model));
  }
}

/** Differs when weights, settings of the compiler or the texts' directory do. */
function contentOf({ kind, decodePath, textDir, fake, shape }: CompiledModel): string {
  return JSON.stringify([kind, decodePath, textDir, fake, shape]);
}
