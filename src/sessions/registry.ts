// All sessions, by tenant, and the one way to create a response from a native or HTTP request: in a session or as a
// one-off, idempotent by requestId. A session of another tenant is answered exactly like one that does not exist.
// Sessions idle for 24 h close; at the limits of number or memory the longest idle one of the biggest tenant goes.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import type { ChatMessage, CreateOptions, LatencyClass, SessionInfo, SessionOptions } from '../../protocol/messages.ts';
import { resolveSampling } from '../../protocol/sampling.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import type { Caller } from '../auth/caller.ts';
import { nativeForm } from '../dialects/structure.ts';
import type { Engine } from '../engine/types.ts';
import type { Responses } from '../responses/registry.ts';
import type { Response } from '../responses/response.ts';
import { historyPage } from './history-page.ts';
import type { HistoryPage } from './history-page.ts';
import { Session } from './session.ts';
import type { SessionSetup } from './session.ts';
import { messageBytes } from './turn.ts';

/** The engine that serves a model name or alias (absent: the default model). Throws `unknown_model`. */
export type EngineFor = (model: string | undefined) => Engine;

/** Where a create comes from. */
export interface CreateOrigin {
  /** Name of the connection or client instance: requestIds of one-offs are chosen there. */
  origin: string;
  /** Class when the options name none. */
  class: LatencyClass;
  /** What `supersede` names there. Throws `unknown_response`. Needed only with that option. */
  named?: (supersede: number | string) => Response[];
}

/** Which request makes a session, so that its repetition is known. */
export interface SessionRequest {
  /** The client instance that chose the requestId. */
  origin: string;
  requestId: string;
}

export interface SessionsOptions {
  now?: () => number;
  maxSessions?: number;
  memoryBytes?: number;
  idleMs?: number;
}

export class Sessions {
  readonly #responses: Responses;
  readonly #engineFor: EngineFor;
  readonly #now: () => number;
  readonly #maxSessions: number;
  readonly #memoryBytes: number;
  readonly #idleMs: number;
  /** In the order of last use, longest idle first. */
  readonly #sessions = new Map<string, Session>();
  /** By the request that made them, as long as they are kept: so there are never more keys than sessions. */
  readonly #byRequest = new Map<string, Session>();
  #bytes = 0;

  constructor(responses: Responses, engineFor: EngineFor, options: SessionsOptions = {}) {
    this.#responses = responses;
    this.#engineFor = engineFor;
    this.#now = options.now ?? Date.now;
    this.#maxSessions = options.maxSessions ?? Limits.sessions;
    this.#memoryBytes = options.memoryBytes ?? Limits.sessionMemoryBytes;
    this.#idleMs = options.idleMs ?? Limits.sessionIdleMs;
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Estimated memory of messages and token ids of all sessions. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Opens a new session, or the one named in the options, or the one that the same `request` has opened before.
   * Throws `unknown_session`, `unknown_model`, `overloaded`.
   */
  open(caller: Caller, options: SessionOptions, request?: SessionRequest): SessionInfo {
    if (options.session !== undefined) return this.get(options.session, caller).info;
    const requestKey = sessionKey(caller, 'open', request);
    const known = this.#made(requestKey);
    if (known !== undefined) return known.info;
    const system: ChatMessage[] = options.system === undefined ? [] : [{ role: 'system', content: options.system }];
    return this.#add({
      tenant: caller.tenant,
      engine: this.#engineFor(options.model),
      createdAtMs: Math.floor(this.#now()),
      tools: options.tools ?? [],
      sampling: options.sampling ?? {},
      truncation: options.truncation ?? 'auto',
      head: [...system, ...(options.messages ?? [])],
      turns: [],
      requestKey,
    }).info;
  }

  /** Throws `unknown_session`, also for another tenant's. Counts as use. */
  get(id: string, caller: Caller): Session {
    this.sweep();
    const session = this.#sessions.get(id);
    if (session === undefined || session.tenant !== caller.tenant) {
      throw new ServiceError('unknown_session', 'No such session; it may have expired.', { param: 'session' });
    }
    this.#touch(session);
    return session;
  }

