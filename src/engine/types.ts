// What the main thread sees of an engine. `client.ts` implements Engine; `responses/` implements EngineSink.
import type { LatencyClass, ModelInfo, TokenLogprob } from '../../protocol/messages.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { ServiceError } from '../../protocol/errors.ts';
import type { EndReason, EngineGauges } from '../../workers/messages/events.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';

/** Receives the events of one request, in order, on the main thread. `onEnd` is called exactly once, last. */
export interface EngineSink {
  /** The prompt is encoded: its length in tokens, and how many old messages did not fit. */
  onEncoded(promptTokens: number, droppedMessages: number): void;
  /** Ids of the whole prompt, for requests of a session only; before onPrefill. */
  onPrompt(tokenIds: Int32Array): void;
  onPrefill(cachedTokens: number): void;
  /** A token was sampled; text is what became certain with it and may be ''. sampledAtMs: epoch milliseconds. */
  onToken(tokenId: number, text: string, sampledAtMs: number): void;
  /** Text held back until the end (no token of its own). */
  onText(text: string): void;
  /** Tokens of the text in the next call of onToken or onText, or of earlier text; only for requests that ask. */
  onLogprobs(tokens: TokenLogprob[]): void;
  onToolBegin(index: number, name: string): void;
  onToolDelta(index: number, text: string): void;
  onToolEnd(index: number): void;
  onEnd(reason: EndReason, error: ServiceError | null): void;
}

export interface SubmitOptions {
  tenant: string;
  /** Session id that will continue from this request, or ''. */
  session: string;
  class: LatencyClass;
  prompt: PromptInput;
  /** Functions whose calls are parsed out of the answer; empty: none. */
  toolNames: string[];
  /** What the answer must look like; absent: anything. It is checked first, and onEnd tells what is wrong with it. */
  grammar?: GrammarSpec | undefined;
  sampling: SamplingParams;
  /** Tell each token's log-probability, with so many alternatives; absent: no. */
  logprobs?: number | undefined;
  deadlineMs?: number;
}

export type EngineGaugesView = Omit<EngineGauges, 'op'>;

/** One model with its workers. */
export interface Engine {
  readonly model: ModelInfo;
  readonly isReady: boolean;
  readonly gauges: EngineGaugesView;
  /** Loading progress 0..1 with its phase, for /readyz; null once ready. */
  readonly progress: { phase: string; done: number } | null;
  /**
   * Called after all events of one message of a worker were delivered to their sinks: the moment to flush sockets.
   * `isCollected`: it had several steps, so that its text has been collected for a few milliseconds already.
   */
  onStepEnd: ((isCollected: boolean) => void) | null;
  /**
   * Queues a request with a sink for each of its choices (nearly always one); events arrive at the sinks, never during
   * this call. Throws ServiceError (`overloaded`, `shutting_down`, `model_loading`), and then nothing is queued. Returns
   * the request ids of the choices, in order: each is cancelled, parked and ended on its own.
   */
  submit(options: SubmitOptions, sinks: readonly EngineSink[]): number[];
  /** Idempotent; the sink's onEnd('cancelled') follows within a step or prefill chunk. Unknown ids are ignored. */
  cancel(id: number): void;
  /**
   * Stops generating for now: nobody reads. The request keeps its tokens and its place may go to others; events already
   * under way still arrive. Idempotent; unknown and ended ids are ignored, and cancel still ends it at once.
   */
  park(id: number): void;
  /** Goes on with a parked request as soon as there is room (its text is the same as if it had never been parked). */
  unpark(id: number): void;
  /** Drop the KV kept for a session. */
  forget(session: string): void;
  /**
   * Tokens of this prompt as the model's own template and tokenizer make it; nothing is generated. May exceed the
   * context, unless the prompt says truncation `auto`. Rejects with `invalid_request` (the template cannot express it),
   * `context_too_long` and `model_loading`.
   */
  countTokens(prompt: PromptInput): Promise<number>;
}
