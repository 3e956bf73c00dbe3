// One generation: its states, and what leads from one to the next. The engine feeds it (EngineSink), subscribers read its
// log, anyone allowed may cancel it. What it has said is its content (response-content.ts), its times are a clock's.
// `#end` is the only way into the state `ended`, and the only writer of the log's end event, so "finished twice" and "never
// finished" have one place to be looked for.
import { randomBytes } from 'node:crypto';
import type { ChatMessage, LatencyClass, TokenLogprob, ToolCall, Timings, Usage } from '../../protocol/messages.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import { ServiceError } from '../../protocol/errors.ts';
import type { EndReason } from '../../workers/messages/events.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import type { Caller } from '../auth/caller.ts';
import type { Engine, EngineSink } from '../engine/types.ts';
import { ResponseClock } from './response-clock.ts';
import { ResponseContent } from './response-content.ts';
import type { EndEvent, ResponseLog } from './response-log.ts';
import { Subscribers } from './subscribers.ts';
import type { Subscriber } from './subscribers.ts';

export type ResponseState =
  | { kind: 'queued'; sinceMs: number }
  | { kind: 'prefilling'; sinceMs: number }
  | { kind: 'running'; sinceMs: number }
  | { kind: 'parked'; sinceMs: number }
  | { kind: 'ended'; sinceMs: number; end: EndEvent };

export interface ResponseOptions {
  /** Session this response belongs to; null for a one-off. */
  session: string | null;
  class: LatencyClass;
  /** Functions whose calls are parsed out of the answer; empty: none. */
  toolNames: string[];
  /** What the answer must look like; absent: anything. */
  grammar?: GrammarSpec | undefined;
  sampling: SamplingParams;
  /** Keep each token's log-probability, with so many alternatives (0 to 20); absent: none. */
  logprobs?: number | undefined;
  /** Milliseconds from creation after which the answer is of no use. */
  deadlineMs?: number | undefined;
  /**
   * Name under which the engine keeps the KV memory for whoever continues from here, and delivers the prompt's ids.
   * Default: the session's id, or none.
   */
  conversation?: string | undefined;
  /**
   * True: cancelled when its last reader leaves (plain HTTP). False: nobody has to watch it (background). Absent: it
   * runs on until whoever counts its grace time cancels it (native sockets).
   */
  cancelsUnwatched?: boolean | undefined;
  /** The messages of this request alone: a session knows what came before them. Absent: the creator keeps its own. */
  input?: readonly ChatMessage[] | undefined;
  /** Memory that is kept along with it (`input` too), counted by the retention budget. */
  extraBytes?: number | undefined;
}

/** What a response tells its registry. */
export interface ResponseHooks {
  now(): number;
  /** New events; `atOnce` when no engine step will follow to publish them. */
  touched(response: Response, atOnce: boolean): void;
  /** A token was sampled; `gapMs` since the one before, or null for the first. */
  token(response: Response, gapMs: number | null): void;
  /** It was set aside, or goes on after that many milliseconds. */
  parked(response: Response, afterMs: number | null): void;
  ended(response: Response): void;
}

export class Response implements EngineSink {
  /** 'resp_' and 128 random bits in hex. */
  readonly id = `resp_${randomBytes(16).toString('hex')}`;
  readonly caller: Caller;
  readonly model: string;
  readonly sessionId: string | null;
  readonly class: LatencyClass;
  /** All answers to the same request (`n`), in order, this one among them. */
  choices: readonly Response[] = [this];
  /** Resolves with the end event; never rejects. */
  readonly ended: Promise<EndEvent>;

  readonly #engine: Engine;
  readonly #options: ResponseOptions;
  readonly #hooks: ResponseHooks;
  readonly #content = new ResponseContent(this.id);
  readonly #clock: ResponseClock;
  readonly #subscribers = new Subscribers();
  #resolveEnded!: (end: EndEvent) => void;
  #state: ResponseState;
  #requestId: number | null = null;
  #cancelAtMs: number | null = null;
  #heardTo: number | null = null;
  /** Why we cancelled it ourselves; replaces the engine's plain `cancelled`. */
  #failure: ServiceError | null = null;

