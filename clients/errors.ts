// Errors of the SDK. What the server refuses arrives as ServiceError (a code from protocol/errors.ts); what the
// network does is ConnectionLostError. Nothing else is thrown on purpose.
import { errorTable } from '../protocol/errors.ts';
import type { ServiceError } from '../protocol/errors.ts';

/** Where a response stands: what `client.watch` goes on from. */
export interface ResponsePosition {
  response: string;
  epoch: string;
  /** The last event that is here; 0 for none. */
  lastSeq: number;
}

/** The answer cannot be completed: the server no longer has it after a lost connection, or the client was closed. */
export class ConnectionLostError extends Error {
  override readonly name = 'ConnectionLostError';
  /** Last position of the response that was cut off; null when the server had not named it yet. */
  readonly position: ResponsePosition | null;
  /** The text that is here: the answer up to `position`. */
  readonly text: string;
  /** True when `close()` was called here, false when the network or the server did it. */
  readonly isLocal: boolean;

  constructor(message: string, options: { position?: ResponsePosition | null; text?: string; isLocal?: boolean } = {}) {
    super(message);
    this.position = options.position ?? null;
    this.text = options.text ?? '';
    this.isLocal = options.isLocal ?? false;
  }
}

/** True for errors after which reconnecting with the same options cannot help (wrong key, wrong version). */
export function isFatalForConnection(error: ServiceError): boolean {
  const row = errorTable[error.code];
  return row.scope === 'connection' && !row.retryable;
}
