// Checksums as the hub names files: SHA-256 for large ones, git's blob SHA-1 for small ones.
import { createHash, type Hash } from 'node:crypto';
import fs from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import type { Checksum } from './listing.ts';

const PIECE_BYTES = 4 << 20;

/** A hash to feed the content into. Git hashes a header with the length before it. */
export function startHash(kind: Checksum['kind'], bytes: number): Hash {
  return kind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`);
}

/** Who reads gigabytes tells how far it is, and can be stopped between two pieces: it rejects with the signal's reason. */
export interface ReadWatch {
  signal?: AbortSignal | undefined;
  onBytes?(done: number): void;
}

/**
 * Feeds the first `bytes` of a file into `hash`, letting other work of the thread through. Returns the bytes read: fewer
 * when the file is shorter.
 */
export async function hashInto(
  hash: Hash,
  file: string,
  bytes: number,
  { signal, onBytes }: ReadWatch = {},
): Promise<number> {
  const handle = await fs.promises.open(file, 'r');
  const piece = Buffer.allocUnsafe(PIECE_BYTES);
  let done = 0;
  try {
    while (done < bytes) {
      signal?.throwIfAborted();
      const { bytesRead } = await handle.read(piece, 0, Math.min(PIECE_BYTES, bytes - done), done);
      if (bytesRead === 0) break;
      hash.update(piece.subarray(0, bytesRead));
      done += bytesRead;
      onBytes?.(done);
      await breathe();
    }
  } finally {
    await handle.close();
  }
  return done;
}

/** Whether a file has this length and this content; false when it does not exist. */
export async function matches(
  file: string,
  expected: { bytes: number; checksum: Checksum },
  watch: ReadWatch = {},
): Promise<boolean> {
  const { bytes, checksum } = expected;
  if (fileBytes(file) !== bytes) return false;
  const hash = startHash(checksum.kind, bytes);
  const read = await hashInto(hash, file, bytes, watch);
  return read === bytes && hash.digest('hex') === checksum.hex;
}

/** Length of a file, -1 when there is none. */
export function fileBytes(file: string): number {
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  return stat?.isFile() ? stat.size : -1;
}
