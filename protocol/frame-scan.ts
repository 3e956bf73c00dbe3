// Walks the bytes of a frame once, before anything is built from them: only the MessagePack subset of
// protocol/README.md passes, and the frame ends exactly where its value ends. Called by codec.ts on every
// inbound frame, so that a hostile frame costs one pass over its own bytes and nothing else.
import { ServiceError } from './errors.ts';

/** Deepest nesting of arrays and maps in a frame; the frame's own array is level 1. */
export const MAX_NESTING = 64;

/**
 * Most arrays, maps and map entries of a frame together. Ten thousand sessions in one answer need 80,000; a frame of
 * 1 MiB could hold a million, and building those objects blocks the thread for 170 ms.
 */
export const MAX_PARTS = 1 << 17;

/** What can be known of a frame too large to be decoded. */
export interface FrameHead {
  op: number;
  lane: number;
  /** The third field when it is a string of at most 255 bytes, else null. */
  requestId: string | null;
}

const PROTO_KEY = [...'__proto__'].map((char) => char.charCodeAt(0));
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** Where a string begins whose first character is U+FEFF, and that has a length of its own behind its type byte. */
export interface MarkedString {
  /** Of its type byte. */
  start: number;
  /** Of its first character. */
  textStart: number;
  textBytes: number;
}

const none: readonly MarkedString[] = [];

// Cursor of the scan now running. A scan never yields, so one cursor serves all.
let bytes: Uint8Array = new Uint8Array(0);
let position = 0;
let numParts = 0;
let marked: MarkedString[] | null = null;

/**
 * Throws ServiceError `invalid_frame` unless `frame` is exactly one value of the subset. Returns those of its
 * strings that begin with U+FEFF, in their order, without the short ones (fixstr): some decoders drop that character.
 */
export function checkFrame(frame: Uint8Array): readonly MarkedString[] {
  bytes = frame;
  position = 0;
  numParts = 0;
  marked = null;
  skipValue(0);
  if (position !== frame.length) refuse(`${frame.length - position} bytes follow the frame`);
  return marked ?? none;
}

/**
 * Reads op, lane and requestId from the front of a frame without looking at the rest, so that an oversize
 * frame is answered on its lane. Null when the front is not that of a frame.
 */
export function readFrameHead(frame: Uint8Array): FrameHead | null {
  bytes = frame;
  position = 0;
  try {
    const type = next();
    if (type === 0xdc) uint(2);
    else if (type === 0xdd) uint(4);
    else if (type < 0x92 || type > 0x9f) return null;
    const op = readSmallUint();
    const lane = op === null ? null : readSmallUint();
    return op === null || lane === null ? null : { op, lane, requestId: readShortString() };
  } catch {
    return null;
  }
}

function skipValue(depth: number): void {
  const type = next();
  if (type <= 0x7f || type >= 0xe0) return;
  if (type <= 0x8f) return skipMap(type & 0x0f, depth);
  if (type <= 0x9f) return skipArray(type & 0x0f, depth);
  if (type <= 0xbf) return skip(type & 0x1f);
  switch (type) {
    case 0xc0:
    case 0xc2:
    case 0xc3:
      return;
    case 0xcc:
    case 0xd0:
      return skip(1);
    case 0xcd:
    case 0xd1:
      return skip(2);
    case 0xca:
    case 0xce:
    case 0xd2:
      return skip(4);
    case 0xcb:
      return skip(8);
    case 0xcf:
      return skipInt64(uint(4));
    case 0xd3:
      // Sign of the upper half: int64 is signed.
      return skipInt64(uint(4) | 0);
    case 0xd9:
      return skipText(position - 1, uint(1));
    case 0xda:
      return skipText(position - 1, uint(2));
    case 0xdb:
      return skipText(position - 1, uint(4));
    case 0xdc:
      return skipArray(uint(2), depth);
    case 0xdd:
      return skipArray(uint(4), depth);
    case 0xde:
      return skipMap(uint(2), depth);
    case 0xdf:
      return skipMap(uint(4), depth);
    default:
      // 0xc1, bin 8-32, ext 8-32, fixext 1-16
      return refuse(`type 0x${type.toString(16)} is not used in this protocol`);
  }
}

function skipArray(length: number, depth: number): void {
  enter(depth, 1);
  // A forged length ends at the first missing byte: every element takes one or more.
  for (let i = 0; i < length; i++) skipValue(depth + 1);
}

function skipMap(length: number, depth: number): void {
  enter(depth, 1 + length);
  for (let i = 0; i < length; i++) {
    skipKey();
    skipValue(depth + 1);
  }
}

function enter(depth: number, parts: number): void {
  if (depth >= MAX_NESTING) refuse(`nested deeper than ${MAX_NESTING}`);
  numParts += parts;
  if (numParts > MAX_PARTS) refuse(`more than ${MAX_PARTS} arrays, maps and map entries`);
}

function skipKey(): void {
  const keyStart = position;
  const type = next();
  let length: number;
  if (type >= 0xa0 && type <= 0xbf) length = type & 0x1f;
  else if (type === 0xd9) length = uint(1);
  else if (type === 0xda) length = uint(2);
  else if (type === 0xdb) length = uint(4);
  else return refuse('a map key is not a string');
  const start = position;
  if (type >= 0xd9) skipText(keyStart, length);
  else skip(length);
  // The decoder would rename this key silently; a field that is not what was sent is worse than a refusal.
  if (length === PROTO_KEY.length && PROTO_KEY.every((byte, i) => bytes[start + i] === byte)) {
    refuse('the map key __proto__ is not allowed');
  }
}

function skipInt64(high: number): void {
  const low = uint(4);
  if (!Number.isSafeInteger(high * 2 ** 32 + low)) refuse('an integer is beyond ±(2^53 - 1)');
}

/** A string of str 8, 16 or 32 whose length was just read. */
function skipText(start: number, textBytes: number): void {
  const textStart = position;
  skip(textBytes);
  if (textBytes < 3 || bytes[textStart] !== 0xef || bytes[textStart + 1] !== 0xbb || bytes[textStart + 2] !== 0xbf)
    return;
  marked ??= [];
  marked.push({ start, textStart, textBytes });
}

function skip(length: number): void {
  position += length;
  if (position > bytes.length) refuse('the frame ends too early');
}

function next(): number {
  const byte = bytes[position++];
  return byte === undefined ? refuse('the frame ends too early') : byte;
}

/** Big-endian unsigned integer of 1, 2 or 4 bytes. */
function uint(size: 1 | 2 | 4): number {
  let value = 0;
  for (let i = 0; i < size; i++) value = value * 256 + next();
  return value;
}

function readSmallUint(): number | null {
  const type = next();
  if (type <= 0x7f) return type;
  const value = type === 0xcc ? uint(1) : type === 0xcd ? uint(2) : type === 0xce ? uint(4) : null;
  return value !== null && value < 2 ** 31 ? value : null;
}

function readShortString(): string | null {
  const type = bytes[position++];
  if (type === undefined) return null;
  const length = type >= 0xa0 && type <= 0xbf ? type & 0x1f : type === 0xd9 ? uint(1) : null;
  if (length === null || position + length > bytes.length) return null;
  return utf8.decode(bytes.subarray(position, position + length));
}

function refuse(reason: string): never {
  throw new ServiceError('invalid_frame', `Undecodable frame: ${reason}.`);
}
