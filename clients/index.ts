// The whole public list of the SDK. What is not here may change freely.
export { Client, connect } from './client.ts';
export type { ClientCreateOptions, ConnectOptions } from './client.ts';
export type { ConnectionState } from './connection.ts';
export { ConnectionLostError } from './errors.ts';
export type { ResponsePosition } from './errors.ts';
export { ResponseStream } from './response.ts';
export type { Finished } from './response.ts';
export { Session } from './session.ts';
export type { ClientSessionOptions, SendOptions, SessionOrigin } from './session.ts';
export type { Transport, TransportEvents, TransportFactory } from './transport.ts';
export { ServiceError } from '../protocol/errors.ts';
export type { ErrorCode } from '../protocol/errors.ts';
export type {
  ChatMessage,
  FinishReason,
  LatencyClass,
  ModelInfo,
  SessionInfo,
  Timings,
  ToolCall,
  ToolDefinition,
  Usage,
  WelcomeInfo,
} from '../protocol/messages.ts';
export type { SamplingParams } from '../protocol/sampling.ts';
