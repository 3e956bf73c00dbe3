// What an EngineSet is started with. main.ts makes it of the settings; tests and benches make their own.
import type { HubAccess, KvChoice, ProductChoice } from '../../workers/messages/models.ts';
import type { ModelSource } from './model-admin.ts';
import type { QueueOptions } from './waiting-room.ts';

export interface EngineLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface EngineOptions {
  /** In order; the first also answers to `default`. */
  models: readonly (string | ModelSource)[];
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
  /** Of all models together. */
  kvMemoryBytes: number;
  products: ProductChoice;
  cacheDir: string;
  /** Absent: models of the hub cannot be loaded. */
  hub?: HubAccess;
  /** Specification of the model behind `embeddings`; null or absent: none. */
  embeddingModel?: string | null;
  /** What is absent is as protocol/constants.ts says. */
  queue?: Partial<QueueOptions>;
  /** Models there may be at once; default 8. */
  maxModels?: number;
  /** A model without requests for so long is unloaded until the next; 0 or absent: never. */
  idleTimeoutMs?: number;
  /** Memory that a load may take now; default: what the system says. */
  availableBytes?(): number;
  log: EngineLog;
  /** Assert slot ownership before every run. */
  debugOwners: boolean;
  /** A worker without a heartbeat for this long is taken for hung. */
  hangMs?: number;
}
