// A model under its name, for as long as it is served: its threads may be replaced by those of other weights (swap), or be
// put to sleep and opened again, while sessions and connections hold on to this. Requests stay with the threads they
// began on; new ones go to the newest. models.ts decides what happens when; here is what each change means.
import { errorFromCode, ServiceError } from '../../protocol/errors.ts';
import type { ModelInfo } from '../../protocol/messages.ts';
import type { CompiledModel, CompileProgress } from '../../workers/messages/models.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import type { KvShare } from './kv-pot.ts';
import { Lobby } from './lobby.ts';
import type { Encode, ModelEngine } from './model-engine.ts';
import type { ModelSource, ModelState } from './model-admin.ts';
import type { Engine, EngineGaugesView, EngineSink, SubmitOptions } from './types.ts';
import type { QueueOptions } from './waiting-room.ts';

/** Threads with the part of KV_MEMORY they hold. */
export interface Instance {
  engine: ModelEngine;
  share: KvShare;
  compiled: CompiledModel;
}

/** What a model asks of its registry. */
export interface ModelHost {
  queue: QueueOptions;
  encode: Encode;
  /** A request came for a model that sleeps. */
  wake(model: ServedModel): void;
  /** Another model with its name, once it is gone. */
  successor(model: ServedModel): ServedModel | null;
  /** The threads and their part of the memory are to be ended. */
  dismiss(instance: Instance, error?: ServiceError): Promise<void>;
}

const DRAIN_POLL_MS = 20;
const LOADING_RETRY_MS = 1000;

export class ServedModel implements Engine {
  onStepEnd: ((isCollected: boolean) => void) | null = null;
  source: ModelSource;
  /** A reload may unload it. */
  isFromSettings = false;
  state: ModelState = 'loading';
  /** Of loading, also while older weights serve; null when nothing is being loaded. */
  progress: CompileProgress | null = { phase: 'waiting', done: 0 };
  /** Why the last load or swap failed, '' when it did not. */
  failure = '';
  /** Epoch milliseconds; 0: not yet. */
  lastUsedMs = 0;
  readyAtMs = 0;
  /** What was served last: a model that sleeps is opened from it. */
  compiled: CompiledModel | null = null;
  readonly #host: ModelHost;
  readonly #lobby: Lobby;
  #info: ModelInfo;
  #current: Instance | null = null;
  /** Older threads that still have requests, and those that are ending. */
  readonly #retired = new Map<Instance, Promise<void>>();

  constructor(source: ModelSource, host: ModelHost) {
    this.source = source;
    this.#host = host;
    this.#lobby = new Lobby(host.queue);
    this.#lobby.onEnded = () => this.onStepEnd?.(false);
    const { id = source.spec, aliases = [] } = source;
    this.#info = { id, aliases: [...aliases], contextLength: 0, preset: {}, tools: false, note: '' };
  }

  get model(): ModelInfo {
    return this.#info;
  }

  get isReady(): boolean {
    return this.state === 'ready' || this.state === 'unloaded';
  }

  get current(): Instance | null {
    return this.#current;
  }

  /** Older threads that have not ended. */
  get numRetired(): number {
    return this.#retired.size;
  }

  /** Requests that have not ended. */
  get numActive(): number {
    return this.#instances.reduce((sum, { engine }) => sum + engine.numActive, this.#lobby.size);
  }

  /** Bytes held of KV_MEMORY. */
  get kvBytes(): number {
    return this.#instances.reduce((sum, { share }) => sum + share.bytes, 0);
  }

  get gauges(): EngineGaugesView {
    const parts = this.#instances.map(({ engine }) => engine.gauges);
    const sum = (key: keyof EngineGaugesView): number => parts.reduce((total, part) => total + part[key], 0);
    return {
      waiting: sum('waiting') + this.#lobby.size,
      running: sum('running'),
      residentSlots: sum('residentSlots'),
      kvUsedTokens: sum('kvUsedTokens'),
      kvBytesPerToken: parts[0]?.kvBytesPerToken ?? 0,
      kvReservedBytes: sum('kvReservedBytes'),
      hookMisses: sum('hookMisses'),
    };
  }

  // --- requests

