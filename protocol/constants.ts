// Numbers both ends of the wire agree on. Nothing here may be repeated elsewhere: import it.

/** Version of the native protocol; sent in hello, answered in welcome. */
export const PROTOCOL_VERSION = 1;
export const SUBPROTOCOL = 'tokenwire.v1';

/** Limits of the native protocol and the HTTP API. Sizes in bytes unless the name says otherwise. */
export const Limits = {
  /** Largest inbound WebSocket message answered with an error on its lane; larger ones get `too_large`. */
  messageBytes: 1 << 20,
  /** uWebSockets' own limit. Beyond it the connection drops with 1006, so ours lies below a quarter of it. */
  transportBytes: 5 << 20,
  httpBodyBytes: 8 << 20,
  /** Refused frames of a connection within a second that no repetition helps; one more ends it. */
  errorsPerSecond: 1000,
  lanesPerConnection: 256,
  /** Responses one connection may watch at once (live handles). */
  handlesPerConnection: 1024,
  /** Events one handle may run ahead of the client's ack before sending pauses. */
  creditEvents: 256,
  /** Events that wait beyond every reader's credit before the response parks. */
  parkBacklogEvents: 1024,
  /** A response parked for this long is cancelled. */
  parkTimeoutMs: 120_000,
  /** Unacknowledged bytes per socket, above which only control frames are sent. */
  unackedBytes: 1 << 20,
  /** Bytes waiting inside the socket, above which only control frames are sent. */
  bufferedBytes: 256 << 10,
  /** Time a client may take between the upgrade and its hello. */
  helloTimeoutMs: 10_000,
  /** A connection that answers no ping for this long is closed. */
  idleTimeoutSeconds: 32,
  requestIdChars: 128,
  messagesPerRequest: 4096,
  toolsPerRequest: 128,
  stopStrings: 8,
  stopStringChars: 256,
  logitBiasEntries: 1024,
  /** Answers to one prompt of a Chat Completions request (`n`). */
  choices: 8,
  /** Alternatives told for each token of an answer with log-probabilities. */
  topLogprobs: 20,
  /** Requests of one session waiting behind the running one; one more is `session_busy`. */
  queuedPerSession: 4,
  /** Largest page of a history; one message alone may be larger. */
  historyPageMessages: 1024,
  /** Text of a page as UTF-8. */
  historyPageBytes: 256 << 10,
  sessions: 10_000,
  /** Messages and token ids kept by all sessions together. */
  sessionMemoryBytes: 512 << 20,
  sessionIdleMs: 24 * 3600_000,
  /** Requests waiting for a slot in one model's engine; one more is `overloaded`. */
  queuedRequests: 1024,
  queueTimeoutMs: 60_000,
  /** How long an ended response can still be read. */
  responseRetentionMs: 600_000,
  logMemoryBytes: 256 << 20,
  /** A native response outlives its connection by this long (see README, "disconnect is not cancel"). */
  graceMs: 60_000,
} as const;

/** Collecting window of one socket's deltas for classes chat and batch (DESIGN §4, flush). */
export const FLUSH_WINDOW_MS = 13;

/** Changes of the models are collected for so long before clients are told. */
export const MODELS_WINDOW_MS = 100;

/** Close codes of the native socket. 4000 and above are ours; the others are RFC 6455's. */
export const CloseCode = {
  normal: 1000,
  unsupportedData: 1003,
  invalidFrame: 1007,
  policy: 1008,
  internal: 1011,
  restart: 1012,
  overloaded: 1013,
  slowConsumer: 4008,
} as const;
