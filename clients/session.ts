// One conversation. Opens itself on every new connection, and makes itself again from the local copy of its messages
// when the server no longer knows it (it was restarted, or the session was idle for too long). client.ts calls
// connectionOpened and connectionLost; what is sent leaves in the order of the calls.
import { ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type {
  ChatMessage,
  ClientMessage,
  CreateOptions,
  LatencyClass,
  ServerMessage,
  SessionInfo,
  SessionOptions,
} from '../protocol/messages.ts';
import { abortable } from './abortable.ts';
import type { WaitOptions } from './abortable.ts';
import { Conversation } from './conversation.ts';
import { ConnectionLostError } from './errors.ts';
import { readHistory } from './history.ts';
import type { Link } from './link.ts';
import { randomId } from './random-id.ts';
import { ResponseStream } from './response.ts';
import { listen, viewOf } from './send-options.ts';
import type { SendOptions } from './send-options.ts';

/** How a session came to be on this connection. */
export type SessionOrigin =
  /** Made new. */
  | 'new'
  /** The server knew it. */
  | 'kept'
  /** The server had forgotten it; made again under another id from the messages known here. */
  | 'recreated';

/**
 * With `session`, that session is opened again; the other fields then only serve to make it anew when the server has
 * forgotten it. Without `session`, they describe the new one.
 */
export interface ClientSessionOptions extends SessionOptions {
  /** Latency class of its lane. Default chat. */
  class?: LatencyClass;
  /** False: a session that the server has forgotten fails with `unknown_session` instead. Default true. */
  recreate?: boolean;
  /**
   * Called each time the session is ready on a new connection. `numDropped`: its oldest messages that are no longer part
   * of it, because a session can only be made again from what fits a frame (1 MiB, 4,096 messages); else 0.
   */
  onOpened?: (info: SessionInfo, origin: SessionOrigin, numDropped: number) => void;
  /** Called while the model is still loading, with a sentence that says how far it is; what was sent waits. */
  onLoading?: (message: string) => void;
}

/** When the server does not say when to ask again. */
const LOADING_RETRY_MS = 1000;

export class Session {
  readonly #link: Link;
  readonly #recreate: boolean;
  readonly #onOpened: ClientSessionOptions['onOpened'];
  readonly #onLoading: ((message: string) => void) | undefined;
  /** What a new session is made of, without its messages. */
  readonly #make: Omit<SessionOptions, 'session' | 'messages'>;
  readonly #conversation: Conversation;
  #info: SessionInfo | null = null;
  #id: string | null;
  /** Settles when opening succeeded or was refused; a lost connection leaves it pending for the next one. */
  #opening = pending();
  #phase: 'opening' | 'open' | 'refused' = 'opening';
  /** Sends one after the other, in the order they were asked for. */
  #order: Promise<unknown> = Promise.resolve();
  #isClosed = false;
  #mustRefresh: boolean;
  /** Answers asked for that have not ended here. */
  readonly #running = new Set<ResponseStream>();
  /** The request that makes it, until its answer came: repeated after a lost connection it makes no second session. */
  #makeId: string | null = null;
  /** Messages left out when it was made again, until `onOpened` has told. */
  #numDropped = 0;
  #loadingTimer: ReturnType<typeof setTimeout> | undefined;

  /** Use `client.session`. */
  constructor(link: Link, options: ClientSessionOptions) {
    const { session, messages, class: _class, recreate, onOpened, onLoading, ...make } = options;
    this.#link = link;
    this.#recreate = recreate ?? true;
    this.#onOpened = onOpened;
    this.#onLoading = onLoading;
    this.#make = make;
    this.#id = session ?? null;
    this.#conversation = new Conversation(messages?.slice() ?? (session === undefined ? [] : null));
    this.#mustRefresh = session !== undefined && messages === undefined;
  }

  /** The server's id; null until it is open for the first time, another one after `recreated`. */
  get id(): string | null {
    return this.#id;
  }

  /** As the server described it when it was last opened or rolled back. */
  get info(): SessionInfo | null {
    return this.#info;
  }

  /** The conversation as far as known here, without the answer under way. */
  get messages(): readonly ChatMessage[] {
    return this.#conversation.messages;
  }

  /** Turns that can be rolled back. The messages a session was made from belong to none. */
  get numTurns(): number {
    return this.#conversation.numTurns;
  }

  /** Fulfils when the session is open on the server; rejects when it cannot be. */
  ready({ signal }: WaitOptions = {}): Promise<SessionInfo> {
    return abortable(
      this.#inOrder(() => this.#info as SessionInfo),
      signal,
    );
  }

  /**
   * Sends a user message, or several messages (tool results), and returns the answer at once. While another answer of
   * this session runs, the server keeps it waiting (at most four, then `session_busy`).
   */
  send(input: string | ChatMessage[], options: SendOptions = {}): ResponseStream {
    const { signal, onToolCall: _, onState, supersede, offsets, sentences, states, logprobs, ...rest } = options;
    const { tools, toolChoice, parallelToolCalls, responseFormat, ...others } = rest;
    const { truncation, deadlineMs, class: latencyClass, ...sampling } = others;
    const messages: ChatMessage[] = typeof input === 'string' ? [{ role: 'user', content: input }] : input;
    const create: CreateOptions = { messages };
    if (tools !== undefined) create.tools = tools;
    if (toolChoice !== undefined) create.toolChoice = toolChoice;
    if (parallelToolCalls !== undefined) create.parallelToolCalls = parallelToolCalls;
    if (responseFormat !== undefined) create.responseFormat = responseFormat;
    if (truncation !== undefined) create.truncation = truncation;
    if (deadlineMs !== undefined) create.deadlineMs = deadlineMs;
    if (latencyClass !== undefined) create.class = latencyClass;
    if (Object.keys(sampling).length > 0) create.sampling = sampling;
    const response: ResponseStream = this.#link.start(
      (send, ready) => {
        const sent = this.#inOrder(() => send({ ...create, session: this.#id as string }), ready);
        sent.catch((error: Error) => send(error));
      },
      {
        supersede,
        signal,
        view: viewOf({ offsets, sentences, states, logprobs, onState }),
        onCreated: () => {
          const isOurs = supersede instanceof ResponseStream;
          const isKnown = isOurs
            ? this.#conversation.forget(supersede)
            : supersede === undefined || supersede === 'lane';
          // What only the server knows is asked for when the session opens again.
          if (!isKnown) this.#mustRefresh = true;
        },
        onHeard: (offset) => this.#conversation.cut(response, offset),
      },
    );
    listen(response, options);
    this.#running.add(response);
    response.finished.then(
      (finished) => {
        this.#running.delete(response);
        this.#conversation.remember(messages, finished, response);
      },
      (error: unknown) => {
        this.#running.delete(response);
        // Whether the server kept a part of it is unknown: ask when the session opens again.
        if (error instanceof ConnectionLostError) this.#mustRefresh = true;
      },
    );
    return response;
  }

  /** The conversation as the server keeps it. */
  async history(options: WaitOptions = {}): Promise<ChatMessage[]> {
    const messages = await readHistory((start) =>
      this.#ask((lane, requestId, session) => [Op.History, lane, requestId, session, start], options),
    );
    this.#conversation.replace(messages, this.#running);
    return messages;
  }

  /** Learns anew what the server keeps: after another program, or this one before a restart, has used the session. */
  async refresh(options: WaitOptions = {}): Promise<ChatMessage[]> {
    const answer = await this.#ask(
      (lane, requestId, session) => [Op.OpenSession, lane, requestId, { session }],
      options,
    );
    if (answer[0] !== Op.SessionOpened) throw wrongAnswer(answer);
    this.#know(answer[3], this.#running.size === 0);
    return this.history(options);
  }

  /**
   * Keeps the first `numTurns` turns (a turn is what one `send` sent, with its answer) and forgets the later ones.
   * Fails with `session_busy` while an answer runs and with `invalid_request` when there are fewer turns.
   */
  async rollback(numTurns: number, options: WaitOptions = {}): Promise<SessionInfo> {
    const answer = await this.#ask(
      (lane, requestId, session) => [Op.Rollback, lane, requestId, session, numTurns],
      options,
    );
    if (answer[0] !== Op.SessionOpened) throw wrongAnswer(answer);
    this.#conversation.replace(this.#conversation.withoutLast(this.numTurns - answer[3].numTurns));
    this.#know(answer[3]);
    return answer[3];
  }

  /** A new session that begins with the first `numTurns` turns of this one. */
  async fork(numTurns: number, options: WaitOptions = {}): Promise<Session> {
    const answer = await this.#ask(
      (lane, requestId, session) => [Op.Fork, lane, requestId, session, numTurns],
      options,
    );
    if (answer[0] !== Op.SessionOpened) throw wrongAnswer(answer);
    return this.#link.openSession({
      ...this.#make,
      session: answer[3].session,
      messages: this.#conversation.withoutLast(this.numTurns - numTurns),
      recreate: this.#recreate,
    });
  }

  /** Ends the session on the server, history included, and gives its lane back. */
  async close(options: WaitOptions = {}): Promise<void> {
    if (this.#isClosed) return;
    try {
      await this.#ask((lane, requestId, session) => [Op.CloseSession, lane, requestId, session], options);
    } catch (error) {
      // Gone is what was asked for.
      if (!(error instanceof ServiceError && error.code === 'unknown_session')) throw error;
    } finally {
      this.leave();
    }
  }

  /** Gives the lane back but lets the server keep the session: open it again later by its id. */
  leave(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#loadingTimer);
    this.#link.release();
  }

  /** For the client only: a connection is there, open the session on it. */
  connectionOpened(): void {
    this.#renew();
    const opening = this.#opening;
    this.#open().then(
      () => {
        this.#phase = 'open';
        this.#link.repeat(this.#id as string);
        opening.resolve();
      },
      (error: Error) => {
        // Lost on the way: the next connection tries again, and whoever waits goes on waiting.
        if (error instanceof ConnectionLostError && !error.isLocal) return;
        if (error instanceof ServiceError && error.code === 'model_loading') this.#waitForModel(error);
        else this.connectionClosed(error);
      },
    );
  }

  /** For the client only: whatever wants to be sent must wait for the next connection. */
  connectionLost(): void {
    this.#renew();
  }

  /** For the client only: there will be no other connection. */
  connectionClosed(error: Error): void {
    this.#renew();
    this.#phase = 'refused';
    this.#link.abandon(error);
    this.#opening.reject(error);
  }

  #know(info: SessionInfo, takesTurns = true): void {
    this.#info = info;
    this.#id = info.session;
    if (takesTurns) this.#conversation.numTurns = info.numTurns;
  }

  #waitForModel(error: ServiceError): void {
    this.#onLoading?.(error.message);
    this.#loadingTimer = setTimeout(() => this.connectionOpened(), error.retryAfterMs ?? LOADING_RETRY_MS);
  }

  #renew(): void {
    clearTimeout(this.#loadingTimer);
    if (this.#phase === 'opening') return;
    this.#phase = 'opening';
    this.#opening = pending();
  }

  async #open(): Promise<void> {
    let origin: SessionOrigin = this.#id === null ? 'new' : 'kept';
    let answer: ServerMessage;
    const open = (options: SessionOptions, id?: string): Promise<ServerMessage> =>
      this.#link.request((lane, requestId) => [Op.OpenSession, lane, requestId, options], id);
    const make = (): Promise<ServerMessage> => {
      this.#makeId ??= randomId();
      return open({ ...this.#make, ...this.#conversation.asOptions(this.#make.system) }, this.#makeId);
    };
    try {
      answer = await (this.#id === null ? make() : open({ session: this.#id }));
    } catch (error) {
      const isForgotten = error instanceof ServiceError && error.code === 'unknown_session' && this.#id !== null;
      if (!isForgotten || !this.#recreate) throw error;
      origin = 'recreated';
      this.#numDropped += this.#conversation.shrinkToFrame(this.#make);
      answer = await make();
    }
    if (answer[0] !== Op.SessionOpened) throw wrongAnswer(answer);
    this.#makeId = null;
    // Answers under way may have ended there and not here yet: then the count here is the one to go on from.
    const isFirst = this.#info === null || origin !== 'kept';
    const takesAll = isFirst || (this.#mustRefresh && this.#running.size === 0);
    this.#know(answer[3], takesAll);
    if (origin === 'kept' && takesAll && this.#mustRefresh && this.#recreate) {
      const { session } = answer[3];
      const messages = await readHistory((start) =>
        this.#link.request((lane, requestId) => [Op.History, lane, requestId, session, start]),
      );
      this.#conversation.replace(messages, this.#running);
    }
    if (takesAll) this.#mustRefresh = false;
    this.#onOpened?.(answer[3], origin, this.#numDropped);
    this.#numDropped = 0;
  }

  /**
   * Runs `send` when the session is open and `ready` has fulfilled, after everything asked for before. `send` must not
   * wait for answers.
   */
  #inOrder<T>(send: () => T, ready?: () => Promise<void>): Promise<T> {
    const turn = this.#order.then(async () => {
      for (;;) {
        if (this.#isClosed) throw new ServiceError('unknown_session', 'this session was closed');
        await this.#link.whenUsable();
        if (this.#phase === 'refused') this.connectionOpened();
        await this.#opening.promise;
        if (ready !== undefined) await ready();
        if (this.#link.isUsable() && this.#phase === 'open') return send();
      }
    });
    this.#order = turn.catch(() => {});
    return turn;
  }

  /** A request that may be repeated: after a lost connection it is sent again on the next one, with the same id. */
  async #ask(
    build: (lane: number, requestId: string, session: string) => ClientMessage,
    { signal }: WaitOptions,
  ): Promise<ServerMessage> {
    const id = randomId();
    for (;;) {
      const sending = this.#inOrder(() => {
        signal?.throwIfAborted();
        return { answer: this.#link.request((lane, requestId) => build(lane, requestId, this.#id as string), id) };
      });
      const sent = await abortable(sending, signal);
      try {
        return await abortable(sent.answer, signal);
      } catch (error) {
        if (!(error instanceof ConnectionLostError) || error.isLocal) throw error;
      }
    }
  }
}

/** A refusal that nobody waits for is no unhandled rejection. */
function pending(): PromiseWithResolvers<void> {
  const resolvers = Promise.withResolvers<void>();
  resolvers.promise.catch(() => {});
  return resolvers;
}

function wrongAnswer(answer: ServerMessage): ServiceError {
  return new ServiceError('internal', `the server answered with op ${answer[0]}`);
}
