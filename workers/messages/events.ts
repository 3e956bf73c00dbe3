// Engine worker → main thread: one StepOutput per step, and what happens besides.
import type { TokenLogprob } from '../../protocol/messages.ts';

/** worker → main */
export type FromWorker =
  | StepOutput
  | EngineGauges
  | { op: 'ready'; index: number; loadMs: number }
  /** Ids of the encoded prompt, once, for requests with a session: its next turn continues from them. */
  | { op: 'prompt'; id: number; tokenIds: Int32Array }
  /** After 'lead': the requests this decode worker holds. */
  | { op: 'inventory'; ids: number[] };

/** What a worker posts: its newest step, after those before it that could wait. */
export interface StepOutput {
  op: 'step';
  /**
   * Number of this message among the step messages of all workers (an Int32 that wraps around). A sequence moves between
   * workers and each has a port of its own, so without it a second token could overtake the first.
   */
  order: number;
  /** In their order, at least one. */
  steps: Step[];
}

/** What came of one step of a worker, or of a part of one. */
export interface Step {
  /** Flat: kind, id, a, b, kind, id, a, b, … */
  events: (number | string)[];
  /** What Logprobs events refer to; absent without any. */
  logprobs?: TokenLogprob[][];
  /** When the newest token was sampled, epoch milliseconds with fraction (performance.timeOrigin + now()). */
  sampledAtMs: number;
  stats: StepStats;
}

/** Kinds of engine events. An event is four consecutive entries of Step.events: kind, id, a, b. */
export const Ev = {
  /** a = prompt tokens, b = '' : the prompt is encoded and waits for a slot. */
  Encoded: 0,
  /** a = cached tokens, b = '' : prefill begins. */
  Prefill: 1,
  /** a = oldest messages left out of the prompt. */
  Dropped: 2,
  /** a = token id, b = text that became certain with it (may be ''). */
  Token: 3,
  /** b = text without a token of its own: what detokeniser or stop matcher still held at the end. */
  Text: 4,
  /** a = index of the call, b = function name. */
  ToolBegin: 5,
  /** a = index of the call, b = piece of the arguments JSON. */
  ToolDelta: 6,
  /** a = index of the call. */
  ToolEnd: 7,
  /** a = index in endReasons, b = '' or "code: message" of a ServiceError. The last event of an id. */
  End: 8,
  /** a = index in Step.logprobs: tokens of the text in the id's next Token or Text, or of earlier text. */
  Logprobs: 9,
} as const;

export const endReasons = ['stop', 'length', 'tool_calls', 'cancelled', 'error'] as const;
export type EndReason = (typeof endReasons)[number];

/**
 * How soon a step has to be with the main thread: it may be collected with later ones, it may not, or its worker even
 * waits until it was delivered.
 */
export const Haste = { later: 0, now: 1, urgent: 2 } as const;
export type Haste = (typeof Haste)[keyof typeof Haste];

export interface StepStats {
  /** Rows of the decode step, 0 when there was none. */
  batchSize: number;
  stepMs: number;
  prefillTokens: number;
  prefillMs: number;
  /** Tokens guessed in this step, and those of them that the model confirmed. */
  draftedTokens: number;
  acceptedTokens: number;
  /** KV rows copied between slots since the last step, and the time it took. */
  movedTokens: number;
  moveMs: number;
}

/** Gauges of the lead worker, posted when they change and at most every 100 ms. */
export interface EngineGauges {
  op: 'gauges';
  waiting: number;
  running: number;
  residentSlots: number;
  kvUsedTokens: number;
  kvBytesPerToken: number;
  kvReservedBytes: number;
  hookMisses: number;
}
