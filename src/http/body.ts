// Request bodies: collected up to the limit, then read as JSON. What exceeds the limit is answered 413 and the rest of
// it is thrown away as it arrives, so that the client gets to read the answer.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { MAX_NESTING } from '../../protocol/frame-scan.ts';
import type { Exchange } from './exchange.ts';

/** The client went before its body was complete; there is nobody to answer. */
export class ClientGone extends Error {
  override readonly name = 'ClientGone';
}

/** Bodies being received by all connections together: without it many slow senders could fill the memory. */
const BODIES_IN_FLIGHT_BYTES = 256 << 20;
let inFlightBytes = 0;

function tooLarge(limitBytes: number): ServiceError {
  return new ServiceError('too_large', `The request body exceeds ${limitBytes} bytes.`);
}

/**
 * The whole body. Call before the handler first awaits.
 * Rejects with ServiceError `too_large`, or ClientGone.
 */
export function readBody(exchange: Exchange, limitBytes: number = Limits.httpBodyBytes): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (Number(exchange.header('content-length')) > limitBytes) {
      reject(tooLarge(limitBytes));
      return;
    }
    let chunks: Buffer[] = [];
    let numBytes = 0;
    let numHeld = 0;
    const release = (): void => {
      inFlightBytes -= numHeld;
      numHeld = 0;
      chunks = [];
    };
    const fail = (error: Error): void => {
      release();
      reject(error);
    };
    exchange.onGone(() => fail(new ClientGone('The client left while sending its request.')));
    exchange.onData((chunk, isLast) => {
      numBytes += chunk.byteLength;
      // What comes after a refusal is dropped, and so is what comes after the end.
      if (numBytes > limitBytes) return fail(tooLarge(limitBytes));
      if (inFlightBytes + chunk.byteLength > BODIES_IN_FLIGHT_BYTES) {
        numBytes = Infinity;
        return fail(new ServiceError('overloaded', 'Too many requests are being received at once.'));
      }
      // The buffer is detached when this call returns, so it is copied.
      chunks.push(Buffer.from(Buffer.from(chunk)));
      numHeld += chunk.byteLength;
      inFlightBytes += chunk.byteLength;
      if (!isLast) return;
      const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
      release();
      resolve(body);
    });
  });
}

/** True when some array or object of this JSON text lies deeper than allowed; such values overflow stacks further on. */
function isTooDeep(json: string): boolean {
  let depth = 0;
  let isInString = false;
  for (let i = 0; i < json.length; i++) {
    const code = json.charCodeAt(i);
    if (isInString) {
      if (code === 0x5c) i++;
      else if (code === 0x22) isInString = false;
    } else if (code === 0x22) isInString = true;
    else if (code === 0x7b || code === 0x5b) {
      if (++depth > MAX_NESTING) return true;
    } else if (code === 0x7d || code === 0x5d) depth--;
  }
  return false;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** The body as a JSON object. Rejects with ServiceError `too_large` or `invalid_request`, or ClientGone. */
export async function readJson(exchange: Exchange): Promise<Record<string, unknown>> {
  return parseJsonObject(await readBody(exchange));
}

export function parseJsonObject(body: Uint8Array): Record<string, unknown> {
  if (body.byteLength === 0) throw new ServiceError('invalid_request', 'The request has no body; JSON is expected.');
  let value: unknown;
  try {
    const text = utf8.decode(body);
    if (isTooDeep(text)) throw new Error(`nested deeper than ${MAX_NESTING}`);
    value = JSON.parse(text);
  } catch (error) {
    throw new ServiceError(
      'invalid_request',
      `The body cannot be read as JSON: ${(error as Error).message.slice(0, 200)}`,
    );
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ServiceError('invalid_request', 'The body must be a JSON object.');
  }
  return value as Record<string, unknown>;
}