  constructor(engine: Engine, caller: Caller, options: ResponseOptions, hooks: ResponseHooks) {
    this.#engine = engine;
    this.#options = options;
    this.#hooks = hooks;
    this.caller = caller;
    this.model = engine.model.id;
    this.sessionId = options.session;
    this.class = options.class;
    this.#clock = new ResponseClock(hooks.now());
    this.#state = { kind: 'queued', sinceMs: this.createdAtMs };
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  /** Epoch milliseconds, with fraction. */
  get createdAtMs(): number {
    return this.#clock.createdAtMs;
  }

  get state(): ResponseState {
    return this.#state;
  }

  get isEnded(): boolean {
    return this.#state.kind === 'ended';
  }

  /** True once the engine has taken the request; before that it waits for its turn in the session. */
  get isSubmitted(): boolean {
    return this.#requestId !== null;
  }

  get log(): ResponseLog {
    return this.#content.log;
  }

  get text(): string {
    return this.log.text;
  }

  /** Ids of the generated tokens, also of those without text. */
  get tokenIds(): readonly number[] {
    return this.#content.tokenIds;
  }

  get toolCalls(): readonly ToolCall[] {
    return this.#content.toolCalls;
  }

  /** Ids of the whole prompt; the engine delivers them for requests of a session, null until then. */
  get promptTokenIds(): Int32Array | null {
    return this.#content.promptTokenIds;
  }

  /** When the newest token was sampled, epoch milliseconds; null before the first. */
  get lastTokenAtMs(): number | null {
    return this.#clock.lastTokenAtMs;
  }

  /** When cancel was first asked for, epoch milliseconds. */
  get cancelAtMs(): number | null {
    return this.#cancelAtMs;
  }

  /** Up to where the user took in the text (offset in UTF-16 units); null when all of it. */
  get heardTo(): number | null {
    return this.#heardTo;
  }

  /** Counts so far; exact once ended, also when cancelled. */
  get usage(): Usage {
    return this.#content.usage;
  }

  /** Times so far, in milliseconds. */
  get timings(): Timings {
    return this.#clock.timings(this.#state.kind === 'ended' ? this.#state.sinceMs : this.#hooks.now());
  }

  get sampling(): Readonly<SamplingParams> {
    return this.#options.sampling;
  }

  /** Alternatives kept for each token; null when log-probabilities were not asked for. */
  get topLogprobs(): number | null {
    return this.#options.logprobs ?? null;
  }

  /** Its wait in the queue was over at some time; stays false when it ended there. */
  get wasAdmitted(): boolean {
    return this.#clock.wasAdmitted;
  }

  /** The messages of its request, without those its session had before; null when its creator keeps them. */
  get input(): readonly ChatMessage[] | null {
    return this.#options.input ?? null;
  }

  /** Estimated memory of what retention keeps. */
  get bytes(): number {
    return this.#content.bytes + (this.#options.extraBytes ?? 0);
  }

  // --- its beginning and its end

  /**
   * Hands the request to the engine, once. Throws what `Engine.submit` throws, and `deadline_exceeded` when the
   * deadline passed while it waited in its session. The caller then decides: forget the response, or `fail` it.
   * `others` are responses with the same options that start with it: further choices, for which the engine computes the
   * prompt only once. They end each on its own.
   */
  start(prompt: PromptInput, others: readonly Response[] = []): void {
    if (this.isSubmitted || this.isEnded) throw new Error(`${this.id} was started twice or after its end`);
    const { deadlineMs } = this.#options;
    const leftMs = deadlineMs === undefined ? undefined : deadlineMs - (this.#hooks.now() - this.createdAtMs);
    if (leftMs !== undefined && leftMs <= 0) {
      throw new ServiceError('deadline_exceeded', 'The deadline passed before the request could start.');
    }
    const choices = [this, ...others];
    const ids = this.#engine.submit(
      {
        tenant: this.caller.tenant,
        session: this.#options.conversation ?? this.sessionId ?? '',
        class: this.class,
        prompt,
        toolNames: this.#options.toolNames,
        grammar: this.#options.grammar,
        sampling: this.#options.sampling,
        logprobs: this.#options.logprobs,
        ...(leftMs === undefined ? {} : { deadlineMs: leftMs }),
      },
      choices,
    );
    for (const [index, choice] of choices.entries()) {
      choice.choices = choices;
      choice.#requestId = ids[index]!;
    }
  }

  /** Idempotent. A started response ends as `cancelled` within an engine step or prefill chunk, others at once. */
  cancel(): void {
    if (this.isEnded || this.#cancelAtMs !== null) return;
    this.#cancelAtMs = this.#hooks.now();
    if (this.#requestId === null) this.#end('cancelled', null, true);
    else this.#engine.cancel(this.#requestId);
  }

  /** Cancels on the server's account: it will end as `error` with this error instead of `cancelled`. */
  fail(error: ServiceError): void {
    if (this.isEnded) return;
    this.#failure ??= error;
    this.cancel();
  }

  /** The user took in no more than the text up to this offset; what history keeps of it is cut there. */
  limitHeard(offset: number): void {
    this.#heardTo = Math.min(offset, this.#heardTo ?? Infinity);
  }

  // --- its readers

  /**
   * Returns the function that unsubscribes. Events already in the log are announced too, soon, so that a late
   * subscriber and an early one run through the same code.
   */
  subscribe(subscriber: Subscriber): () => void {
    this.#subscribers.add(subscriber);
    if (this.log.head > 0) this.#hooks.touched(this, true);
    this.reviewParking();
    return () => this.unsubscribe(subscriber);
  }

  unsubscribe(subscriber: Subscriber): void {
    const wasThere = this.#subscribers.delete(subscriber);
    if (wasThere && this.#subscribers.size === 0 && this.#options.cancelsUnwatched) this.cancel();
    this.reviewParking();
  }

  /** As `unsubscribe`, for a reader that was lost and may come back: whoever calls this counts its grace time. */
  detach(subscriber: Subscriber): void {
    this.#subscribers.delete(subscriber);
    this.reviewParking();
  }

  /**
   * Parks when all readers are so far behind that generating more helps nobody, and goes on when one has caught up or
   * when none is attached any more (a lost connection in its grace time is no slow reader).
   */
  reviewParking(): void {
    const isParked = this.#state.kind === 'parked';
    if (this.#requestId === null || this.isEnded || this.#cancelAtMs !== null) return;
    if (this.#subscribers.shouldPark(this, isParked, this.#engine.gauges.waiting > 0) === isParked) return;
    if (isParked) this.#engine.unpark(this.#requestId);
    else this.#engine.park(this.#requestId);
    // Unparked, it waits for room again; its next token says that it has some.
    const now = this.#hooks.now();
    this.#hooks.parked(this, isParked ? now - this.#state.sinceMs : null);
    this.#state = { kind: isParked ? 'queued' : 'parked', sinceMs: now };
    this.#hooks.touched(this, true);
  }

  get numSubscribers(): number {
    return this.#subscribers.size;
  }

  get subscribers(): Iterable<Subscriber> {
    return this.#subscribers;
  }

  /** Nobody has to watch it: it runs to its end (background). */
  get runsUnwatched(): boolean {
    return this.#options.cancelsUnwatched === false;
  }

  // --- what the engine says (EngineSink)

  onPrompt(tokenIds: Int32Array): void {
    this.#content.promptTokenIds = tokenIds;
  }

  onEncoded(promptTokens: number, droppedMessages: number): void {
    this.#assertLive();
    this.#content.promptTokens = promptTokens;
    this.#content.droppedMessages = droppedMessages;
  }

  onPrefill(cachedTokens: number): void {
    this.#assertLive();
    const now = this.#hooks.now();
    if (this.#state.kind === 'queued') {
      this.#state = { kind: 'prefilling', sinceMs: now };
      this.#hooks.touched(this, false);
    }
    // Preempted and computed again, its counts too are those of the first round.
    if (this.#clock.prefillBegins(now)) this.#content.cachedTokens = cachedTokens;
  }

  onToken(tokenId: number, text: string, sampledAtMs: number): void {
    this.#assertLive();
    // Tokens under way when it parked still arrive.
    if (this.#state.kind === 'queued' || this.#state.kind === 'prefilling') {
      this.#state = { kind: 'running', sinceMs: sampledAtMs };
      this.#hooks.touched(this, false);
    }
    const gapMs = this.#clock.token(sampledAtMs);
    this.#content.tokenIds.push(tokenId);
    this.#hooks.token(this, gapMs);
    this.onText(text);
  }

  onText(text: string): void {
    this.#assertLive();
    if (this.#content.appendText(text)) this.#hooks.touched(this, false);
  }

  onLogprobs(tokens: TokenLogprob[]): void {
    this.#assertLive();
    this.#content.addLogprobs(tokens);
  }

  onToolBegin(index: number, name: string): void {
    this.#assertLive();
    this.#content.beginTool(index, name);
    this.#hooks.touched(this, false);
  }

  onToolDelta(index: number, text: string): void {
    this.#assertLive();
    if (this.#content.appendArguments(index, text)) this.#hooks.touched(this, false);
  }

  onToolEnd(index: number): void {
    this.#assertLive();
    this.#content.endTool(index);
    this.#hooks.touched(this, false);
  }

  onEnd(reason: EndReason, error: ServiceError | null): void {
    this.#end(reason, error, false);
  }

  #end(reason: EndReason, error: ServiceError | null, atOnce: boolean): void {
    this.#assertLive();
    const failure = reason === 'cancelled' ? this.#failure : error;
    const endedAtMs = this.#hooks.now();
    const end: EndEvent = {
      kind: 'end',
      reason: failure === null ? reason : 'error',
      usage: this.usage,
      timings: this.timings,
      error: failure,
    };
    this.#state = { kind: 'ended', sinceMs: endedAtMs, end };
    this.#content.end(end);
    this.#hooks.touched(this, atOnce);
    this.#hooks.ended(this);
    this.#resolveEnded(end);
  }

  /** An event after the end is a bug of the engine: a mixed-up id would show one caller's text to another. */
  #assertLive(): void {
    if (this.isEnded) throw new Error(`${this.id} received an engine event after its end`);
  }
}
