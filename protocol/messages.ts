// Every message of the native protocol, one union per direction. A frame is the MessagePack array
// [op, lane, …fields]; fields are only ever added at the end, and readers ignore what they do not know.
// protocol/README.md is the normative text; this file must agree with it.
import type { SamplingParams } from './sampling.ts';

export const Op = {
  // client → server
  Hello: 1,
  OpenLane: 2,
  CloseLane: 3,
  OpenSession: 4,
  ListSessions: 5,
  History: 6,
  Rollback: 7,
  Fork: 8,
  CloseSession: 9,
  Create: 10,
  Cancel: 11,
  Ack: 12,
  Ping: 13,
  Resume: 14,
  // server → client
  Welcome: 32,
  LaneOpened: 33,
  LaneClosed: 34,
  SessionOpened: 35,
  Sessions: 36,
  SessionHistory: 37,
  SessionClosed: 38,
  Created: 40,
  Deltas: 41,
  ToolBegin: 42,
  ToolDelta: 43,
  ToolEnd: 44,
  Done: 45,
  Cancelled: 46,
  Error: 47,
  Pong: 48,
  Goaway: 49,
  Resumed: 50,
  State: 51,
  Models: 52,
} as const;
export type Op = (typeof Op)[keyof typeof Op];

export type LatencyClass = 'voice' | 'ide' | 'chat' | 'batch';
export const latencyClasses: readonly LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];

/** Classes whose text leaves with every step and is never collected. */
export function isUrgent(latencyClass: LatencyClass): boolean {
  return latencyClass === 'voice' || latencyClass === 'ide';
}
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'cancelled' | 'error';

export interface ToolDefinition {
  name: string;
  description?: string;
  /** JSON schema of the arguments object. */
  parameters?: Record<string, unknown>;
  /** Refuse the request where the arguments cannot be held to the schema. */
  strict?: boolean;
}

/** Form of the answer's text. Without `schema` any JSON object fits; `strict` changes nothing: the form is always held to. */
export type ResponseFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | { type: 'regex'; pattern: string }
  | { type: 'json_schema'; name: string; description?: string; schema?: Record<string, unknown>; strict?: boolean };

/** Which of the tools may, or must, be called. */
export type ToolChoice =
  | 'none'
  | 'auto'
  | 'required'
  | { type: 'function'; name: string }
  | { type: 'allowed_tools'; mode: 'auto' | 'required'; tools: { type: 'function'; name: string }[] };

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text of the arguments object. */
  arguments: string;
}

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool';
  content: string;
  name?: string;
  /** assistant only */
  toolCalls?: ToolCall[];
  /** tool only: which call this answers */
  toolCallId?: string;
}

/**
 * A token and its natural log-probability; -9999 stands for what is practically impossible. `bytes` is null for tokens
 * that are no text (special tokens); a token that is no whole characters is written as \xNN.
 */
export type TokenAlternative = [token: string, logprob: number, bytes: number[] | null];

/** A token of the answer, and the likeliest tokens in its place, best first: as many as were asked for. */
export type TokenLogprob = [token: string, logprob: number, bytes: number[] | null, top: TokenAlternative[]];

export interface Usage {
  promptTokens: number;
  /** Part of promptTokens whose KV was reused. */
  cachedTokens: number;
  completionTokens: number;
  /** Messages left out of the prompt because the context was full (truncation `auto`). */
  droppedMessages: number;
}

/** Milliseconds, measured on the server. */
export interface Timings {
  queuedMs: number;
  prefillMs: number;
  /** From create to the first token. */
  ttftMs: number;
  totalMs: number;
}

export interface ModelInfo {
  id: string;
  aliases: string[];
  /** Tokens; 0 while the model loads. */
  contextLength: number;
  /** Sampling that reads well with this model; a suggestion for user interfaces, never applied by the server. */
  preset: Partial<SamplingParams>;
  tools: boolean;
  /** One plain sentence for people. */
  note: string;
}