  submit(options: SubmitOptions, sinks: readonly EngineSink[]): number[] {
    this.lastUsedMs = Date.now();
    if (this.#current !== null && this.state === 'ready') return this.#current.engine.submit(options, sinks);
    if (this.state !== 'unloaded') {
      if (this.#successor === null) throw this.unavailable();
      return this.#successor.submit(options, sinks);
    }
    const ids = this.#lobby.enter(options, sinks);
    this.#host.wake(this);
    return ids;
  }

  /** Why there is no answer now: it is loading, could not be loaded, or is gone. */
  unavailable(): ServiceError {
    const { id } = this.#info;
    if (this.state === 'loading') {
      const { phase, done } = this.progress ?? { phase: 'starting', done: 0 };
      const message = `model ${id} is loading: ${phase}, ${Math.round(done * 100)} %`;
      return new ServiceError('model_loading', message, { retryAfterMs: LOADING_RETRY_MS });
    }
    return new ServiceError('unknown_model', `model ${id} was unloaded`, { param: 'model' });
  }

  cancel(id: number): void {
    this.#successor?.cancel(id);
    this.#lobby.cancel(id);
    for (const { engine } of this.#instances) engine.cancel(id);
  }

  park(id: number): void {
    this.#successor?.park(id);
    this.#lobby.park(id);
    for (const { engine } of this.#instances) engine.park(id);
  }

  unpark(id: number): void {
    this.#successor?.unpark(id);
    this.#lobby.unpark(id);
    for (const { engine } of this.#instances) engine.unpark(id);
  }

  forget(session: string): void {
    this.#successor?.forget(session);
    for (const { engine } of this.#instances) engine.forget(session);
  }

  async countTokens(prompt: PromptInput): Promise<number> {
    const compiled = this.compiled;
    if (this.#successor !== null) return this.#successor.countTokens(prompt);
    if (compiled === null || !this.isReady) throw this.unavailable();
    const isCut = prompt.kind === 'chat' && prompt.truncation === 'auto';
    const maxTokens = isCut ? this.#info.contextLength - 1 : Number.MAX_SAFE_INTEGER;
    const result = await this.#host.encode(compiled, { prompt, maxTokens, tenant: null });
    if ('code' in result) throw errorFromCode(result.code, result.message);
    return result.tokenIds.length;
  }

  // --- changes

  /** These threads take the requests from now on, also those that wait; the older ones end when theirs have. */
  serve(instance: Instance, info: ModelInfo): void {
    const before = this.#current;
    this.#current = instance;
    this.compiled = instance.compiled;
    this.rename(info);
    this.state = 'ready';
    this.progress = null;
    this.failure = '';
    this.readyAtMs = Date.now();
    this.lastUsedMs = Date.now();
    const { engine } = instance;
    engine.onStepEnd = (isCollected) => this.onStepEnd?.(isCollected);
    for (const id of this.#lobby.admitAll((...request) => engine.submit(...request))) engine.park(id);
    if (before !== null) void this.#retire(before);
  }

  rename(info: ModelInfo): void {
    this.#info = info;
  }

  /** Its threads end and its memory is free; the next request opens it again. Only without active requests. */
  sleep(): Promise<void> {
    this.state = 'unloaded';
    const before = this.#current;
    this.#current = null;
    return before === null ? Promise.resolve() : this.#retire(before);
  }

  /** Ends the requests that wait for it to be opened. */
  refuseWaiting(error: ServiceError): void {
    this.#lobby.refuseAll(error);
  }

  /** Nothing new from now on. Resolves when what runs has ended and the threads have; `hurry` ends it earlier. */
  async drain(): Promise<void> {
    this.state = 'draining';
    this.#lobby.refuseAll(this.unavailable());
    const before = this.#current;
    this.#current = null;
    if (before !== null) void this.#retire(before);
    await this.retired();
  }

  /** Ends what still runs with this error, at once. */
  hurry(error: ServiceError): void {
    this.#lobby.refuseAll(error);
    for (const instance of this.#instances) void this.#host.dismiss(instance, error);
  }

  /** All older threads have ended. */
  async retired(): Promise<void> {
    await Promise.all(this.#retired.values());
  }

  /** Who holds on to a model that is gone goes on with the next one of its name. Ids of requests are never used twice. */
  get #successor(): ServedModel | null {
    return this.state === 'draining' ? this.#host.successor(this) : null;
  }

  get #instances(): Instance[] {
    return [...(this.#current === null ? [] : [this.#current]), ...this.#retired.keys()];
  }

  #retire(instance: Instance): Promise<void> {
    const ended = this.#dismissWhenIdle(instance).finally(() => this.#retired.delete(instance));
    this.#retired.set(instance, ended);
    return ended;
  }

  async #dismissWhenIdle(instance: Instance): Promise<void> {
    while (instance.engine.numActive > 0) await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS).unref());
    await this.#host.dismiss(instance);
  }
}
