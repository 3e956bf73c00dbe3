// All responses of this process: running ones, and ended ones while they may still be read. Dialects and sessions
// create here; engines call `publish` at the end of each step. One publish tells every subscriber of every response
// that changed, once, and then lets the outboxes flush, so a socket gets one frame per step whatever it watches.
import { ServiceError } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';
import { Limits } from '../../protocol/constants.ts';
import type { ToolDefinition } from '../../protocol/messages.ts';
import type { PromptInput } from '../../workers/messages.ts';
import type { Caller } from '../auth/caller.ts';
import type { Engine } from '../engine/types.ts';
import { Response } from './response.ts';
import type { ResponseHooks, ResponseOptions } from './response.ts';

/** Where metrics listen. Times in milliseconds. */
export interface ResponseObserver {
  onToken?(response: Response, gapMs: number | null): void;
  onEnded?(response: Response): void;
}

export interface ResponsesOptions {
  /** Epoch milliseconds with fraction, comparable with the workers' clock. */
  now?: () => number;
  retentionMs?: number;
  logMemoryBytes?: number;
  observer?: ResponseObserver;
  /** A subscriber threw and was detached; the others were served. Default: rethrown outside this call. */
  onSubscriberError?: (error: unknown) => void;
}

export interface CreateResponse extends Omit<ResponseOptions, 'toolNames'> {
  tools: ToolDefinition[];
  /** Name of this request, unique over all callers: `byRequest` finds the response by it while it is retained. */
  requestKey?: string | undefined;
}

export class Responses {
  readonly #now: () => number;
  readonly #retentionMs: number;
  readonly #logMemoryBytes: number;
  readonly #observer: ResponseObserver;
  readonly #onSubscriberError: (error: unknown) => void;
  readonly #hooks: ResponseHooks;
  readonly #all = new Map<string, Response>();
  readonly #byRequest = new Map<string, Response>();
  readonly #requestKeys = new Map<Response, string>();
  /** In the order they ended, with the bytes counted for each. */
  readonly #ended = new Map<Response, number>();
  #endedBytes = 0;
  #touched = new Set<Response>();
  readonly #afterPublish = new Set<() => void>();
  #isPublishQueued = false;

  constructor(options: ResponsesOptions = {}) {
    this.#now = options.now ?? (() => performance.timeOrigin + performance.now());
    this.#retentionMs = options.retentionMs ?? Limits.responseRetentionMs;
    this.#logMemoryBytes = options.logMemoryBytes ?? Limits.logMemoryBytes;
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
      ended: (response) => this.#retain(response),
    };
  }

  /** Responses not ended yet. */
  get active(): number {
    return this.#all.size - this.#ended.size;
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
   * As `create`, but `begin` decides when to call `response.start`: in a session the prompt is known only when the
   * turn comes. When `begin` throws, nothing is kept.
   */
  createWith(engine: Engine, caller: Caller, options: CreateResponse, begin: (response: Response) => void): Response {
    this.#evict();
    const { session, class: latencyClass, sampling, deadlineMs } = options;
    const response = new Response(
      engine,
      caller,
      { session, class: latencyClass, sampling, deadlineMs, toolNames: options.tools.map((tool) => tool.name) },
      this.#hooks,
    );
    begin(response);
    this.#all.set(response.id, response);
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
    return response?.caller.tenant === caller.tenant ? response : undefined;
  }

  /** The response that an earlier create with this key made, if it can still be read. */
  byRequest(requestKey: string): Response | undefined {
    this.#evict();
    return this.#byRequest.get(requestKey);
  }

  /** Tells the subscribers of everything that changed since the last call, then flushes the outboxes. */
  publish(): void {
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
    for (const flush of this.#afterPublish) flush();
  }

  /** Calls back after each publish. Returns the function that ends it. */
  onPublished(callback: () => void): () => void {
    this.#afterPublish.add(callback);
    return () => void this.#afterPublish.delete(callback);
  }

  /** Ends everything still running with this error (drain: `shutting_down`); resolves when all have ended. */
  async cancelAll(code: ErrorCode, message: string): Promise<void> {
    const running = [...this.#all.values()].filter((response) => !response.isEnded);
    for (const response of running) response.fail(new ServiceError(code, message));
    await Promise.all(running.map((response) => response.ended));
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
    this.#ended.set(response, response.bytes);
    this.#endedBytes += response.bytes;
    this.#observer.onEnded?.(response);
    this.#evict();
  }

  #evict(): void {
    const oldest = this.#now() - this.#retentionMs;
    for (const response of this.#ended.keys()) {
      const { state } = response;
      if (this.#endedBytes <= this.#logMemoryBytes && state.sinceMs > oldest) return;
      this.#forget(response);
    }
  }

  #forget(response: Response): void {
    this.#all.delete(response.id);
    this.#endedBytes -= this.#ended.get(response) ?? 0;
    this.#ended.delete(response);
    const key = this.#requestKeys.get(response);
    if (key === undefined) return;
    this.#requestKeys.delete(response);
    if (this.#byRequest.get(key) === response) this.#byRequest.delete(key);
  }
}