export interface HelloOptions {
  /** API key, for clients that cannot set headers. */
  token?: string;
  /** Free text for logs: name/version. */
  client?: string;
  /** Random name of this client, the same on each of its connections: requestIds of one-offs count per instance. */
  instance?: string;
}

export interface WelcomeInfo {
  server: string;
  connection: string;
  models: ModelInfo[];
  limits: Record<string, number>;
}

export interface LaneOptions {
  class?: LatencyClass;
}

export interface SessionOptions {
  /** Reopen this session; the other fields must then be absent. */
  session?: string;
  model?: string;
  system?: string;
  tools?: ToolDefinition[];
  /** Earlier messages to start from. */
  messages?: ChatMessage[];
  sampling?: Partial<SamplingParams>;
  /** Context full: drop the oldest whole turns, or fail with `context_too_long`. Default auto. */
  truncation?: 'auto' | 'error';
}

export interface SessionInfo {
  session: string;
  model: string;
  createdAtMs: number;
  numTurns: number;
  /** First words of the first user message, at most 80 characters. */
  title: string;
  /** Response now running or waiting, if any. */
  active: string[];
}

/** What the frames of one handle carry. Options of the handle, not of its response. */
export interface ViewOptions {
  /** Each delta says where its text begins. */
  offsets?: boolean;
  /** Deltas say where sentences end, once that is certain; includes `offsets`. */
  sentences?: boolean;
  /** State frames: queued, prefilling, running, parked. */
  states?: boolean;
}

export interface ResumeOptions extends ViewOptions {
  /** Deltas carry the tokens' log-probabilities, where the response was created with them; includes `offsets`. */
  logprobs?: boolean;
  response: string;
  /** The log that lastSeq counts in, as Created or Resumed gave it. May be absent when lastSeq is 0. */
  epoch?: string;
  /** The last event this client has; 0 for none. */
  lastSeq: number;
}

export interface CreateOptions extends ViewOptions {
  /** Session to continue. Absent: a one-off response from `messages`, kept by no session. */
  session?: string;
  /** New messages of this turn (user, or tool results), or the whole conversation without a session. */
  messages: ChatMessage[];
  model?: string;
  tools?: ToolDefinition[];
  toolChoice?: ToolChoice;
  /** False: one call at most. */
  parallelToolCalls?: boolean;
  responseFormat?: ResponseFormat;
  sampling?: Partial<SamplingParams>;
  /** Deltas carry the tokens' log-probabilities, each with so many alternatives (0 to 20); includes `offsets`. */
  logprobs?: number;
  class?: LatencyClass;
  truncation?: 'auto' | 'error';
  /** Milliseconds from arrival after which the answer is of no use. */
  deadlineMs?: number;
  /** Cancel and replace: a handle of this connection, a response id, or 'lane' for all that runs on this lane. */
  supersede?: number | string;
}

export type ClientMessage =
  | [op: typeof Op.Hello, lane: number, version: number, options: HelloOptions]
  | [op: typeof Op.OpenLane, lane: number, options: LaneOptions]
  | [op: typeof Op.CloseLane, lane: number]
  | [op: typeof Op.OpenSession, lane: number, requestId: string, options: SessionOptions]
  | [op: typeof Op.ListSessions, lane: number, requestId: string]
  /** One page: messages from number `start` on (default 0), at most `count` of them. */
  | [op: typeof Op.History, lane: number, requestId: string, session: string, start?: number, count?: number]
  /** Keeps the first `numTurns` turns. */
  | [op: typeof Op.Rollback, lane: number, requestId: string, session: string, numTurns: number]
  /** A new session with the first `numTurns` turns of this one. */
  | [op: typeof Op.Fork, lane: number, requestId: string, session: string, numTurns: number]
  | [op: typeof Op.CloseSession, lane: number, requestId: string, session: string]
  | [op: typeof Op.Create, lane: number, requestId: string, options: CreateOptions]
  /** `heard`: the user took in the text up to this offset only; history keeps no more of it. */
  | [op: typeof Op.Cancel, lane: number, handle: number, heard?: number]
  /** Cumulative: every event of this handle up to and including seq has arrived. */
  | [op: typeof Op.Ack, lane: number, handle: number, seq: number]
  | [op: typeof Op.Ping, lane: number, nonce: number | string]
  | [op: typeof Op.Resume, lane: number, requestId: string, options: ResumeOptions];