  /** The caller's sessions, last used first. */
  list(caller: Caller): SessionInfo[] {
    this.sweep();
    const own = [...this.#sessions.values()].filter((session) => session.tenant === caller.tenant);
    return own.toReversed().map((session) => session.info);
  }

  /** A page of the session's messages, from number `start` on. */
  history(caller: Caller, id: string, start?: number, count?: number): HistoryPage {
    return historyPage(this.get(id, caller).messages, start, count);
  }

  rollback(caller: Caller, id: string, numTurns: number): SessionInfo {
    const session = this.get(id, caller);
    session.rollback(numTurns);
    return session.info;
  }

  /** A new session with the first turns of another, or the one that the same `request` has made before. */
  fork(caller: Caller, id: string, numTurns: number, request?: SessionRequest): SessionInfo {
    const requestKey = sessionKey(caller, 'fork', request);
    const known = this.#made(requestKey);
    if (known !== undefined) return known.info;
    const setup = this.get(id, caller).forkSetup(numTurns, Math.floor(this.#now()));
    return this.#add({ ...setup, requestKey }).info;
  }

  close(caller: Caller, id: string): void {
    this.#remove(this.get(id, caller));
  }

  /**
   * Creates the response of a turn or a one-off. The same requestId again, in the same session (a one-off: from the
   * same `origin`), gives the response of the first time while it is retained. With `supersede`, the responses named
   * are cancelled first; a create refused here has cancelled nothing, and what fails later fails the new response.
   */
  create(caller: Caller, requestId: string, options: CreateOptions, from: CreateOrigin): Response {
    const session = options.session === undefined ? null : this.get(options.session, caller);
    const requestKey = JSON.stringify([caller.tenant, session?.id ?? from.origin, requestId]);
    const known = this.#responses.byRequest(requestKey);
    if (known !== undefined) return known;
    const fields = {
      requestKey,
      session: session?.id ?? null,
      class: options.class ?? from.class,
      sampling: resolveSampling(session?.sampling, options.sampling),
      logprobs: options.logprobs,
      deadlineMs: options.deadlineMs,
      input: options.messages,
      extraBytes: messageBytes(options.messages),
    };
    const replaced = options.supersede === undefined ? [] : (from.named?.(options.supersede) ?? []);
    const tools = [...(options.tools ?? session?.tools ?? [])];
    const common = { ...fields, tools, grammar: nativeForm(options, tools) };
    if (session === null) {
      const { messages, truncation = 'auto' } = options;
      if (messages.length === 0) {
        throw new ServiceError('invalid_request', 'messages must not be empty.', { param: 'messages' });
      }
      const prompt = { kind: 'chat' as const, messages, tools, history: null, truncation };
      const engine = this.#engineFor(options.model);
      if (options.supersede === undefined) return this.#responses.create(engine, caller, { ...common, prompt });
      this.#replace(replaced);
      return this.#responses.createWith(engine, caller, common, (response) => startAfter(replaced, response, prompt));
    }
    assertTurn(session, options, this.#engineFor);
    session.assertRoom(replaced);
    this.#replace(replaced);
    const truncation = options.truncation ?? session.truncation;
    const request = { messages: options.messages, tools, truncation };
    return this.#responses.createWith(session.engine, caller, common, (response) => {
      if (options.supersede === undefined) session.run(response, request);
      else orFail(response, () => session.run(response, request));
    });
  }

  /** The user took in the response's text only up to `offset`; see Session.hear. Nothing to do without a session. */
  hear(response: Response, offset: number): void {
    if (offset > response.log.textLength) {
      const message = `heard must be an offset in the ${response.log.textLength} units of text there are.`;
      throw new ServiceError('invalid_request', message, { param: 'heard' });
    }
    this.#sessionOf(response)?.hear(response, offset);
  }

  /**
   * The conversation that a response with `input` was made from, the newest message last; a one-off has no more than
   * its own. Throws what Session.inputOf throws, and `unknown_session` when the session is closed. Is no use of it.
   */
  inputOf(response: Response): readonly ChatMessage[] {
    if (response.sessionId === null) return response.input ?? [];
    const session = this.#sessionOf(response);
    if (session !== undefined) return session.inputOf(response);
    const message = `The session of response ${response.id} is closed, and its conversation with it.`;
    throw new ServiceError('unknown_session', message);
  }

  #sessionOf({ sessionId }: Response): Session | undefined {
    return sessionId === null ? undefined : this.#sessions.get(sessionId);
  }

  /** All or nothing: what may not be replaced is found before the first is cancelled. */
  #replace(replaced: readonly Response[]): void {
    for (const response of replaced) this.#sessionOf(response)?.assertReplaceable(response, replaced);
    for (const response of replaced) {
      const session = this.#sessionOf(response);
      if (session === undefined) response.cancel();
      else session.replace(response);
    }
  }

  /** Closes what has been idle too long. Called on every use; a timer may call it too. */
  sweep(): void {
    const oldest = this.#now() - this.#idleMs;
    for (const session of this.#sessions.values()) {
      if (session.lastUsedMs > oldest) return;
      if (session.isBusy) this.#touch(session);
      else this.#remove(session);
    }
  }

