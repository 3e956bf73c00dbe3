// Loads and swaps that wait or are under way: one at a time, in the order asked for, since compiling uses all the memory
// bandwidth there is. Who asks for the same again joins, and hears of its progress. Used by model-loader.ts.
import type { ModelSource, ModelView } from './model-admin.ts';
import type { ServedModel } from './served-model.ts';

export type OnProgress = (view: ModelView) => void;

interface Load {
  source: ModelSource;
  done: Promise<ModelView>;
  stop: AbortController;
  /** Of its download and compile, which others may want. */
  compile: AbortController;
  watchers: Set<OnProgress>;
}

export class LoadQueue {
  readonly #loads = new Map<ServedModel, Load>();
  readonly #onEnd: (model: ServedModel) => void;
  #last: Promise<unknown> = Promise.resolve();

  /** `onEnd`: a load ended, well or not, and its model may have another one. */
  constructor(onEnd: (model: ServedModel) => void) {
    this.#onEnd = onEnd;
  }

  has(model: ServedModel): boolean {
    return this.#loads.has(model);
  }

  /** What is being loaded for this model, or is to be. */
  sourceFor(model: ServedModel): ModelSource | null {
    return this.#loads.get(model)?.source ?? null;
  }

  /** The model must have none yet. `work` begins when all loads before it ended; it looks at the signal itself. */
  add(
    model: ServedModel,
    source: ModelSource,
    onProgress: OnProgress | undefined,
    work: (signal: AbortSignal) => Promise<ModelView>,
  ): Promise<ModelView> {
    const stop = new AbortController();
    const done = this.#last
      .then(() => work(stop.signal))
      .finally(() => {
        this.#loads.delete(model);
        this.#onEnd(model);
      });
    this.#last = done.catch(() => {});
    this.#loads.set(model, { source, done, stop, compile: new AbortController(), watchers: new Set() });
    return this.join(model, onProgress);
  }

  join(model: ServedModel, onProgress: OnProgress | undefined): Promise<ModelView> {
    const { done, watchers } = this.#loads.get(model)!;
    if (onProgress) watchers.add(onProgress);
    return done;
  }

  tell(model: ServedModel, view: ModelView): void {
    for (const watcher of this.#loads.get(model)?.watchers ?? []) watcher(view);
  }

  /** The load ends with this reason; nothing happens where there is none. */
  abort(model: ServedModel, reason: unknown): void {
    this.#loads.get(model)?.stop.abort(reason);
    this.#stopCompiles();
  }

  abortAll(reason: unknown): void {
    for (const { stop } of this.#loads.values()) stop.abort(reason);
    this.#stopCompiles();
  }

  /** Aborted when neither this load nor one that waits needs what is compiled for it. There must be a load. */
  compileSignal(model: ServedModel): AbortSignal {
    return this.#loads.get(model)!.compile.signal;
  }

  #stopCompiles(): void {
    const loads = [...this.#loads.values()];
    const wanted = loads.filter(({ stop }) => !stop.signal.aborted).map(({ source }) => source);
    for (const { source, stop, compile } of loads) {
      const isWanted = wanted.some((other) => {
        return other.spec === source.spec && other.contextLength === source.contextLength;
      });
      if (!isWanted) compile.abort(stop.signal.reason);
    }
  }
}
