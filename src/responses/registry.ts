// All responses of this process: running ones, and ended ones while they may still be read. Dialects and sessions
// create here; engines call `publish` at the end of each step. One publish tells every subscriber of every response
// that changed, once, and then lets the outboxes flush, so a socket gets one frame per step whatever it watches.
import { ServiceError } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';
import { Limits } from '../../protocol/constants.ts';
import type { ToolDefinition } from '../../protocol/messages.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import type { Caller } from '../auth/caller.ts';
import type { Engine } from '../engine/types.ts';
import { Response } from './response.ts';
import type { ResponseHooks, ResponseOptions } from './response.ts';

/** Where metrics listen. Times in milliseconds. */
export interface ResponseObserver {
  onToken?(response: Response, gapMs: number | null): void;
  /** `afterMs`: how long it had been parked when it goes on; null when it is set aside. */
  onParked?(response: Response, afterMs: number | null): void;
  onEnded?(response: Response): void;
}

export interface ResponsesOptions {
  /** Epoch milliseconds with fraction, comparable with the workers' clock. */
  now?: () => number;
  retentionMs?: number;
  logMemoryBytes?: number;
  parkTimeoutMs?: number;
  observer?: ResponseObserver;
  /** A subscriber threw and was detached; the others were served. Default: rethrown outside this call. */
  onSubscriberError?: (error: unknown) => void;
}

export interface CreateResponse extends Omit<ResponseOptions, 'toolNames'> {
  tools: ToolDefinition[];
  /** Name of this request, unique over all callers: `byRequest` finds the response by it while it is retained. */
  requestKey?: string | undefined;
  /** False: gone as soon as it has ended. Its readers still get everything. */
  isKept?: boolean | undefined;
  /** It can no longer be read by anyone who comes now. */
  onForgotten?: (() => void) | undefined;
}

export class Responses {
  readonly #now: () => number;
  readonly #retentionMs: number;
  readonly #logMemoryBytes: number;
  readonly #parkTimeoutMs: number;
  readonly #observer: ResponseObserver;
  readonly #onSubscriberError: (error: unknown) => void;
  readonly #hooks: ResponseHooks;
  readonly #all = new Map<string, Response>();
  /** Not ended, in the order of creation. */
  readonly #active = new Set<Response>();
  readonly #byRequest = new Map<string, Response>();
  readonly #requestKeys = new Map<Response, string>();
  /** Forgotten when they end: created so, or removed while running. */
  readonly #unkept = new WeakSet<Response>();
  readonly #removed = new WeakSet<Response>();
  readonly #onForgotten = new WeakMap<Response, () => void>();
  /** In the order they ended, with the bytes counted for each. */
  readonly #ended = new Map<Response, number>();
  #endedBytes = 0;
  #touched = new Set<Response>();
  readonly #afterPublish = new Set<() => void>();
  #isPublishQueued = false;
  #isCollected = false;

