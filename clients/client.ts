// The client: one connection, its lanes, the requests under way and the responses being watched. Holds the one
// switch over inbound ops. Sessions live in session.ts and use the `Link` handed to them, never the connection.
import { Limits } from '../protocol/constants.ts';
import { ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type {
  ClientMessage,
  CreateOptions,
  LaneOptions,
  ModelInfo,
  ServerMessage,
  SessionInfo,
  WelcomeInfo,
} from '../protocol/messages.ts';
import { Acks } from './acks.ts';
import { closedError, Connection } from './connection.ts';
import type { ConnectionState } from './connection.ts';
import { ConnectionLostError, errorFromWire } from './errors.ts';
import type { Link } from './link.ts';
import { randomId } from './random-id.ts';
import { ResponseStream } from './response.ts';
import type { ResponseFeed } from './response.ts';
import { Session } from './session.ts';
import type { ClientSessionOptions, SendOptions } from './session.ts';
import type { TransportFactory } from './transport.ts';
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
  /** Pause before the second attempt and the longest pause, milliseconds. Default 250 and 8,000. */
  retryFirstMs?: number;
  retryMaxMs?: number;
  /** Silence before the server is asked for a sign of life, and its time to give it. Default 15,000 and 10,000. */
  pingAfterMs?: number;
  pongTimeoutMs?: number;
  /** Longest time from dialling to the welcome. Default 10,000. */
  openTimeoutMs?: number;
}

/** A one-off response: the whole conversation in `messages`, kept by no session. */
export type ClientCreateOptions = Omit<CreateOptions, 'session'> & Pick<SendOptions, 'signal' | 'onToolCall'>;

interface PendingRequest {
  resolve(message: ServerMessage): void;
  reject(error: Error): void;
}

interface Watched {
  lane: number;
  feed: ResponseFeed;
  /** The create as it was sent: repeating it gives a handle for the same response on another connection. */
  create: { requestId: string; options: CreateOptions };
  /** Called when the server is done with it. */
  onDone: (() => void) | null;
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
  readonly #acks: Acks;
  readonly #listeners = new Set<(state: ConnectionState) => void>();
  readonly #sessions = new Set<Session>();
  /** Lanes in use with their options; 0 is the connection itself and is never opened. */
  readonly #lanes = new Map<number, LaneOptions>();
  readonly #requests = new Map<string, PendingRequest>();
  readonly #creating = new Map<string, Watched>();
  readonly #watched = new Map<number, Watched>();
  /** Responses cut off by a lost connection that may still run on the server, by their id. */
  readonly #lost = new Map<string, Watched>();
  #openWaiters: { resolve(): void; reject(error: Error): void }[] = [];
  #readyWaiters: { resolve(welcome: WelcomeInfo): void; reject(error: Error): void }[] = [];
  #welcome: WelcomeInfo | null = null;

