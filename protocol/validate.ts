// Untrusted value (codec.ts's decode) → typed ClientMessage, or the error to answer with and where to answer.
// src/socket calls it once per inbound frame. It never throws for bad input, whatever the input.
import { ServiceError } from './errors.ts';
import { integer, refuse, string } from './fields.ts';
import { Op } from './messages.ts';
import type { ClientMessage } from './messages.ts';
import { parseCreateOptions, parseHelloOptions, parseLaneOptions, parseRequestId } from './options.ts';
import { MAX_ID, parseResumeOptions, parseSessionOptions } from './options.ts';

export type ParsedFrame =
  | { ok: true; message: ClientMessage }
  /** `error` is answered on `lane`; one of connection scope (invalid_frame) ends the connection. */
  | { ok: false; error: ServiceError; lane: number; requestId: string | null };

export { MAX_ID } from './options.ts';

const withoutRequestId: ReadonlySet<number> = new Set([
  Op.Hello,
  Op.OpenLane,
  Op.CloseLane,
  Op.Cancel,
  Op.Ack,
  Op.Ping,
]);

const laneToOpen = integer(1, MAX_ID);
const handle = integer(1, MAX_ID);
const offset = integer(0, Number.MAX_SAFE_INTEGER);
const seq = integer(0, Number.MAX_SAFE_INTEGER);
const numTurns = integer(0, MAX_ID);
const start = integer(0, MAX_ID);
const count = integer(1, MAX_ID);
const version = integer(0, MAX_ID);
const nonceText = string(0, 128);

function nonce(value: unknown): number | string {
  if (typeof value === 'string') return nonceText(value, 'nonce');
  return Number.isSafeInteger(value) ? (value as number) : refuse('nonce', 'an integer or a string');
}

/** Checks a decoded frame against protocol/README.md. Extra entries at the end of a frame are dropped. */
export function parseClientMessage(value: unknown): ParsedFrame {
  if (!Array.isArray(value) || !isSmallUint(value[0]) || !isSmallUint(value[1])) {
    const error = new ServiceError(
      'invalid_frame',
      'A frame is an array [op, lane, …] with integers from 0 to 2^31-1.',
    );
    return { ok: false, error, lane: 0, requestId: null };
  }
  const frame: unknown[] = value;
  try {
    return { ok: true, message: parseFields(value[0], value[1], frame) };
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    return { ok: false, error, lane: value[1], requestId: requestIdOf(value[0], frame[2]) };
  }
}

function parseFields(op: number, lane: number, frame: unknown[]): ClientMessage {
  // nil and a missing entry are the same.
  const [, , a = null, b = null, c = null, d = null] = frame;
  switch (op) {
    case Op.Hello:
      if (lane !== 0) integer(0, 0)(lane, 'lane');
      return [op, lane, version(a, 'version'), parseHelloOptions(b ?? {}, '')];
    case Op.OpenLane:
      return [op, laneToOpen(lane, 'lane'), parseLaneOptions(a ?? {}, '')];
    case Op.CloseLane:
      return [op, laneToOpen(lane, 'lane')];
    case Op.OpenSession:
      return [op, lane, parseRequestId(a, 'requestId'), parseSessionOptions(b ?? {}, '')];
    case Op.ListSessions:
      return [op, lane, parseRequestId(a, 'requestId')];
    case Op.History: {
      const session = [parseRequestId(a, 'requestId'), parseRequestId(b, 'session')] as const;
      if (d !== null) return [op, lane, ...session, start(c ?? 0, 'start'), count(d, 'count')];
      return c === null ? [op, lane, ...session] : [op, lane, ...session, start(c, 'start')];
    }
    case Op.CloseSession:
      return [op, lane, parseRequestId(a, 'requestId'), parseRequestId(b, 'session')];
    case Op.Rollback:
    case Op.Fork:
      return [op, lane, parseRequestId(a, 'requestId'), parseRequestId(b, 'session'), numTurns(c, 'numTurns')];
    case Op.Create:
      return [op, lane, parseRequestId(a, 'requestId'), parseCreateOptions(b ?? {}, '')];
    case Op.Cancel:
      return b === null ? [op, lane, handle(a, 'handle')] : [op, lane, handle(a, 'handle'), offset(b, 'heard')];
    case Op.Ack:
      return [op, lane, handle(a, 'handle'), seq(b, 'seq')];
    case Op.Ping:
      return [op, lane, nonce(a)];
    case Op.Resume:
      return [op, lane, parseRequestId(a, 'requestId'), parseResumeOptions(b ?? {}, '')];
    default:
      throw new ServiceError('unsupported', `Op ${op} is not one of this version.`, { param: 'op' });
  }
}

/** The requestId to echo in an error; a newer op is taken to have its requestId in the usual place. */
function requestIdOf(op: number, field: unknown): string | null {
  if (withoutRequestId.has(op) || typeof field !== 'string') return null;
  try {
    return parseRequestId(field, 'requestId');
  } catch {
    return null;
  }
}

function isSmallUint(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_ID;
}
