// One model's engine as the main thread sees it: submit, cancel, and the only loop over step outputs. Requests are
// known here by id; a worker's events for an id that has ended are ignored, so late and repeated ends do no harm.
import { errorFromCode, ServiceError } from '../../protocol/errors.ts';
import { Ev, endReasons } from '../../workers/messages/events.ts';
import { Flag } from '../../workers/messages/requests.ts';
import type { EncodeResult } from '../../workers/messages/cpu-tasks.ts';
import type { FromWorker } from '../../workers/messages/events.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import type { EngineRequest, PromptInput } from '../../workers/messages/requests.ts';
import type { Step, StepOutput, StepStats } from '../../workers/messages/events.ts';
import type { OtherChoice } from '../../workers/messages/requests.ts';
import type { EngineGaugesView, EngineSink, SubmitOptions } from './types.ts';
import { defaultQueue, WaitingRoom, type QueueOptions } from './waiting-room.ts';

/** Prompts with more new text than this are encoded on the CPU pool: no decode step waits for a tokenizer. */
const LONG_PROMPT_BYTES = 4096;
/** The same for new and old text: what a conversation said before has to be rendered again, and may have been forgotten. */
const LONG_CONVERSATION_BYTES = 12_288;
/** Requests there may be besides those that wait: running and parked ones. */
const MIN_RUNNING_FLAGS = 1024;
/** Ends that say no more than that there was no room in time. */
const OUT_OF_TIME: ReadonlySet<string> = new Set(['queue_timeout', 'deadline_exceeded']);

/** Flags there must be: one for every request that can be waiting, running or parked. */
export function numFlags(queueSize: number, slots: number): number {
  return queueSize + Math.max(MIN_RUNNING_FLAGS, slots);
}

/** What the choices of a request have in common. */
type Common = Omit<EngineRequest, keyof OtherChoice | 'others'>;

interface Active {
  tenant: string;
  place: OtherChoice;
  sink: EngineSink;
  /** Its prompt is being encoded, or its grammar checked; the workers do not know it yet. */
  isPreparing: boolean;
  isWaiting: boolean;
  /** Messages left out of its prompt, told with Encoded. */
  dropped: number;
}

/** What the client needs of the threads (pool.ts). */
export interface Workers {
  toLead(message: { op: 'submit'; request: EngineRequest } | { op: 'forget'; session: string }): void;
  /** Wakes every worker to look at the flags. */
  wake(): void;
  encode(prompt: PromptInput, maxTokens: number, tenant: string): Promise<EncodeResult>;
  /** What to follow; rejects with ServiceError (grammar-checker.ts). */
  checkGrammar(spec: GrammarSpec, tenant: string): Promise<GrammarSpec>;
}

let nextId = 1;

/** An id for a request that is submitted later. */
export function takeRequestId(): number {
  return nextId++;
}

export class EngineClient {
  onStepEnd: ((isCollected: boolean) => void) | null = null;
  onStepStats: ((stats: StepStats) => void) | null = null;
  gauges: EngineGaugesView = {
    waiting: 0,
    running: 0,
    residentSlots: 0,
    kvUsedTokens: 0,
    kvBytesPerToken: 0,
    kvReservedBytes: 0,
    hookMisses: 0,
  };
  readonly compiled: CompiledModel;
  readonly #maxLen: number;
  readonly #workers: Workers;
  readonly #flags: Int32Array;
  readonly #freeFlags: number[];
  readonly #active = new Map<number, Active>();
  readonly #queue: QueueOptions;
  readonly #waiting: WaitingRoom;
  #isClosed = false;

  constructor(
    compiled: CompiledModel,
    maxLen: number,
    flags: SharedArrayBuffer,
    workers: Workers,
    queue: QueueOptions = defaultQueue,
  ) {
    this.compiled = compiled;
    this.#maxLen = maxLen;
    this.#workers = workers;
    this.#queue = queue;
    this.#waiting = new WaitingRoom(queue);
    this.#flags = new Int32Array(flags);
    this.#freeFlags = Array.from({ length: this.#flags.length }, (_, i) => this.#flags.length - 1 - i);
  }