  /** The session that this request has made, if it is still kept. Counts as use. */
  #made(requestKey: string | undefined): Session | undefined {
    if (requestKey === undefined) return undefined;
    this.sweep();
    const session = this.#byRequest.get(requestKey);
    if (session !== undefined) this.#touch(session);
    return session;
  }

  #add(setup: SessionSetup): Session {
    this.sweep();
    const session = new Session(setup, (changed, addedBytes) => this.#changed(changed, addedBytes));
    if (session.bytes > this.#memoryBytes) {
      throw new ServiceError('too_large', 'The messages are larger than the memory for all sessions.');
    }
    this.#sessions.set(session.id, session);
    if (session.requestKey !== undefined) this.#byRequest.set(session.requestKey, session);
    this.#bytes += session.bytes;
    this.#makeRoom(session);
    if (this.#sessions.size > this.#maxSessions || this.#bytes > this.#memoryBytes) {
      this.#remove(session);
      throw new ServiceError('overloaded', 'Too many sessions are busy; try again later.', { retryAfterMs: 1000 });
    }
    return session;
  }

  #changed(session: Session, addedBytes: number): void {
    if (!this.#sessions.has(session.id)) return;
    this.#bytes += addedBytes;
    this.#touch(session);
    this.#makeRoom(session);
  }

  #touch(session: Session): void {
    session.lastUsedMs = this.#now();
    this.#sessions.delete(session.id);
    this.#sessions.set(session.id, session);
  }

  /**
   * Closes idle sessions other than `keep` until the limits hold, as far as that goes. The tenant that uses most
   * pays, so that nobody can push another's conversations out by opening many.
   */
  #makeRoom(keep: Session): void {
    while (this.#sessions.size > this.#maxSessions || this.#bytes > this.#memoryBytes) {
      const byCount = this.#sessions.size > this.#maxSessions;
      const use = new Map<string, number>();
      const longestIdle = new Map<string, Session>();
      for (const session of this.#sessions.values()) {
        const { tenant } = session;
        use.set(tenant, (use.get(tenant) ?? 0) + (byCount ? 1 : session.bytes));
        if (session !== keep && !session.isBusy && !longestIdle.has(tenant)) longestIdle.set(tenant, session);
      }
      const tenants = [...longestIdle.keys()].sort((a, b) => (use.get(b) ?? 0) - (use.get(a) ?? 0));
      const victim = tenants[0] === undefined ? undefined : longestIdle.get(tenants[0]);
      if (victim === undefined) return;
      this.#remove(victim);
    }
  }

  #remove(session: Session): void {
    if (this.#sessions.delete(session.id)) this.#bytes -= session.bytes;
    if (session.requestKey !== undefined) this.#byRequest.delete(session.requestKey);
    session.close();
  }
}

/** Only of the same caller, client instance and kind of request. */
function sessionKey(caller: Caller, kind: 'open' | 'fork', request: SessionRequest | undefined): string | undefined {
  return request && JSON.stringify([caller.tenant, request.origin, kind, request.requestId]);
}

/** Failing to start ends the response: what it replaces was cancelled already. */
function orFail(response: Response, start: () => void): void {
  try {
    start();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    response.fail(error);
  }
}

/** What a one-off waits for before it starts: so does the one that replaces it while it waits. */
const waitsFor = new WeakMap<Response, readonly Response[]>();

/** Starts when the replaced ones have ended, within a step: then their KV memory is there to be continued from. */
function startAfter(replaced: readonly Response[], response: Response, prompt: PromptInput): void {
  const ending = replaced.flatMap((old) => [old, ...(waitsFor.get(old) ?? [])]).filter((old) => !old.isEnded);
  waitsFor.set(response, ending);
  const start = (): void => {
    if (!response.isEnded) orFail(response, () => response.start(prompt));
  };
  if (ending.length === 0) start();
  else void Promise.all(ending.map((old) => old.ended)).then(start);
}

/** Throws `invalid_request` when the options do not fit a turn of this session. */
function assertTurn(session: Session, options: CreateOptions, engineFor: EngineFor): void {
  if (options.model !== undefined && engineFor(options.model).model.id !== session.engine.model.id) {
    const message = `This session uses model ${session.engine.model.id}; open another one to change it.`;
    throw new ServiceError('invalid_request', message, { param: 'model' });
  }
  const isTurn = options.messages.every((message) => message.role === 'user' || message.role === 'tool');
  if (options.messages.length === 0 || !isTurn) {
    const message = 'A turn has at least one message, each of role user or tool; the session keeps the others.';
    throw new ServiceError('invalid_request', message, { param: 'messages' });
  }
}
