// Puts the parts together: responses, sessions, native connections, HTTP and the engines behind them. main.ts starts
// one per process; integration tests start many, with engines of their own. Also the order of a clean end (`stop`).
import { setTimeout as sleep } from 'node:timers/promises';
import { CloseCode } from '../protocol/constants.ts';
import type { Caller } from './auth/caller.ts';
import { KeyRing } from './auth/keys.ts';
import { isLoopback, OriginPolicy } from './auth/origin.ts';
import type { Config } from './settings.ts';
import type { EngineSet } from './engine/models.ts';
import { handleRequest } from './http/routes.ts';
import type { Log } from './log.ts';
import { createMetrics } from './metrics.ts';
import { Responses } from './responses/registry.ts';
import { startServer, type Server, type SocketEndpoint } from './server.ts';
import { RESTART_RETRY_MS, shuttingDown, type Services } from './services.ts';
import { Sessions } from './sessions/registry.ts';
import type { Connection, ConnectionHost } from './socket/connection.ts';
import { SocketServer } from './socket/socket-server.ts';
import { StaticFiles } from './web/static-files.ts';

export type AppConfig = Pick<
  Config,
  'host' | 'port' | 'apiKeys' | 'allowedOrigins' | 'tlsCert' | 'tlsKey' | 'maxConnections'
> &
  Partial<Pick<Config, 'adminKeys' | 'modelsFile' | 'queueSize' | 'queueTimeoutMs'>>;

/** What the app uses of an EngineSet. */
export type AppEngines = Pick<
  EngineSet,
  | 'engines'
  | 'admin'
  | 'embeddings'
  | 'find'
  | 'isReady'
  | 'progress'
  | 'onStepEnd'
  | 'onStepStats'
  | 'onWorkerRestart'
  | 'onModelsChanged'
  | 'onModelGone'
  | 'stop'
>;

export interface App {
  readonly server: Server;
  readonly services: Services;
  readonly sockets: SocketServer;
  readonly engines: AppEngines;
  /**
   * Ends everything: no new work from now on, running answers get `drainMs` (less when `hurry` resolves), then they
   * end with `shutting_down`; sockets close with 1012; engines leave their loops. Nothing of the app runs afterwards.
   */
  stop(drainMs: number, hurry?: Promise<void>): Promise<void>;
}

/** Running responses end within one step or prefill chunk; a hung engine must not hold up the end for longer. */
const CANCEL_WAIT_MS = 3000;
const DRAIN_POLL_MS = 25;

/** Listens first, so that a taken port is known before threads start. Throws ListenError. */
export function startApp(config: AppConfig, log: Log, serverName: string, startEngines: () => AppEngines): App {
  const metrics = createMetrics();
  const responses = new Responses({
    observer: metrics.observer,
    onSubscriberError: (error) => log.error({ err: error }, 'a reader of a response failed because of a bug'),
  });
  const keys = new KeyRing(config.apiKeys, config.adminKeys, isLoopback(config.host));
  const origins = new OriginPolicy({
    host: config.host,
    allowedOrigins: config.allowedOrigins,
    hasKeys: !keys.isOpen,
  });
  const sessions = new Sessions(responses, (model) => engines.find(model));
  const sockets = new SocketServer({
    sessions,
    responses,
    serverName,
    models: () => engines.engines.map(({ model }) => model),
    limits: limitsOf(config),
    authenticate: (token) => keys.callerOfToken(token ?? null),
    onDelay: (latencyClass, delayMs) => metrics.onDelay(latencyClass, delayMs),
    onResumed: (result) => metrics.onResumed(result),
    onEnded: (reason) => metrics.onConnectionEnded(reason),
    onInternalError: (error) => log.error({ err: error }, 'a native connection failed because of a bug'),
  });
  const stream: SocketEndpoint<Caller | null, Connection> = {
    admit({ origin, host, authorization }) {
      origins.check(origin, host);
      if (services.isDraining) throw shuttingDown();
      // Browsers cannot send the header; their key comes with the hello.
      return authorization === '' ? null : keys.callerOfHeader(authorization);
    },
    open: (transport, caller) => sockets.open(transport, caller),
    message: (connection, data, isBinary) => sockets.message(connection, data, isBinary),
    drain: (connection) => sockets.drain(connection),
    close: (connection, code) => sockets.close(connection, code),
  };
  const server = startServer({
    ...config,
    log,
    stream,
    onRequest: (exchange) => handleRequest(exchange, services),
    onConnectionRefused: () => metrics.onConnectionRefused(),
  });

  // No request is read before this function returns to the event loop.
  const engines = startEngines();
  engines.onStepEnd = (isCollected) => responses.publish(isCollected);
  engines.onModelsChanged = () => sockets.modelsChanged();
  engines.onModelGone = (model) => metrics.forgetModel(model);
  engines.onStepStats = (model, stats) => metrics.onStep(model, stats);
  const { embeddings } = engines;
  if (embeddings) embeddings.onBatch = (stats) => metrics.onEmbeddingBatch(stats);
  engines.onWorkerRestart = (model, index, reason) => {
    metrics.onWorkerRestart(model);
    log.warn({ model, worker: index, reason }, 'an engine worker was lost and starts again');
  };
  const services: Services = {
    engines,
    responses,
    sessions,
    keys,
    origins,
    metrics,
    log,
    web: new StaticFiles(),
    modelsFile: config.modelsFile ?? '',
    isLoopback: isLoopback(config.host),
    isDraining: false,
    connections: () => server.connections(),
    numSessions: () => sessions.size,
  };

  async function stop(drainMs: number, hurry: Promise<void> = new Promise(() => {})): Promise<void> {
    services.isDraining = true;
    sockets.goaway('shutting_down', RESTART_RETRY_MS);
    let deadline = performance.now() + drainMs;
    void hurry.then(() => {
      deadline = 0;
    });
    const numActive = (): number => responses.active + (engines.embeddings?.active ?? 0);
    while (numActive() > 0 && performance.now() < deadline) await sleep(DRAIN_POLL_MS);
    if (responses.active > 0) {
      const ended = responses.cancelAll('shutting_down', 'The server is shutting down.');
      await Promise.race([ended, sleep(CANCEL_WAIT_MS, undefined, { ref: false })]);
    }
    responses.publish();
    sockets.closeAll(CloseCode.restart, 'restart');
    sockets.stop();
    server.stopListening();
    // Takes at least one turn of the loop, in which the last frames and HTTP answers leave.
    await engines.stop();
    server.close();
  }

  return { server, services, sockets, engines, stop };
}

function limitsOf({ queueSize, queueTimeoutMs }: AppConfig): ConnectionHost['limits'] {
  return {
    ...(queueSize === undefined ? {} : { queuedRequests: queueSize }),
    ...(queueTimeoutMs === undefined ? {} : { queueTimeoutMs }),
  };
}