  /** Ids of the requests the workers know and have not ended. */
  get activeIds(): number[] {
    return [...this.#active].flatMap(([id, active]) => (active.isPreparing ? [] : id));
  }

  /** Requests that have not ended. */
  get numActive(): number {
    return this.#active.size;
  }

  /** See Engine.submit. `ids`: those the choices have already. */
  submit(options: SubmitOptions, sinks: readonly EngineSink[], ids?: readonly number[]): number[] {
    if (this.#isClosed) throw new ServiceError('shutting_down', 'the server is shutting down');
    const { tenant } = options;
    if (this.#freeFlags.length < sinks.length) throw this.#waiting.full();
    this.#waiting.enter(tenant, sinks.length);
    const now = Date.now();
    const { deadlineMs, logprobs = null, grammar = null, ...rest } = options;
    const common = {
      ...rest,
      logprobs,
      grammar,
      weight: this.#queue.tenantWeights.get(tenant) ?? 1,
      queueDeadline: now + this.#queue.queueTimeoutMs,
      deadline: deadlineMs === undefined ? Infinity : now + deadlineMs,
    };
    const choices = sinks.map((sink, choice): Active => {
      const place = { id: ids?.[choice] ?? takeRequestId(), flag: this.#freeFlags.pop()!, choice };
      return { tenant, place, sink, isPreparing: false, isWaiting: true, dropped: 0 };
    });
    for (const active of choices) this.#active.set(active.place.id, active);
    const isLong = isLongPrompt(options.prompt);
    if (isLong || grammar !== null) void this.#prepareThenSubmit(common, choices, isLong);
    else this.#send(common, choices);
    return choices.map(({ place }) => place.id);
  }

  /** See Engine.cancel. */
  cancel(id: number): void {
    const active = this.#active.get(id);
    if (!active) return;
    if (active.isPreparing) {
      queueMicrotask(() => {
        this.#end(id, 'cancelled', null);
        this.onStepEnd?.(false);
      });
      return;
    }
    Atomics.store(this.#flags, active.place.flag, Flag.cancel);
    this.#workers.wake();
  }

  /** See Engine.park. */
  park(id: number): void {
    this.#exchangeFlag(id, Flag.run, Flag.park);
  }

  /** See Engine.unpark. */
  unpark(id: number): void {
    this.#exchangeFlag(id, Flag.park, Flag.run);
  }

  forget(session: string): void {
    if (!this.#isClosed) this.#workers.toLead({ op: 'forget', session });
  }

  /** Ends these requests with an error. */
  fail(ids: readonly number[], error: ServiceError): void {
    for (const id of ids) this.#end(id, 'error', error);
    this.onStepEnd?.(false);
  }

  /** No more requests; those still active end with this error. */
  close(error = new ServiceError('shutting_down', 'the server is shutting down')): void {
    this.#isClosed = true;
    this.fail([...this.#active.keys()], error);
  }

  receive(message: FromWorker): void {
    switch (message.op) {
      case 'step':
        this.#onSteps(message);
        return;
      case 'gauges':
        this.gauges = message;
        return;
      case 'prompt':
        this.#active.get(message.id)?.sink.onPrompt(message.tokenIds);
        return;
      case 'ready':
      case 'inventory':
        return; // the pool's business
    }
  }

  #onSteps({ steps }: StepOutput): void {
    for (const step of steps) {
      this.#onStep(step);
      this.onStepStats?.(step.stats);
    }
    this.onStepEnd?.(steps.length > 1);
  }

  /** The only loop over step outputs: add per-token work of the main thread here, or in the sinks. */
  #onStep({ events, logprobs, sampledAtMs }: Step): void {
    for (let i = 0; i < events.length; i += 4) {
      const id = events[i + 1] as number;
      const active = this.#active.get(id);
      if (!active) continue;
      const { sink } = active;
      const a = events[i + 2] as number;
      const b = events[i + 3] as string;
      switch (events[i] as (typeof Ev)[keyof typeof Ev]) {
        case Ev.Token:
          sink.onToken(a, b, sampledAtMs);
          break;
        case Ev.Text:
          sink.onText(b);
          break;
        case Ev.Dropped:
          active.dropped = a;
          break;
        case Ev.Encoded:
          sink.onEncoded(a, active.dropped);
          break;
        case Ev.Prefill:
          this.#admitted(active);
          sink.onPrefill(a);
          break;
        case Ev.ToolBegin:
          sink.onToolBegin(a, b);
          break;
        case Ev.ToolDelta:
          sink.onToolDelta(a, b);
          break;
        case Ev.ToolEnd:
          sink.onToolEnd(a);
          break;
        case Ev.Logprobs:
          sink.onLogprobs(logprobs![a]!);
          break;
        case Ev.End:
          this.#end(id, endReasons[a]!, b === '' ? null : this.#errorFromEvent(b));
          break;
      }
    }
  }

  #exchangeFlag(id: number, expected: number, next: number): void {
    const active = this.#active.get(id);
    if (!active || Atomics.compareExchange(this.#flags, active.place.flag, expected, next) !== expected) return;
    this.#workers.wake();
  }

  #end(id: number, reason: (typeof endReasons)[number], error: ServiceError | null): void {
    const active = this.#active.get(id);
    if (!active) return;
    this.#active.delete(id);
    this.#admitted(active);
    Atomics.store(this.#flags, active.place.flag, Flag.run);
    this.#freeFlags.push(active.place.flag);
    active.sink.onEnd(reason, error);
  }

  #admitted(active: Active): void {
    if (active.isWaiting) this.#waiting.leave(active.tenant);
    active.isWaiting = false;
  }

  #errorFromEvent(text: string): ServiceError {
    const colon = text.indexOf(': ');
    const [code, message] = [text.slice(0, colon), text.slice(colon + 2)];
    const error = errorFromCode(code, message);
    if (!OUT_OF_TIME.has(code)) return error;
    return new ServiceError(error.code, message, { retryAfterMs: this.#waiting.adviceMs() });
  }

  #send(common: Common, choices: readonly Active[]): void {
    const [first, ...others] = choices.map(({ place }) => place);
    this.#workers.toLead({ op: 'submit', request: { ...common, ...first!, others } });
  }

  /** What takes time happens elsewhere first: long prompts are encoded, grammars checked. */
  async #prepareThenSubmit(common: Common, choices: readonly Active[], isLong: boolean): Promise<void> {
    for (const active of choices) active.isPreparing = true;
    let ready: Common | ServiceError;
    try {
      const [prompt, grammar] = await Promise.all([
        isLong ? this.#encode(common.prompt, common.tenant) : common.prompt,
        common.grammar === null ? null : this.#workers.checkGrammar(common.grammar, common.tenant),
      ]);
      ready = { ...common, prompt, grammar };
    } catch (error) {
      ready =
        error instanceof ServiceError
          ? error
          : new ServiceError('internal', `preparing the request failed: ${String(error)}`, { cause: error });
    }
    for (const active of choices) active.isPreparing = false;
    const wanted = choices.filter(({ place }) => this.#active.has(place.id));
    if (wanted.length === 0) return;
    if (!(ready instanceof ServiceError)) return this.#send(ready, wanted);
    this.fail(
      wanted.map(({ place }) => place.id),
      ready,
    );
  }

  async #encode(prompt: PromptInput, tenant: string): Promise<PromptInput> {
    const result = await this.#workers.encode(prompt, this.#maxLen - 1, tenant);
    if ('code' in result) throw errorFromCode(result.code, result.message);
    return { kind: 'encoded', ...result };
  }
}

/** What stands before the last answer came with the turn before, and whoever encodes it remembers that (workers/text). */
function isLongPrompt(prompt: PromptInput): boolean {
  if (prompt.kind !== 'chat') return false;
  const { messages, tools } = prompt;
  const numBytes = (from: number): number => {
    return messages.slice(from).reduce((sum, { content }) => sum + Buffer.byteLength(content), 0);
  };
  const all = numBytes(0) + (tools.length > 0 ? Buffer.byteLength(JSON.stringify(tools)) : 0);
  const lastAnswer = messages.findLastIndex(({ role }) => role === 'assistant');
  if (lastAnswer < 0) return all > LONG_PROMPT_BYTES;
  return all > LONG_CONVERSATION_BYTES || numBytes(lastAnswer) > LONG_PROMPT_BYTES;
}
