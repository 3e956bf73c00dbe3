// What operators may see and do of models: implemented by models.ts, used by the admin API and on signals.
import type { CompileProgress } from '../../workers/messages/models.ts';

/** Where a model comes from and what it is called. */
export interface ModelSource {
  /** As in MODEL. */
  spec: string;
  /** Absent: the model's own. */
  id?: string;
  /** Further names. */
  aliases?: readonly string[];
  /** Tokens; absent: as MAX_CONTEXT says. */
  contextLength?: number;
}

/**
 * unloaded: idle, without threads and memory, loaded again by the next request. draining: refuses requests, and is gone
 * when those it has have ended. A model that is being swapped is ready.
 */
export type ModelState = 'loading' | 'ready' | 'draining' | 'unloaded' | 'failed';

/** What operators see of a model. */
export interface ModelView {
  id: string;
  aliases: readonly string[];
  spec: string;
  origin: string;
  state: ModelState;
  isDefault: boolean;
  /** Of a load or swap; null: there is none. */
  progress: CompileProgress | null;
  /** Why the last load or swap failed; null when it did not. */
  failure: string | null;
  contextLength: number;
  quantization: string;
  weightsBytes: number;
  kvType: string;
  /** Held of KV_MEMORY, and the part of it that was written. */
  kvBytes: number;
  kvUsedBytes: number;
  running: number;
  waiting: number;
  /** Requests that have not ended. */
  active: number;
  /** Threads of older weights that still have requests. */
  retired: number;
  /** Epoch milliseconds; null: never. */
  readyAtMs: number | null;
  lastUsedMs: number | null;
}

export interface LoadOptions {
  /** Name of a model whose place it takes: it goes on under that name and its aliases. */
  replace?: string;
  /** It is the one that answers to `default` from then on. */
  isDefault?: boolean;
  /** `reload` may unload it again. */
  isFromSettings?: boolean;
  onProgress?(view: ModelView): void;
}

/** What operators may do. Every name is an id or an alias. */
export interface ModelAdmin {
  list(): ModelView[];
  readonly kvMemory: { totalBytes: number; freeBytes: number };
  /**
   * Resolves when it serves. The same again while it loads is the same load, and of a model that is there a question
   * after it. Rejects with ServiceError: `conflict` (the name is taken, there are too many), `invalid_request` (it cannot
   * be loaded; says why), `unknown_model` (nothing of this name can be replaced).
   */
  load(source: ModelSource, options?: LoadOptions): Promise<ModelView>;
  /**
   * New requests are refused at once; resolves when running ones have ended, which `isForced` does with an error. A
   * load under way is given up. Rejects with `unknown_model`.
   */
  unload(name: string, options?: { isForced?: boolean }): Promise<ModelView>;
  /** Looks at the weights again, and at what is asked for if that is told; see models-file.ts. */
  reload(sources?: readonly ModelSource[]): Promise<ReloadReport>;
}

export interface ReloadReport {
  loaded: string[];
  swapped: string[];
  unloaded: string[];
  unchanged: string[];
  failed: { model: string; message: string }[];
}
