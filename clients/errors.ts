// Errors of the SDK. What the server refuses arrives as ServiceError (a code from protocol/errors.ts); what the
// network does is ConnectionLostError. Nothing else is thrown on purpose.
import { errorTable, errorFromCode, ServiceError } from '../protocol/errors.ts';
import type { WireError } from '../protocol/messages.ts';

/** Where a response stood when its connection went away: what a later resume has to name. */
export interface ResponsePosition {
  response: string;
  epoch: string;
  lastSeq: number;
}

/** The connection dropped (or the client was closed) before the answer was complete. */
export class ConnectionLostError extends Error {
  override readonly name = 'ConnectionLostError';
  /** Last position of the response that was cut off; null when the server had not named it yet. */
  readonly position: ResponsePosition | null;
  /** True when `close()` was called here, false when the network or the server did it. */
  readonly isLocal: boolean;

  constructor(message: string, options: { position?: ResponsePosition | null; isLocal?: boolean } = {}) {
    super(message);
    this.position = options.position ?? null;
    this.isLocal = options.isLocal ?? false;
  }
}

/** Rebuilds the error the server meant. A code this SDK does not know (a newer server) becomes `internal`. */
export function errorFromWire(wire: WireError): ServiceError {
  const options: { param?: string; retryAfterMs?: number } = {};
  if (typeof wire.param === 'string') options.param = wire.param;
  if (typeof wire.retryAfterMs === 'number') options.retryAfterMs = wire.retryAfterMs;
  const { code } = errorFromCode(String(wire.code), '');
  return new ServiceError(code, String(wire.message), options);
}

/** True for errors after which reconnecting with the same options cannot help (wrong key, wrong version). */
export function isFatalForConnection(error: ServiceError): boolean {
  const row = errorTable[error.code];
  return row.scope === 'connection' && !row.retryable;
}
