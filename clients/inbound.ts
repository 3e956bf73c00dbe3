// Shape check of what the server sends, before any field is used. Called by connection.ts for every frame.
// Unknown ops and extra fields are fine (a newer server); a known op with missing or wrong fields is not.
import { Op } from '../protocol/messages.ts';
import type { ServerMessage } from '../protocol/messages.ts';

type Kind =
  | 'number'
  | 'numberOrNull'
  | 'numberOrAbsent'
  | 'boolean'
  | 'text'
  | 'textOrNull'
  | 'object'
  | 'objectOrNull'
  | 'list'
  | 'any';

/** Kinds of the fields after [op, lane], in order. */
const shapes: Readonly<Record<number, readonly Kind[]>> = {
  [Op.Welcome]: ['number', 'object'],
  [Op.LaneOpened]: [],
  [Op.LaneClosed]: [],
  [Op.SessionOpened]: ['text', 'object'],
  [Op.Sessions]: ['text', 'list'],
  [Op.SessionHistory]: ['text', 'text', 'list', 'numberOrAbsent'],
  [Op.SessionClosed]: ['text', 'text'],
  [Op.Created]: ['text', 'number', 'text', 'text', 'textOrNull'],
  [Op.Deltas]: ['list'],
  [Op.ToolBegin]: ['number', 'number', 'number', 'text', 'text'],
  [Op.ToolDelta]: ['number', 'number', 'number', 'text'],
  [Op.ToolEnd]: ['number', 'number', 'number'],
  [Op.Done]: ['number', 'number', 'text', 'object', 'object', 'objectOrNull'],
  [Op.Cancelled]: ['number', 'number'],
  [Op.Error]: ['textOrNull', 'object'],
  [Op.Pong]: ['any'],
  [Op.Goaway]: ['text', 'number'],
  [Op.Resumed]: ['text', 'boolean', 'numberOrNull', 'text', 'textOrNull', 'textOrNull'],
  [Op.State]: ['number', 'text', 'object'],
  [Op.Models]: ['list'],
};

function fits(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case 'number':
      return typeof value === 'number';
    case 'numberOrNull':
      return value === null || typeof value === 'number';
    case 'numberOrAbsent':
      return value === undefined || value === null || typeof value === 'number';
    case 'boolean':
      return typeof value === 'boolean';
    case 'text':
      return typeof value === 'string';
    case 'textOrNull':
      return value === null || typeof value === 'string';
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    case 'objectOrNull':
      return typeof value === 'object' && !Array.isArray(value);
    case 'list':
      return Array.isArray(value);
    case 'any':
      return true;
  }
}

function isDelta(value: unknown): boolean {
  if (!Array.isArray(value)) return false;
  const [handle, seq, text, offset, ends, tokens] = value as unknown[];
  const isPlain = typeof handle === 'number' && typeof seq === 'number' && typeof text === 'string';
  const hasPlace = offset === undefined || offset === null || typeof offset === 'number';
  const hasEnds = ends === undefined || ends === null || (Array.isArray(ends) && ends.every(Number.isInteger));
  return isPlain && hasPlace && hasEnds && (tokens === undefined || tokens === null || Array.isArray(tokens));
}

/** Returns the message, null for an op this SDK does not know, or throws TypeError for a broken frame. */
export function readServerMessage(value: unknown): ServerMessage | null {
  if (!Array.isArray(value) || typeof value[0] !== 'number' || typeof value[1] !== 'number') {
    throw new TypeError('a frame must be an array that begins with op and lane');
  }
  const shape = shapes[value[0]];
  if (shape === undefined) return null;
  const isWhole = shape.every((kind, index) => fits(value[index + 2], kind));
  if (!isWhole || (value[0] === Op.Deltas && !(value[2] as unknown[]).every(isDelta))) {
    throw new TypeError(`op ${value[0]} has missing or wrong fields`);
  }
  return value as unknown as ServerMessage;
}
