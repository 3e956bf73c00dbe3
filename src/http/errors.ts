// ServiceError → what an OpenAI client expects: status, body and retry headers. Called by exchange.ts for errors before
// the first byte, and by the streaming dialects for errors after it.
import { ServiceError, type ErrorCode } from '../../protocol/errors.ts';

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string };
}

/** Codes that existing clients compare with; the rest keep our names. */
const openAiCodes: Partial<Record<ErrorCode, string>> = {
  unauthorized: 'invalid_api_key',
  unknown_model: 'model_not_found',
  context_too_long: 'context_length_exceeded',
  rate_limited: 'rate_limit_exceeded',
};

/** Advice when a retryable error carries none of its own. */
const DEFAULT_RETRY_MS = 1000;

/** Anything thrown → a ServiceError; what is not one becomes `internal`, with its cause kept for the log. */
export function toServiceError(error: unknown): ServiceError {
  if (error instanceof ServiceError) return error;
  return new ServiceError('internal', 'An internal error occurred; the log of the server has its cause.', {
    cause: error,
  });
}

export function errorBody(error: ServiceError): ErrorBody {
  return {
    error: {
      message: error.message,
      type: error.row.type,
      param: error.param ?? null,
      code: openAiCodes[error.code] ?? error.code,
    },
  };
}

/** Milliseconds after which a retry makes sense, or null when it makes none. */
export function retryAfterMs(error: ServiceError): number | null {
  return error.row.retryable ? (error.retryAfterMs ?? DEFAULT_RETRY_MS) : null;
}

export function errorHeaders(error: ServiceError): [name: string, value: string][] {
  const afterMs = retryAfterMs(error);
  const headers: [string, string][] = [['x-should-retry', String(afterMs !== null)]];
  if (afterMs !== null) {
    headers.push(['retry-after', String(Math.max(1, Math.ceil(afterMs / 1000)))]);
    headers.push(['retry-after-ms', String(Math.ceil(afterMs))]);
  }
  if (error.row.status === 401) headers.push(['www-authenticate', 'Bearer']);
  return headers;
}
