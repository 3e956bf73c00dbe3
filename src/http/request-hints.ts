// What a request over HTTP may say about its urgency, in headers, since OpenAI's bodies have no fields for it. Read by
// the dialects; the native protocol has both in Create.
import { ServiceError } from '../../protocol/errors.ts';
import { latencyClasses } from '../../protocol/messages.ts';
import type { LatencyClass } from '../../protocol/messages.ts';
import type { Caller } from '../auth/caller.ts';
import type { Exchange } from './exchange.ts';

export const CLASS_HEADER = 'x-tokenwire-class';
export const DEADLINE_HEADER = 'x-tokenwire-deadline-ms';
const MAX_DEADLINE_MS = 2 ** 31 - 1;

export interface RequestHints {
  class: LatencyClass;
  /** Milliseconds from now after which the answer is of no use. */
  deadlineMs: number | undefined;
}

/** Without a header the class is the caller's, and there is no deadline. Throws `invalid_request` naming the header. */
export function requestHints(exchange: Pick<Exchange, 'header'>, caller: Caller): RequestHints {
  const wanted = exchange.header(CLASS_HEADER);
  const latencyClass = wanted === '' ? caller.class : latencyClasses.find((each) => each === wanted);
  if (latencyClass === undefined) throw invalid(CLASS_HEADER, `one of ${latencyClasses.join(', ')}`);
  const deadline = exchange.header(DEADLINE_HEADER);
  if (deadline === '') return { class: latencyClass, deadlineMs: undefined };
  const deadlineMs = /^\d{1,10}$/.test(deadline) ? Number(deadline) : NaN;
  if (!(deadlineMs >= 1 && deadlineMs <= MAX_DEADLINE_MS)) {
    throw invalid(DEADLINE_HEADER, `a whole number of milliseconds from 1 to ${MAX_DEADLINE_MS}`);
  }
  return { class: latencyClass, deadlineMs };
}

function invalid(header: string, expected: string): ServiceError {
  return new ServiceError('invalid_request', `The header ${header} must be ${expected}.`, { param: header });
}
