// All native connections: src/server.ts plugs its four handlers into uWebSockets. It flushes the outboxes after each
// publish, gives responses whose connection dropped their grace time, closes clients that never say hello, and says
// goaway when the server drains.
import { CloseCode, Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';
import type { LatencyClass, ModelInfo } from '../../protocol/messages.ts';
import type { Caller } from '../auth/caller.ts';
import type { Responses } from '../responses/registry.ts';
import type { Response } from '../responses/response.ts';
import type { Sessions } from '../sessions/registry.ts';
import { Connection } from './connection.ts';
import type { ConnectionHost, ResumeResult } from './connection.ts';
import { ModelList } from './model-list.ts';
import type { Outbox } from './outbox.ts';
import type { Transport } from './transport.ts';

export interface SocketServerOptions {
  sessions: Sessions;
  responses: Responses;
  /** name/version, for Welcome. */
  serverName: string;
  /** The models that clients are told, the default first. */
  models: () => ModelInfo[];
  /** The caller of a token; undefined is no token. Throws ServiceError `unauthorized` or `expired_token`. */
  authenticate: (token: string | undefined) => Caller;
  /** Limits that settings changed, for Welcome. */
  limits?: ConnectionHost['limits'];
  /** The clock of the workers' `sampledAtMs`: epoch milliseconds with fraction. */
  now?: () => number;
  /** From this many active responses on, chat and batch deltas are collected for FLUSH_WINDOW_MS. */
  busyResponses?: number;
  /** A frame with new tokens was written: how long ago the newest was sampled. */
  onDelay?: (latencyClass: LatencyClass, delayMs: number) => void;
  onResumed?: (result: ResumeResult) => void;
  /** 0 ≤ x < 1; spreads the reconnects after goaway. */
  random?: () => number;
  onHello?: (connection: Connection) => void;
  onInternalError?: (error: unknown) => void;
  /** The server closed a connection, for this reason. */
  onEnded?: (reason: string) => void;
}

/** How often grace times and hello timeouts are looked at. */
const TICK_MS = 1000;
/** With fewer streams the cores have time for a frame per step. */
const BUSY_RESPONSES = 4;

export class SocketServer {
  readonly #responses: Responses;
  readonly #now: () => number;
  readonly #random: () => number;
  readonly #models: ModelList;
  readonly #host: ConnectionHost;
  readonly #connections = new Set<Connection>();
  readonly #byOutbox = new Map<Outbox, Connection>();
  readonly #wanting = new Set<Outbox>();
  /** Responses nobody watches any more, with the time their grace ends; in that order. */
  readonly #orphans = new Map<Response, number>();
  readonly #stopListening: () => void;
  readonly #timer: NodeJS.Timeout;
  /** Set while draining. */
  #goaway: { code: ErrorCode; retryAfterMs: number } | null = null;

  constructor(options: SocketServerOptions) {
    const { responses, sessions, serverName, authenticate } = options;
    const busyResponses = options.busyResponses ?? BUSY_RESPONSES;
    this.#responses = responses;
    this.#now = options.now ?? (() => performance.timeOrigin + performance.now());
    this.#random = options.random ?? Math.random;
    this.#models = new ModelList(options.models, () => {
      for (const connection of this.#connections) connection.tellModels();
    });
    this.#host = {
      sessions,
      responses,
      serverName,
      models: this.#models,
      limits: options.limits ?? {},
      authenticate,
      now: this.#now,
      isBusy: () => this.#responses.active >= busyResponses && !this.#responses.isCollected,
      wants: (outbox) => void this.#wanting.add(outbox),
      onDelay: (latencyClass, delayMs) => options.onDelay?.(latencyClass, delayMs),
      queuePosition: (response) => responses.queuePositions().get(response),
      onDropped: (outbox) =>
        this.#byOutbox.get(outbox)?.end(CloseCode.slowConsumer, 'slow_consumer' satisfies ErrorCode),
      onHello: (connection) => {
        options.onHello?.(connection);
        this.#sayGoaway(connection);
      },
      onResumed: (result) => options.onResumed?.(result),
      onInternalError: (error) => options.onInternalError?.(error),
      onEnded: (connection, reason) => {
        options.onEnded?.(reason);
        this.#leave(connection, false);
      },
    };
    this.#stopListening = responses.onPublished(() => this.#flush());
    this.#timer = setInterval(() => this.tick(), TICK_MS);
    this.#timer.unref();
  }

  get numConnections(): number {
    return this.#connections.size;
  }

  /** `caller`: who the upgrade's Authorization header named; null without one. */
  open(transport: Transport, caller: Caller | null): Connection {
    const connection = new Connection(transport, caller, this.#host);
    this.#connections.add(connection);
    this.#byOutbox.set(connection.outbox, connection);
    return connection;
  }

  /** One WebSocket message; `data` may be reused when this returns. */
  message(connection: Connection, data: ArrayBuffer, isBinary: boolean): void {
    connection.receive(data, isBinary);
  }

  /** The socket took what was buffered. */
  drain(connection: Connection): void {
    connection.outbox.flush();
  }

  /** The socket is gone. Code 1000 from the client means done: its responses are cancelled, unless others watch. */
  close(connection: Connection, code: number): void {
    const isDone = !connection.isClosed && code === CloseCode.normal;
    connection.markClosed();
    this.#leave(connection, isDone);
  }

  /**
   * Announces that connections will close and refuses new work from now on; who says hello later is told right after
   * its welcome. Each connection is told its own time between `retryAfterMs` and twice that, so that they do not all
   * come back in the same instant.
   */
  goaway(code: ErrorCode, retryAfterMs: number): void {
    this.#goaway = { code, retryAfterMs };
    for (const connection of this.#connections) if (connection.isOpen) this.#sayGoaway(connection);
  }

  /** The models may have changed: clients whose list is older are told in a moment. */
  modelsChanged(): void {
    this.#models.changed();
  }

  /** Closes every connection, at the end of a drain. */
  closeAll(code: number, reason: string): void {
    for (const connection of this.#connections) connection.end(code, reason);
  }

  /** Ends the timers. Connections are left as they are. */
  stop(): void {
    clearInterval(this.#timer);
    this.#models.stop();
    this.#stopListening();
  }

  /** Hello timeouts, grace times, queue positions, long parking. Runs every second; tests call it. */
  tick(): void {
    const now = this.#now();
    for (const connection of this.#connections) {
      const { greetingSinceMs } = connection;
      if (greetingSinceMs === null || now - greetingSinceMs < Limits.helloTimeoutMs) continue;
      connection.fail(new ServiceError('unauthorized', 'No hello in time.'));
    }
    this.#responses.tick();
    let positions: Map<Response, number> | null = null;
    const current = (): Map<Response, number> => (positions ??= this.#responses.queuePositions());
    for (const connection of this.#connections) connection.outbox.tellPositions(current);
    for (const [response, graceEndMs] of this.#orphans) {
      if (graceEndMs > now) break;
      this.#orphans.delete(response);
      if (response.numSubscribers === 0) response.cancel();
    }
  }

  #sayGoaway(connection: Connection): void {
    if (this.#goaway === null) return;
    const { code, retryAfterMs } = this.#goaway;
    connection.goaway(code, Math.round(retryAfterMs * (1 + this.#random())));
  }

  #flush(): void {
    for (const outbox of this.#wanting) {
      this.#wanting.delete(outbox);
      outbox.flush();
    }
  }

  #leave(connection: Connection, isDone: boolean): void {
    if (!this.#connections.delete(connection)) return;
    this.#byOutbox.delete(connection.outbox);
    this.#wanting.delete(connection.outbox);
    for (const response of connection.outbox.close()) {
      if (response.isEnded || response.numSubscribers > 0 || response.runsUnwatched) continue;
      if (isDone) {
        response.cancel();
        continue;
      }
      this.#orphans.delete(response);
      this.#orphans.set(response, this.#now() + Limits.graceMs);
    }
  }
}
