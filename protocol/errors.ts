// The one table of errors, and the one class that carries them. Errors cross threads and wires as
// {code, message, param} and are rebuilt on arrival; messages are for people and may change, codes may not.
import { CloseCode } from './constants.ts';
import type { WireError } from './messages.ts';

interface ErrorRow {
  /** What the error ends: the whole connection, or only the request on its lane. */
  scope: 'connection' | 'lane';
  /** HTTP status when the request came over HTTP. */
  status: number;
  /** WebSocket close code when scope is `connection`. */
  close?: number;
  /** True when the same request may succeed later. */
  retryable: boolean;
  /** OpenAI's `error.type`. */
  type: string;
}

const BAD = 'invalid_request_error';
const SERVER = 'server_error';

export const errorTable = {
  invalid_frame: { scope: 'connection', status: 400, close: CloseCode.invalidFrame, retryable: false, type: BAD },
  version_unsupported: { scope: 'connection', status: 400, close: CloseCode.policy, retryable: false, type: BAD },
  unauthorized: {
    scope: 'connection',
    status: 401,
    close: CloseCode.policy,
    retryable: false,
    type: 'authentication_error',
  },
  expired_token: {
    scope: 'connection',
    status: 401,
    close: CloseCode.policy,
    retryable: false,
    type: 'authentication_error',
  },
  too_many_errors: {
    scope: 'connection',
    status: 429,
    close: CloseCode.policy,
    retryable: false,
    type: 'rate_limit_error',
  },
  slow_consumer: { scope: 'connection', status: 408, close: CloseCode.slowConsumer, retryable: true, type: SERVER },
  too_many_connections: {
    scope: 'connection',
    status: 503,
    close: CloseCode.overloaded,
    retryable: true,
    type: SERVER,
  },
  not_allowed: { scope: 'lane', status: 403, retryable: false, type: 'permission_error' },
  invalid_request: { scope: 'lane', status: 400, retryable: false, type: BAD },
  unsupported: { scope: 'lane', status: 400, retryable: false, type: BAD },
  not_found: { scope: 'lane', status: 404, retryable: false, type: BAD },
  method_not_allowed: { scope: 'lane', status: 405, retryable: false, type: BAD },
  unknown_session: { scope: 'lane', status: 404, retryable: false, type: BAD },
  unknown_response: { scope: 'lane', status: 404, retryable: false, type: BAD },
  previous_response_not_found: { scope: 'lane', status: 400, retryable: false, type: BAD },
  unknown_model: { scope: 'lane', status: 404, retryable: false, type: BAD },
  context_too_long: { scope: 'lane', status: 400, retryable: false, type: BAD },
  too_large: { scope: 'lane', status: 413, retryable: false, type: BAD },
  too_many_lanes: { scope: 'lane', status: 429, retryable: false, type: BAD },
  conflict: { scope: 'lane', status: 409, retryable: false, type: BAD },
  session_busy: { scope: 'lane', status: 409, retryable: true, type: BAD },
  rate_limited: { scope: 'lane', status: 429, retryable: true, type: 'rate_limit_error' },
  overloaded: { scope: 'lane', status: 503, retryable: true, type: SERVER },
  queue_timeout: { scope: 'lane', status: 503, retryable: true, type: SERVER },
  deadline_exceeded: { scope: 'lane', status: 408, retryable: true, type: SERVER },
  model_loading: { scope: 'lane', status: 503, retryable: true, type: SERVER },
  worker_lost: { scope: 'lane', status: 503, retryable: true, type: SERVER },
  shutting_down: { scope: 'lane', status: 503, retryable: true, type: SERVER },
  internal: { scope: 'lane', status: 500, retryable: false, type: SERVER },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof errorTable;

/** How many frames an error notes is V8's and known to Node's types only; a browser's compiler reads this file too. */
const stacks: ErrorConstructor & { stackTraceLimit?: number } = Error;

/** An error a client may see. `param` names the offending field where there is one. */
export class ServiceError extends Error {
  /**
   * False: only `internal` ones note where they were made. A server sets it, since noting that is about half the cost
   * of a refusal, everybody waits while a flood is refused, and nobody asks where.
   */
  static notesStack = true;
  override readonly name = 'ServiceError';
  readonly code: ErrorCode;
  readonly param: string | undefined;
  /** Advice for retryable errors: do not try again sooner. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { param?: string; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    const { stackTraceLimit = 0 } = stacks;
    const isBare = !ServiceError.notesStack && code !== 'internal';
    if (isBare) stacks.stackTraceLimit = 0;
    super(message, { cause: options.cause });
    if (isBare) stacks.stackTraceLimit = stackTraceLimit;
    this.code = code;
    this.param = options.param;
    this.retryAfterMs = options.retryAfterMs;
  }

  get row(): ErrorRow {
    return errorTable[this.code];
  }
}

/** Rebuilds an error from its code as received; an unknown code (a newer peer) becomes `internal`. */
export function errorFromCode(code: string, message: string, param?: string): ServiceError {
  return new ServiceError(isErrorCode(code) ? code : 'internal', message, param === undefined ? {} : { param });
}

/** The error as the native wire carries it. Causes and stacks stay behind. */
export function toWireError(error: ServiceError): WireError {
  const { code, message, param, retryAfterMs } = error;
  const wire: WireError = { code, message, retryable: errorTable[code].retryable };
  if (param !== undefined) wire.param = param;
  if (retryAfterMs !== undefined) wire.retryAfterMs = retryAfterMs;
  return wire;
}

/** The error of a frame as received; an unknown code (a newer peer) becomes `internal`. */
export function errorFromWire({ code, message, param, retryAfterMs }: WireError): ServiceError {
  return new ServiceError(isErrorCode(code) ? code : 'internal', message, {
    ...(param === undefined ? {} : { param }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorTable, code);
}
