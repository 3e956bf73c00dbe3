// Bytes ↔ messages: the only door to the MessagePack library. Server and clients (Node and browsers) call it for
// every frame. Invariants: what encode writes any plain MessagePack decoder reads, and decode takes only the
// subset of README.md and never keeps a view of the bytes it was given.
import { Packr } from 'msgpackr';
import { ServiceError } from './errors.ts';
import { checkFrame } from './frame-scan.ts';
import type { ClientMessage, ServerMessage } from './messages.ts';

export { MAX_NESTING, MAX_PARTS, readFrameHead } from './frame-scan.ts';
export type { FrameHead } from './frame-scan.ts';

// Records would be unreadable for other MessagePack libraries. Fields that are undefined are
// left out of maps, and written as nil in tuples, since the library's own mark for them is an extension type.
const options = {
  useRecords: false,
  int64AsType: 'number' as const,
  variableMapSize: true,
  skipValues: [undefined],
  encodeUndefinedAsNil: true,
};
const packr = new Packr(options);

/**
 * The frame of a message. Its bytes never change afterwards, but they are a view into memory shared with other
 * frames: hand it to `send` as it is, and use `encodeCopy` for what is kept for long or transferred to a thread.
 */
export function encode(message: ServerMessage | ClientMessage): Uint8Array<ArrayBuffer> {
  return packr.pack(message) as Uint8Array<ArrayBuffer>;
}

/** The frame of a message in memory of its own. */
export function encodeCopy(message: ServerMessage | ClientMessage): Uint8Array<ArrayBuffer> {
  return new Uint8Array(encode(message));
}

/**
 * The value in a frame: nothing is known of its shape (see validate.ts). It shares no memory with `bytes`, which
 * may be detached as soon as this returns. Throws ServiceError `invalid_frame` for anything outside the subset.
 */
export function decode(bytes: Uint8Array): unknown {
  checkFrame(bytes);
  try {
    return packr.unpack(bytes);
  } catch (error) {
    throw new ServiceError('invalid_frame', 'Undecodable frame.', { cause: error });
  }
}