  constructor(options: ResponsesOptions = {}) {
    this.#now = options.now ?? (() => performance.timeOrigin + performance.now());
    this.#retentionMs = options.retentionMs ?? Limits.responseRetentionMs;
    this.#logMemoryBytes = options.logMemoryBytes ?? Limits.logMemoryBytes;
    this.#parkTimeoutMs = options.parkTimeoutMs ?? Limits.parkTimeoutMs;
    this.#observer = options.observer ?? {};
    this.#onSubscriberError =
      options.onSubscriberError ??
      ((error) => {
        queueMicrotask(() => {
          throw error;
        });
      });
    this.#hooks = {
      now: this.#now,
      touched: (response, atOnce) => {
        this.#touched.add(response);
        if (atOnce) this.#queuePublish();
      },
      token: (response, gapMs) => this.#observer.onToken?.(response, gapMs),
      parked: (response, afterMs) => this.#observer.onParked?.(response, afterMs),
      ended: (response) => this.#retain(response),
    };
  }

  /** Responses not ended yet. */
  get active(): number {
    return this.#active.size;
  }

  /** Ended responses that can still be read, and their estimated memory. */
  get retained(): { count: number; bytes: number } {
    return { count: this.#ended.size, bytes: this.#endedBytes };
  }

  /** Creates a response and hands it to the engine. Throws what `Engine.submit` throws; nothing is kept then. */
  create(engine: Engine, caller: Caller, options: CreateResponse & { prompt: PromptInput }): Response {
    return this.createWith(engine, caller, options, (response) => response.start(options.prompt));
  }

  /**
   * As `create`, for `count` answers to one prompt; all share the options, the first has the request key. Returns the
   * first, whose `choices` are all of them.
   */
  createChoices(
    engine: Engine,
    caller: Caller,
    options: CreateResponse & { prompt: PromptInput },
    count: number,
  ): Response {
    const others: Response[] = [];
    try {
      return this.createWith(engine, caller, options, (first) => {
        // Kept and counted once, with the first.
        const alone = { requestKey: undefined, onForgotten: undefined, input: undefined, extraBytes: undefined };
        const shared = { ...options, ...alone };
        while (others.length < count - 1) others.push(this.createWith(engine, caller, shared, () => {}));
        first.start(options.prompt, others);
      });
    } catch (error) {
      for (const response of others) this.#discard(response);
      throw error;
    }
  }

  /**
   * As `create`, but `begin` decides when to call `response.start`: in a session the prompt is known only when the
   * turn comes. When `begin` throws, nothing is kept.
   */
  createWith(engine: Engine, caller: Caller, options: CreateResponse, begin: (response: Response) => void): Response {
    this.#evict();
    const { session, class: latencyClass, grammar, sampling, logprobs, deadlineMs } = options;
    const { conversation, cancelsUnwatched } = options;
    const response = new Response(
      engine,
      caller,
      {
        session,
        class: latencyClass,
        sampling,
        logprobs,
        deadlineMs,
        toolNames: options.tools.map((tool) => tool.name),
        grammar,
        conversation,
        cancelsUnwatched,
        input: options.input,
        extraBytes: options.extraBytes,
      },
      this.#hooks,
    );
    this.#all.set(response.id, response);
    this.#active.add(response);
    try {
      begin(response);
    } catch (error) {
      this.#discard(response);
      throw error;
    }
    if (options.isKept === false) this.#unkept.add(response);
    if (options.onForgotten) this.#onForgotten.set(response, options.onForgotten);
    if (options.requestKey !== undefined) {
      this.#byRequest.set(options.requestKey, response);
      this.#requestKeys.set(response, options.requestKey);
    }
    return response;
  }

  /** The response with this id if it is running or retained and belongs to the caller's tenant. */
  get(id: string, caller: Caller): Response | undefined {
    this.#evict();
    const response = this.#all.get(id);
    if (response === undefined || this.#removed.has(response)) return undefined;
    return response.caller.tenant === caller.tenant ? response : undefined;
  }

  /** Nobody can read it from now on, who does not already. One that still runs is cancelled. */
  remove(response: Response): void {
    if (response.isEnded) return this.#forget(response);
    this.#removed.add(response);
    this.#unkept.add(response);
    response.cancel();
  }

  /** The response that an earlier create with this key made, if it can still be read. */
  byRequest(requestKey: string): Response | undefined {
    this.#evict();
    const response = this.#byRequest.get(requestKey);
    return response === undefined || this.#removed.has(response) ? undefined : response;
  }

  /** The engine has collected the events that are being published: they should not be collected once more. */
  get isCollected(): boolean {
    return this.#isCollected;
  }

  /** Tells the subscribers of everything that changed since the last call, then flushes the outboxes. */
  publish(isCollected = false): void {
    this.#isCollected = isCollected;
    const touched = this.#touched;
    this.#touched = new Set();
    for (const response of touched) {
      for (const subscriber of response.subscribers) {
        // One broken subscriber must not cost the others of this step their tokens.
        try {
          subscriber.notify(response);
        } catch (error) {
          response.unsubscribe(subscriber);
          this.#onSubscriberError(error);
        }
      }
    }
    // After all were told: a reader that takes everything at once is not behind.
    for (const flush of this.#afterPublish) flush();
    for (const response of touched) response.reviewParking();
    this.#isCollected = false;
  }

  /** Calls back after each publish. Returns the function that ends it. */
  onPublished(callback: () => void): () => void {
    this.#afterPublish.add(callback);
    return () => void this.#afterPublish.delete(callback);
  }

  /**
   * About how many requests are before each one that waits: those of its engine that came earlier and wait too, and
   * those of its session. The engine prefers some classes and tenants, so a later one may overtake.
   */
  queuePositions(): Map<Response, number> {
    const positions = new Map<Response, number>();
    const waiting = new Map<string, number>();
    const inSession = new Map<string, number>();
    for (const response of this.#active) {
      const { model, sessionId } = response;
      const before = waiting.get(model) ?? 0;
      const beforeInSession = sessionId === null ? 0 : (inSession.get(sessionId) ?? 0);
      if (sessionId !== null) inSession.set(sessionId, beforeInSession + 1);
      if (response.state.kind !== 'queued') continue;
      positions.set(response, response.isSubmitted ? before : before + beforeInSession);
      if (response.isSubmitted) waiting.set(model, before + 1);
    }
    return positions;
  }

  /** Cancels what has been parked too long: nobody reads it. Call it every second or so. */
  tick(): void {
    const oldest = this.#now() - this.#parkTimeoutMs;
    for (const response of this.#active) {
      if (response.state.kind === 'parked' && response.state.sinceMs <= oldest) response.cancel();
    }
  }

  /** Ends everything still running with this error (drain: `shutting_down`); resolves when all have ended. */
  async cancelAll(code: ErrorCode, message: string): Promise<void> {
    const running = [...this.#active];
    for (const response of running) response.fail(new ServiceError(code, message));
    await Promise.all(running.map((response) => response.ended));
  }

  /** It never came to be. */
  #discard(response: Response): void {
    this.#all.delete(response.id);
    this.#active.delete(response);
  }

  #queuePublish(): void {
    if (this.#isPublishQueued) return;
    this.#isPublishQueued = true;
    queueMicrotask(() => {
      this.#isPublishQueued = false;
      this.publish();
    });
  }

  #retain(response: Response): void {
    this.#active.delete(response);
    this.#ended.set(response, response.bytes);
    this.#endedBytes += response.bytes;
    this.#observer.onEnded?.(response);
    if (this.#unkept.has(response)) this.#forget(response);
    this.#evict();
  }

  #evict(): void {
    const now = this.#now();
    for (const response of this.#ended.keys()) {
      const { sinceMs } = response.state;
      if (this.#endedBytes <= this.#logMemoryBytes && sinceMs > now - this.#retentionMs) return;
      // Who still reads it gets some time; a reader that needs more would keep the memory that eviction is to free.
      if (response.numSubscribers > 0 && sinceMs > now - Limits.graceMs) continue;
      this.#forget(response);
      if (response.numSubscribers === 0) continue;
      // Not within the caller's work: it may be about to use the connection that ends now.
      queueMicrotask(() => {
        for (const subscriber of response.subscribers) subscriber.onEvicted?.(response);
      });
    }
  }

  #forget(response: Response): void {
    if (!this.#all.delete(response.id)) return;
    this.#onForgotten.get(response)?.();
    this.#endedBytes -= this.#ended.get(response) ?? 0;
    this.#ended.delete(response);
    const key = this.#requestKeys.get(response);
    if (key === undefined) return;
    this.#requestKeys.delete(response);
    if (this.#byRequest.get(key) === response) this.#byRequest.delete(key);
  }
}