/**
 * `offset` of the text's first character, `ends` of the sentences that became certain with it, and `tokens` that became
 * certain with it, on request. Offsets count UTF-16 code units of the response's text from 0. A token may come after its
 * text; the bytes of all tokens joined are those of the whole text.
 */
export type Delta = [
  handle: number,
  seq: number,
  text: string,
  offset?: number,
  ends?: number[],
  tokens?: TokenLogprob[],
];

export type LiveState = 'queued' | 'prefilling' | 'running' | 'parked';

export interface StateDetail {
  /** queued: about how many requests are before this one. */
  position?: number;
  /** prefilling */
  promptTokens?: number;
  cachedTokens?: number;
}

export type ServerMessage =
  | [op: typeof Op.Welcome, lane: number, version: number, info: WelcomeInfo]
  | [op: typeof Op.LaneOpened, lane: number]
  | [op: typeof Op.LaneClosed, lane: number]
  /** Answers OpenSession, Rollback and Fork. */
  | [op: typeof Op.SessionOpened, lane: number, requestId: string, info: SessionInfo]
  | [op: typeof Op.Sessions, lane: number, requestId: string, sessions: SessionInfo[]]
  /** `next` is the number of the first message behind this page, nil when there is none. */
  | [
      op: typeof Op.SessionHistory,
      lane: number,
      requestId: string,
      session: string,
      messages: ChatMessage[],
      next: number | null,
    ]
  | [op: typeof Op.SessionClosed, lane: number, requestId: string, session: string]
  | [
      op: typeof Op.Created,
      lane: number,
      requestId: string,
      handle: number,
      response: string,
      epoch: string,
      session: string | null,
    ]
  /** All text of one engine step for this socket. seq is the last event the text covers. */
  | [op: typeof Op.Deltas, lane: 0, deltas: Delta[]]
  | [op: typeof Op.ToolBegin, lane: number, handle: number, seq: number, index: number, callId: string, name: string]
  | [op: typeof Op.ToolDelta, lane: number, handle: number, seq: number, index: number, text: string]
  | [op: typeof Op.ToolEnd, lane: number, handle: number, seq: number, index: number]
  | [
      op: typeof Op.Done,
      lane: number,
      handle: number,
      seq: number,
      reason: FinishReason,
      usage: Usage,
      timings: Timings,
      error: WireError | null,
    ]
  /** Answers Cancel; seq is the last event of the response. Every event of the handle, Done included, precedes it. */
  | [op: typeof Op.Cancelled, lane: number, handle: number, seq: number]
  /** A request failed before it had a handle (requestId set), or a frame of this lane was refused (null). */
  | [op: typeof Op.Error, lane: number, requestId: string | null, error: WireError]
  | [op: typeof Op.Pong, lane: number, nonce: number | string]
  /** The server is about to close this connection; reconnect after the given time. */
  | [op: typeof Op.Goaway, lane: number, code: string, retryAfterMs: number]
  /**
   * Answers Resume. Recovered: the events after lastSeq follow on the handle; no handle: lastSeq was Done's.
   * Not recovered: with a handle, forget what you have, all events follow from seq 1; without one, it is gone.
   */
  | [
      op: typeof Op.Resumed,
      lane: number,
      requestId: string,
      recovered: boolean,
      handle: number | null,
      response: string,
      epoch: string | null,
      session: string | null,
    ]
  | [op: typeof Op.State, lane: number, handle: number, state: LiveState, detail: StateDetail]
  /** The models have changed since Welcome or the last of these: the whole list, the default first. */
  | [op: typeof Op.Models, lane: 0, models: ModelInfo[]];

export interface WireError {
  code: string;
  message: string;
  param?: string;
  retryable: boolean;
  retryAfterMs?: number;
}
