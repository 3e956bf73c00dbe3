// The client: one connection, its lanes and the requests under way. Responses live in watches.ts, which keeps them over
// connections; sessions in session.ts, which use the `Link` handed to them, never the connection.
import { Limits } from '../protocol/constants.ts';
import { errorFromWire, ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type {
  ClientMessage,
  CreateOptions,
  LaneOptions,
  ModelInfo,
  ResumeOptions,
  ServerMessage,
  SessionInfo,
  ViewOptions,
  WelcomeInfo,
} from '../protocol/messages.ts';
import { abortable } from './abortable.ts';
import type { WaitOptions } from './abortable.ts';
import { closedError, Connection } from './connection.ts';
import type { ConnectionState } from './connection.ts';
import { ConnectionLostError } from './errors.ts';
import type { ResponsePosition } from './errors.ts';
import type { Link } from './link.ts';
import { randomId } from './random-id.ts';
import type { ResponseStream } from './response.ts';
import { listen, viewOf } from './send-options.ts';
import type { ResponseListeners } from './send-options.ts';
import { Session } from './session.ts';
import type { ClientSessionOptions } from './session.ts';
import type { TransportFactory } from './transport.ts';
import { Watches } from './watches.ts';
import type { Supersede } from './watch.ts';
import { openWebSocket } from './websocket.ts';

export interface ConnectOptions {
  /** API key. Sent in the hello message, since browsers cannot set headers on a WebSocket. */
  apiKey?: string;
  /** Free text for the server's log, such as name/version. */
  name?: string;
  /** Another transport than the global WebSocket. */
  transport?: TransportFactory;
  /** Called on every change of the connection's state, from the first attempt on. */
  onState?: (state: ConnectionState) => void;
  /** Aborting closes the client. */
  signal?: AbortSignal;
  /**
   * The pause before the next attempt is a random moment within the first of these, milliseconds; each failure doubles
   * it up to the second. Default 1,000 and 30,000.
   */
  retryFirstMs?: number;
  retryMaxMs?: number;
  /** Silence before the server is asked for a sign of life, and its time to give it. Default 15,000 and 10,000. */
  pingAfterMs?: number;
  pongTimeoutMs?: number;
  /** Longest time from dialling to the welcome. Default 10,000. */
  openTimeoutMs?: number;
}

/** A one-off response: the whole conversation in `messages`, kept by no session. */
export interface ClientCreateOptions extends Omit<CreateOptions, 'session' | 'supersede'>, ResponseListeners {
  /** Cancels and replaces: what runs beside it outside of sessions (`lane`), an answer of this client, or a response id. */
  supersede?: Supersede;
}

/** How to watch a response that was begun elsewhere. */
export type WatchResponseOptions = Pick<ResumeOptions, keyof ViewOptions | 'logprobs'> & ResponseListeners;

interface PendingRequest {
  resolve(message: ServerMessage): void;
  reject(error: Error): void;
}

/**
 * Connects to a Tokenwire server, such as `ws://127.0.0.1:8080/v1/stream` (`http:` works too, and the path may be left
 * out). Returns at once: requests wait until the connection is open, and again whenever it is lost.
 * Throws SyntaxError for a malformed URL.
 *
 *     const client = connect('ws://127.0.0.1:8080');
 *     const session = client.session({ system: 'Answer briefly.' });
 *     for await (const text of session.send('What is the capital of France?')) process.stdout.write(text);
 *     client.close();
 */
export function connect(url: string, options: ConnectOptions = {}): Client {
  return new Client(url, options);
}

export class Client {
  readonly #connection: Connection;
  readonly #watches: Watches;
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #modelListeners = new Set<(models: readonly ModelInfo[]) => void>();
  readonly #sessions = new Set<Session>();
  /** Lanes in use with their options; 0 is the connection itself and is never opened. */
  readonly #lanes = new Map<number, LaneOptions>();
  readonly #requests = new Map<string, PendingRequest>();
  #openWaiters: { resolve(): void; reject(error: Error): void }[] = [];
  #readyWaiters: { resolve(welcome: WelcomeInfo): void; reject(error: Error): void }[] = [];
  #welcome: WelcomeInfo | null = null;
  #models: readonly ModelInfo[] = [];

  /** Use `connect`. */
  constructor(url: string, options: ConnectOptions) {
    if (options.onState !== undefined) this.#listeners.add(options.onState);
    this.#watches = new Watches({
      send: (message) => this.#connection.send(message),
      isOpen: () => this.#connection.state.state === 'open',
      isUsable: () => this.#connection.isUsable,
      hasLane: (lane) => lane === 0 || this.#lanes.has(lane),
    });
    this.#connection = new Connection(
      {
        url: streamUrl(url),
        ...(options.apiKey === undefined ? {} : { token: options.apiKey }),
        clientName: options.name ?? 'tokenwire-sdk',
        instance: randomId(),
        openTransport: options.transport ?? openWebSocket,
        retryFirstMs: options.retryFirstMs ?? 1000,
        retryMaxMs: options.retryMaxMs ?? 30_000,
        pingAfterMs: options.pingAfterMs ?? 15_000,
        pongTimeoutMs: options.pongTimeoutMs ?? 10_000,
        openTimeoutMs: options.openTimeoutMs ?? 10_000,
      },
      {
        onState: (state) => this.#stateChanged(state),
        onOpen: () => this.#opened(),
        onMessage: (message) => this.#received(message),
        onDown: (reason) => this.#wentDown(reason),
      },
    );
    this.#connection.start();
    if (options.signal?.aborted === true) this.close();
    else options.signal?.addEventListener('abort', () => this.close(), { once: true });
  }

  get state(): ConnectionState {
    return this.#connection.state;
  }

  /** What the server said of itself at the last welcome; null before the first. */
  get welcome(): WelcomeInfo | null {
    return this.#welcome;
  }

  /** The models of the server, the default first, as it told them last; none before the first welcome. */
  get models(): readonly ModelInfo[] {
    return this.#models;
  }

  /** Calls the listener on every change from now on; returns a function that ends that. */
  onState(listener: (state: ConnectionState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Calls the listener whenever the server tells its models: at each welcome, and when one was loaded or unloaded, is
   * called otherwise or became the default. Returns a function that ends that.
   */
  onModels(listener: (models: readonly ModelInfo[]) => void): () => void {
    this.#modelListeners.add(listener);
    return () => this.#modelListeners.delete(listener);
  }

  /**
   * Fulfils when the connection is open. Rejects when the attempt under way fails (the client goes on trying: wait
   * again, or close it) or the client is closed.
   */
  ready({ signal }: WaitOptions = {}): Promise<WelcomeInfo> {
    const { state } = this;
    if (state.state === 'open') return Promise.resolve(state.welcome);
    if (state.state === 'closed') return Promise.reject(closedError(state));
    const ready = new Promise<WelcomeInfo>((resolve, reject) => this.#readyWaiters.push({ resolve, reject }));
    return abortable(ready, signal);
  }

  /** A conversation on a lane of its own; opened at once, or as soon as there is a connection. */
  session(options: ClientSessionOptions = {}): Session {
    const owner = {};
    const link = this.#link(options.class ?? 'chat', owner, () => this.#sessions.delete(session));
    const session: Session = new Session(link, { ...options });
    this.#sessions.add(session);
    if (this.#connection.isUsable) session.connectionOpened();
    return session;
  }

  /** One answer to `messages`, without a session. */
  create(options: ClientCreateOptions): ResponseStream {
    const { signal, onToolCall: _, onState, supersede, offsets, sentences, states, logprobs, ...create } = options;
    const view = viewOf({ offsets, sentences, states, logprobs, onState });
    const watch = this.#watches.begin({ view, signal, supersede });
    const { response } = watch;
    listen(response, options);
    const send = async (): Promise<void> => {
      do {
        await this.#whenUsable();
        await this.#watches.whenSupersedable(watch);
      } while (!this.#connection.isUsable);
      this.#watches.create(watch, 0, create);
    };
    if (!response.isEnded) send().catch((error: Error) => this.#watches.fail(watch, error));
    return response;
  }

  /**
   * Watches a response that was begun elsewhere: by another client, over HTTP, or before this program was started
   * again. From its first event with only its id, or on from a position. Fails with `unknown_response` when there is no
   * such response, and with ConnectionLostError when what follows the position is gone.
   */
  watch(
    from: Partial<ResponsePosition> & Pick<ResponsePosition, 'response'>,
    options: WatchResponseOptions = {},
  ): ResponseStream {
    const { response: id, epoch = '', lastSeq = 0 } = from;
    const { onState, offsets, sentences, states, signal } = options;
    const logprobs = options.logprobs ? 0 : undefined;
    const view = { ...viewOf({ offsets, sentences, states, logprobs, onState }), offsets: true };
    const watch = this.#watches.begin({ view, signal, from: { response: id, epoch, lastSeq } });
    listen(watch.response, options);
    const send = async (): Promise<void> => {
      await this.#whenUsable();
      this.#watches.resume(watch);
    };
    if (!watch.response.isEnded) send().catch((error: Error) => this.#watches.fail(watch, error));
    return watch.response;
  }

  /** The sessions the server keeps for this caller. */
  async list({ signal }: WaitOptions = {}): Promise<SessionInfo[]> {
    for (;;) {
      await abortable(this.#whenUsable(), signal);
      try {
        const answer = await abortable(
          this.#request((requestId) => [Op.ListSessions, 0, requestId]),
          signal,
        );
        if (answer[0] === Op.Sessions) return answer[3];
        throw unexpected(answer);
      } catch (error) {
        if (!(error instanceof ConnectionLostError)) throw error;
      }
    }
  }

  /** Ends a pause between two attempts at once. */
  retryNow(): void {
    this.#connection.retryNow();
  }

  /** Closes the connection for good; running responses are cancelled on the server, waiting requests reject. */
  close(): void {
    this.#connection.close();
  }

  /** Fulfils when requests may be sent; rejects once the client is closed. */
  #whenUsable(): Promise<void> {
    if (this.#connection.isUsable) return Promise.resolve();
    if (this.state.state === 'closed') return Promise.reject(closedError(this.state));
    return new Promise((resolve, reject) => this.#openWaiters.push({ resolve, reject }));
  }

  /** What a session may do with this client. Its lane is taken when first used and given back by `release`. */
  #link(laneClass: LaneOptions['class'] & string, owner: object, forget: () => void): Link {
    let lane: number | null = null;
    const openLane = (): number => {
      if (lane === null) {
        lane = this.#freeLane();
        this.#lanes.set(lane, { class: laneClass });
        this.#connection.send([Op.OpenLane, lane, { class: laneClass }]);
      }
      return lane;
    };
    return {
      isUsable: () => this.#connection.isUsable,
      whenUsable: () => this.#whenUsable(),
      request: (build, id) => this.#request((requestId) => build(openLane(), requestId), id),
      start: (begin, options) => {
        const watch = this.#watches.begin({ owner, ...options });
        if (watch.response.isEnded) return watch.response;
        const send = (create: CreateOptions | Error): void => {
          try {
            if (create instanceof Error) throw create;
            this.#watches.create(watch, openLane(), create);
          } catch (error) {
            this.#watches.fail(watch, error as Error);
          }
        };
        begin(send, () => this.#watches.whenSupersedable(watch));
        return watch.response;
      },
      repeat: (session) => this.#watches.repeat(owner, session),
      abandon: (error) => this.#watches.abandon(owner, error),
      openSession: (options) => this.session({ class: laneClass, ...options }),
      release: () => {
        forget();
        if (lane === null) return;
        this.#lanes.delete(lane);
        this.#connection.send([Op.CloseLane, lane]);
        lane = null;
      },
    };
  }

  #freeLane(): number {
    const most = this.#welcome?.limits['lanesPerConnection'] ?? Limits.lanesPerConnection;
    for (let lane = 1; lane < most; lane++) if (!this.#lanes.has(lane)) return lane;
    throw new ServiceError('too_many_lanes', `this connection already has ${most} lanes: close a session first`);
  }

  /** Sends now; the promise rejects with ConnectionLostError when the connection drops before the answer. */
  #request(build: (requestId: string) => ClientMessage, requestId = randomId()): Promise<ServerMessage> {
    return new Promise((resolve, reject) => {
      if (!this.#connection.isUsable) {
        reject(this.state.state === 'closed' ? closedError(this.state) : new ConnectionLostError('not connected'));
        return;
      }
      const message = build(requestId);
      this.#requests.set(requestId, { resolve, reject });
      this.#connection.send(message);
    });
  }

  #stateChanged(state: ConnectionState): void {
    if (state.state === 'open') {
      this.#welcome = state.welcome;
      this.#learnModels(state.welcome.models);
      for (const waiter of this.#readyWaiters.splice(0)) waiter.resolve(state.welcome);
    } else if (state.state !== 'connecting') {
      const error = state.state === 'waiting' ? new ConnectionLostError(state.reason) : closedError(state);
      for (const waiter of this.#readyWaiters.splice(0)) waiter.reject(error);
      if (state.state === 'closed') {
        for (const waiter of this.#openWaiters.splice(0)) waiter.reject(error);
        for (const session of this.#sessions) session.connectionClosed(error);
        this.#watches.down(error, state.error === null);
      }
    }
    for (const listener of this.#listeners) listener(state);
  }

  /**
   * A new connection knows nothing of the old one's lanes: open them again, go on with what ran, then the sessions,
   * then let others go.
   */
  #opened(): void {
    for (const [lane, options] of this.#lanes) this.#connection.send([Op.OpenLane, lane, options]);
    this.#watches.reconnected();
    for (const session of this.#sessions) session.connectionOpened();
    for (const waiter of this.#openWaiters.splice(0)) waiter.resolve();
  }

  #learnModels(models: readonly ModelInfo[]): void {
    this.#models = models;
    for (const listener of this.#modelListeners) listener(models);
  }

  #wentDown(reason: string): void {
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const session of this.#sessions) session.connectionLost();
    const { state } = this;
    if (state.state !== 'closed') this.#watches.down(null, false);
    const error = state.state === 'closed' ? closedError(state) : new ConnectionLostError(reason);
    for (const request of requests) request.reject(error);
  }

  /** The one switch over what the server says. Welcome and goaway never come here: they are the connection's. */
  #received(message: ServerMessage): void {
    switch (message[0]) {
      case Op.SessionOpened:
      case Op.Sessions:
      case Op.SessionHistory:
      case Op.SessionClosed: {
        const request = this.#requests.get(message[2]);
        this.#requests.delete(message[2]);
        request?.resolve(message);
        return;
      }
      case Op.Error: {
        const [, lane, requestId, wire] = message;
        const error = errorFromWire(wire);
        if (this.#watches.refused(lane, requestId, error) || requestId === null) return;
        const request = this.#requests.get(requestId);
        this.#requests.delete(requestId);
        // It crossed the server's goaway: whoever asked asks again on the next connection.
        const isLeaving = error.code === 'shutting_down' && !this.#connection.isUsable;
        request?.reject(isLeaving ? new ConnectionLostError('the server is leaving') : error);
        return;
      }
      case Op.Models:
        this.#learnModels(message[2]);
        return;
      case Op.LaneOpened:
      case Op.LaneClosed:
      case Op.Pong:
      case Op.Welcome:
      case Op.Goaway:
        return;
      default:
        this.#watches.receive(message);
    }
  }
}

/** An answer of the wrong kind is the server's bug; say so instead of guessing. */
function unexpected(answer: ServerMessage): ServiceError {
  return new ServiceError('internal', `the server answered with op ${answer[0]}`);
}

function streamUrl(url: string): string {
  const parsed = new URL(url);
  if (parsed.protocol === 'http:') parsed.protocol = 'ws:';
  if (parsed.protocol === 'https:') parsed.protocol = 'wss:';
  if (parsed.protocol !== 'ws:' && parsed.protocol !== 'wss:') {
    throw new SyntaxError(`not a WebSocket address: ${url}`);
  }
  if (parsed.pathname === '/') parsed.pathname = '/v1/stream';
  parsed.hash = '';
  return parsed.href;
}
