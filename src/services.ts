// What request handlers need, bound together once in main.ts. Nothing here is made per request.
import { ServiceError } from '../protocol/errors.ts';
import type { KeyRing } from './auth/keys.ts';
import type { OriginPolicy } from './auth/origin.ts';
import type { EngineSet } from './engine/models.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { Responses } from './responses/registry.ts';
import type { Sessions } from './sessions/registry.ts';
import type { StaticFiles } from './web/static-files.ts';

/** The part of EngineSet that requests use. */
export type Engines = Pick<EngineSet, 'engines' | 'admin' | 'embeddings' | 'find' | 'isReady' | 'progress'>;

export interface Services {
  engines: Engines;
  responses: Responses;
  sessions: Sessions;
  keys: KeyRing;
  origins: OriginPolicy;
  metrics: Metrics;
  log: Log;
  web: StaticFiles;
  /** Where the list of models is read from again; '' without. */
  modelsFile: string;
  /** Reachable by this machine only: then /metrics needs no key. */
  isLoopback: boolean;
  /** Draining: running work goes on, new work is refused. */
  isDraining: boolean;
  connections(): { http: number; websocket: number };
  /** Open sessions of all tenants. */
  numSessions(): number;
}

/** When a client told to go away may come back: a restart from cached models takes about a second. */
export const RESTART_RETRY_MS = 2000;

/** What new work is answered while draining. */
export function shuttingDown(): ServiceError {
  return new ServiceError('shutting_down', 'The server is shutting down.', { retryAfterMs: RESTART_RETRY_MS });
}
