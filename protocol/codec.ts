// Bytes ↔ messages: the only door to the MessagePack library. Server and clients (Node and browsers) call it for
// every frame. Invariants: what encode writes any plain MessagePack decoder reads, and decode takes only the
// subset of README.md and never keeps a view of the bytes it was given.
import { Packr } from 'msgpackr';
import { ServiceError } from './errors.ts';
import { checkFrame } from './frame-scan.ts';
import type { MarkedString } from './frame-scan.ts';
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
 * Without its native part (in browsers, and where Node has none for the machine) the library reads long strings with a
 * TextDecoder that takes U+FEFF at the start for a byte order mark and drops it. Tried once instead of asking where we
 * run, so that it stays true whatever the library does.
 */
const dropsMark = (packr.unpack(packr.pack(`\uFEFF${'x'.repeat(100)}`)) as string).length === 100;

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
  const marked = checkFrame(bytes);
  try {
    return packr.unpack(dropsMark && marked.length > 0 ? withMarksTwice(bytes, marked) : bytes);
  } catch (error) {
    throw new ServiceError('invalid_frame', 'Undecodable frame.', { cause: error });
  }
}

/** What the library's TextDecoder reads: the strings up to this length are read without it. */
const LONGEST_WITHOUT_DECODER = 64;

/** The frame with another U+FEFF before each string that would lose one. */
function withMarksTwice(bytes: Uint8Array, marked: readonly MarkedString[]): Uint8Array {
  const long = marked.filter(({ textBytes }) => textBytes > LONGEST_WITHOUT_DECODER);
  // Each grows by the mark and at most 3 bytes of length: str 8 becomes str 32.
  const frame = new Uint8Array(bytes.length + long.length * 6);
  const view = new DataView(frame.buffer);
  let from = 0;
  let to = 0;
  const copy = (end: number): void => {
    frame.set(bytes.subarray(from, end), to);
    to += end - from;
    from = end;
  };
  for (const { start, textStart, textBytes } of long) {
    copy(start);
    frame[to] = 0xdb;
    view.setUint32(to + 1, textBytes + 3);
    frame.set([0xef, 0xbb, 0xbf], to + 5);
    to += 8;
    from = textStart;
  }
  copy(bytes.length);
  return frame.subarray(0, to);
}