  /** Use `connect`. */
  constructor(url: string, options: ConnectOptions) {
    if (options.onState !== undefined) this.#listeners.add(options.onState);
    this.#acks = new Acks((lane, handle, seq) => this.#connection.send([Op.Ack, lane, handle, seq]));
    this.#connection = new Connection(
      {
        url: streamUrl(url),
        ...(options.apiKey === undefined ? {} : { token: options.apiKey }),
        clientName: options.name ?? 'tokenwire-sdk',
        openTransport: options.transport ?? openWebSocket,
        retryFirstMs: options.retryFirstMs ?? 250,
        retryMaxMs: options.retryMaxMs ?? 8000,
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
  }

  get state(): ConnectionState {
    return this.#connection.state;
  }

  /** What the server said of itself at the last welcome; null before the first. */
  get welcome(): WelcomeInfo | null {
    return this.#welcome;
  }

  get models(): readonly ModelInfo[] {
    return this.#welcome?.models ?? [];
  }

  /** Calls the listener on every change from now on; returns a function that ends that. */
  onState(listener: (state: ConnectionState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Fulfils when the connection is open. Rejects when the attempt under way fails (the client goes on trying: wait
   * again, or close it) or the client is closed.
   */
  ready(): Promise<WelcomeInfo> {
    const { state } = this;
    if (state.state === 'open') return Promise.resolve(state.welcome);
    if (state.state === 'closed') return Promise.reject(closedError(state));
    return new Promise((resolve, reject) => this.#readyWaiters.push({ resolve, reject }));
  }

  /** A conversation on a lane of its own; opened at once, or as soon as there is a connection. */
  session(options: ClientSessionOptions = {}): Session {
    const session: Session = new Session(
      this.#link(options.class ?? 'chat', () => this.#sessions.delete(session)),
      {
        ...options,
      },
    );
    this.#sessions.add(session);
    if (this.#connection.isUsable) session.connectionOpened();
    return session;
  }

  /** One answer to `messages`, without a session. */
  create(options: ClientCreateOptions): ResponseStream {
    const { signal, onToolCall, ...create } = options;
    const response = this.#start(
      0,
      (send) => {
        this.#whenUsable().then(
          () => send(create),
          (error: Error) => send(error),
        );
      },
      signal,
    );
    response.onToolCall = onToolCall ?? null;
    return response;
  }

  /** The sessions the server keeps for this caller. */
  async list(): Promise<SessionInfo[]> {
    for (;;) {
      await this.#whenUsable();
      try {
        const answer = await this.#request((requestId) => [Op.ListSessions, 0, requestId]);
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
  #link(laneClass: LaneOptions['class'] & string, forget: () => void): Link {
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
      request: (build) => this.#request((requestId) => build(openLane(), requestId)),
      start: (begin, signal) => this.#start(openLane, begin, signal),
      endLost: async (active) => {
        await Promise.all(active.map((response) => this.#endLost(response, openLane())));
      },
      learnModel: (model) => {
        const isKnown = this.models.some(({ id, contextLength }) => id === model && contextLength > 0);
        if (!isKnown && this.#watched.size + this.#creating.size === 0) this.#connection.redial();
      },
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

  #endLost(response: string, lane: number): Promise<void> {
    const lost = this.#lost.get(response);
    this.#lost.delete(response);
    if (lost === undefined || !this.#connection.isUsable) return Promise.resolve();
    return new Promise((resolve) => {
      lost.lane = lane;
      lost.onDone = resolve;
      // The handle that this gives is cancelled by the response itself, since it has ended here.
      this.#creating.set(lost.create.requestId, lost);
      this.#connection.send([Op.Create, lane, lost.create.requestId, lost.create.options]);
    });
  }

  #freeLane(): number {
    const most = this.#welcome?.limits['lanesPerConnection'] ?? Limits.lanesPerConnection;
    for (let lane = 1; lane < most; lane++) if (!this.#lanes.has(lane)) return lane;
    throw new ServiceError('too_many_lanes', `this connection already has ${most} lanes: close a session first`);
  }

  /** Sends now; the promise rejects with ConnectionLostError when the connection drops before the answer. */
  #request(build: (requestId: string) => ClientMessage): Promise<ServerMessage> {
    return new Promise((resolve, reject) => {
      if (!this.#connection.isUsable) {
        reject(this.state.state === 'closed' ? closedError(this.state) : new ConnectionLostError('not connected'));
        return;
      }
      const requestId = randomId();
      const message = build(requestId);
      this.#requests.set(requestId, { resolve, reject });
      this.#connection.send(message);
    });
  }

  /** Makes a response whose create is sent when `begin` calls back with its options; an error fails it. */
  #start(
    lane: number | (() => number),
    begin: (send: (options: CreateOptions | Error) => void, feed: ResponseFeed) => void,
    signal?: AbortSignal,
  ): ResponseStream {
    let feed!: ResponseFeed;
    let watched: Watched | null = null;
    const response = new ResponseStream(
      (handle) => {
        if (handle !== null && watched !== null) this.#connection.send([Op.Cancel, watched.lane, handle]);
        else if (watched === null)
          feed.failed(new ConnectionLostError('cancelled before it was sent', { isLocal: true }));
      },
      (made) => {
        feed = made;
      },
      signal,
    );
    if (feed.isEnded()) return response;
    begin((options) => {
      if (feed.isEnded()) return;
      if (options instanceof Error) {
        feed.failed(options);
        return;
      }
      try {
        const requestId = randomId();
        const create = { requestId, options };
        watched = { lane: typeof lane === 'number' ? lane : lane(), feed, create, onDone: null };
        this.#creating.set(requestId, watched);
        this.#connection.send([Op.Create, watched.lane, requestId, options]);
      } catch (error) {
        feed.failed(error as Error);
      }
    }, feed);
    return response;
  }

  #stateChanged(state: ConnectionState): void {
    if (state.state === 'open') {
      this.#welcome = state.welcome;
      for (const waiter of this.#readyWaiters.splice(0)) waiter.resolve(state.welcome);
    } else if (state.state !== 'connecting') {
      const error = state.state === 'waiting' ? new ConnectionLostError(state.reason) : closedError(state);
      for (const waiter of this.#readyWaiters.splice(0)) waiter.reject(error);
      if (state.state === 'closed') {
        for (const waiter of this.#openWaiters.splice(0)) waiter.reject(error);
        for (const session of this.#sessions) session.connectionClosed(error);
      }
    }
    for (const listener of this.#listeners) listener(state);
  }

  /** A new connection knows nothing of the old one's lanes: open them again, then the sessions, then let others go. */
  #opened(): void {
    for (const [lane, options] of this.#lanes) this.#connection.send([Op.OpenLane, lane, options]);
    for (const session of this.#sessions) session.connectionOpened();
    for (const waiter of this.#openWaiters.splice(0)) waiter.resolve();
  }

  #wentDown(reason: string): void {
    this.#acks.reset();
    const isLocal = this.state.state === 'closed';
    const watched = [...this.#watched.values(), ...this.#creating.values()];
    const requests = [...this.#requests.values()];
    this.#watched.clear();
    this.#creating.clear();
    this.#requests.clear();
    for (const session of this.#sessions) session.connectionLost();
    const fatal = this.state.state === 'closed' ? this.state.error : null;
    this.#lost.clear();
    for (const lost of watched) {
      const { feed } = lost;
      const position = feed.position();
      if (position !== null) this.#lost.set(position.response, lost);
      lost.onDone?.();
      feed.failed(fatal ?? new ConnectionLostError(`the answer was cut off: ${reason}`, { position, isLocal }));
    }
    for (const request of requests) request.reject(fatal ?? new ConnectionLostError(reason, { isLocal }));
  }

  /** The one switch over what the server says. Welcome and goaway never come here: they are the connection's. */
  #received(message: ServerMessage): void {
    switch (message[0]) {
      case Op.Deltas:
        for (const [handle, seq, text] of message[2]) this.#event(handle, seq, (feed) => feed.text(seq, text));
        return;
      case Op.ToolBegin: {
        const [, , handle, seq, index, callId, name] = message;
        this.#event(handle, seq, (feed) => feed.toolBegin(seq, index, callId, name));
        return;
      }
      case Op.ToolDelta: {
        const [, , handle, seq, index, text] = message;
        this.#event(handle, seq, (feed) => feed.toolDelta(seq, index, text));
        return;
      }
      case Op.ToolEnd: {
        const [, , handle, seq, index] = message;
        this.#event(handle, seq, (feed) => feed.toolEnd(seq, index));
        return;
      }
      case Op.Created: {
        const [, , requestId, handle, response, epoch, session] = message;
        const watched = this.#creating.get(requestId);
        if (watched === undefined) return;
        this.#creating.delete(requestId);
        this.#watched.set(handle, watched);
        watched.feed.created(handle, response, epoch, session);
        return;
      }
      case Op.Done: {
        const [, , handle, seq, reason, usage, timings, error] = message;
        const watched = this.#watched.get(handle);
        if (watched === undefined) return;
        this.#watched.delete(handle);
        this.#acks.ended(watched.lane, handle, seq);
        watched.onDone?.();
        if (reason === 'error' || error !== null) {
          watched.feed.failed(
            errorFromWire(error ?? { code: 'internal', message: 'the answer failed', retryable: false }),
          );
        } else {
          watched.feed.done(seq, reason, usage, timings);
        }
        return;
      }
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
        const [, , requestId, wire] = message;
        if (requestId === null) return;
        const error = errorFromWire(wire);
        this.#requests.get(requestId)?.reject(error);
        this.#requests.delete(requestId);
        this.#creating.get(requestId)?.onDone?.();
        this.#creating.get(requestId)?.feed.failed(error);
        this.#creating.delete(requestId);
        return;
      }
      case Op.Cancelled:
      case Op.LaneOpened:
      case Op.LaneClosed:
      case Op.Pong:
      case Op.Welcome:
      case Op.Goaway:
        return;
    }
  }

  /** Handles the client no longer watches are ignored: their last events may still be on the way. */
  #event(handle: number, seq: number, apply: (feed: ResponseFeed) => boolean): void {
    const watched = this.#watched.get(handle);
    if (watched !== undefined && apply(watched.feed)) this.#acks.arrived(watched.lane, handle, seq);
  }
}

/** An answer of the wrong kind is the server's bug; say so instead of guessing. */
export function unexpected(answer: ServerMessage): ServiceError {
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
