// Idempotency-Key: a POST repeated with the same key by the same caller gets the response of the first time, while that
// can be read. Dialects create through here. A response that was cancelled or failed is not worth keeping to: the
// client that repeats wants an answer, so it is made anew.
import { createHash } from 'node:crypto';
import { ServiceError } from '../../protocol/errors.ts';
import type { Caller } from '../auth/caller.ts';
import type { Responses } from '../responses/registry.ts';
import type { Response } from '../responses/response.ts';
import type { Exchange } from './exchange.ts';

const HEADER = 'idempotency-key';
/** Longest key; the common clients send about 60 characters. */
const MAX_KEY_CHARS = 255;

/** Digest of the body each response was created from. */
const bodies = new WeakMap<Response, string>();

/**
 * The response of an earlier request with this key, or what `create` makes with the request key it is given
 * (undefined without the header). Throws `invalid_request` for a bad key and for one that named another body.
 */
export function createOnce(
  exchange: Exchange,
  responses: Responses,
  caller: Caller,
  body: Uint8Array,
  create: (requestKey: string | undefined) => Response,
): Response {
  const key = exchange.header(HEADER);
  if (key === '') return create(undefined);
  if (key.length > MAX_KEY_CHARS) refuse(`must be at most ${MAX_KEY_CHARS} characters`);
  const requestKey = JSON.stringify(['http', caller.tenant, caller.keyId, exchange.path, key]);
  const digest = createHash('sha256').update(body).digest('base64');
  const known = responses.byRequest(requestKey);
  if (known !== undefined && known.choices.every(isWorthKeeping)) {
    if (bodies.get(known) !== digest) refuse('was used for another request body');
    return known;
  }
  const response = create(requestKey);
  bodies.set(response, digest);
  return response;
}

function isWorthKeeping({ state, cancelAtMs }: Response): boolean {
  if (state.kind !== 'ended') return cancelAtMs === null;
  return state.end.reason !== 'cancelled' && state.end.reason !== 'error';
}

function refuse(why: string): never {
  throw new ServiceError('invalid_request', `The Idempotency-Key header ${why}.`, { param: 'Idempotency-Key' });
}
