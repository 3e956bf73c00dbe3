// The whole public list of the SDK. What is not here may change freely.
export { Client, connect } from './client.ts';
export type { ClientCreateOptions, ConnectOptions, WatchResponseOptions } from './client.ts';
export type { WaitOptions } from './abortable.ts';
export type { ConnectionState } from './connection.ts';
export { ConnectionLostError } from './errors.ts';
export type { ResponsePosition } from './errors.ts';
export { ResponseStream } from './response.ts';
export type { CancelCause, Finished, ResponseEvent, ResponseState, Sentence } from './response-events.ts';
export type { ResponseListeners, SendOptions } from './send-options.ts';
export { Session } from './session.ts';
export type { ClientSessionOptions, SessionOrigin } from './session.ts';
export type { Transport, TransportEvents, TransportFactory } from './transport.ts';
export type { Supersede } from './watch.ts';
export { ServiceError } from '../protocol/errors.ts';
export type { ErrorCode } from '../protocol/errors.ts';
export type {
  ChatMessage,
  FinishReason,
  LatencyClass,
  LiveState,
  ModelInfo,
  ResponseFormat,
  SessionInfo,
  Timings,
  TokenAlternative,
  TokenLogprob,
  ToolCall,
  ToolChoice,
  ToolDefinition,
  Usage,
  ViewOptions,
  WelcomeInfo,
} from '../protocol/messages.ts';
export type { SamplingParams } from '../protocol/sampling.ts';
