// One file from the hub to the disk: into `NAME.part`, from where an earlier try was cut, checked, then renamed.
// What must stay true: a file under its own name is whole and has the checksum that the hub's list names.
import type { Hash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileBytes, hashInto, matches, startHash } from './checksum.ts';
import { connectionError, type HubClient, type Opened } from './hub-client.ts';
import type { RemoteFile } from './listing.ts';
import { HubError, retrying, type Patience } from './retry.ts';

export interface Download {
  client: HubClient;
  id: string;
  commit: string;
  file: RemoteFile;
  /** Of the snapshot; the file's folders in it are made. */
  directory: string;
  patience: Patience;
  signal?: AbortSignal | undefined;
  /** Bytes of this file that are here. Goes back when a part turns out to be of no use. */
  onBytes(done: number): void;
}

const PART = '.part';
const ETAG = '.part.etag';
/** A try that brought less than this, or a hundredth of a smaller file, has not moved forward. */
const MOVED_BYTES = 1 << 20;
/** The second time the content is wrong, it is wrong at its source. */
const MAX_MISMATCHES = 2;

/** Where a file of the list belongs. Throws a HubError when that is outside of the directory. */
export function placeOf(directory: string, name: string): string {
  const place = path.resolve(directory, name);
  if (!place.startsWith(path.resolve(directory) + path.sep)) throw new HubError(`${name}: leads out of ${directory}`);
  return place;
}

/** Bytes of the file that need not be downloaded any more, as far as lengths tell. */
export function bytesHere(directory: string, file: RemoteFile): number {
  const place = placeOf(directory, file.path);
  if (fileBytes(place) === file.bytes) return file.bytes;
  return Math.min(file.bytes, Math.max(0, fileBytes(place + PART)));
}

/** Links a file of the right length from one snapshot into another, or moves its part where `mayMove`. */
export function adoptFile(from: string, to: string, file: RemoteFile, mayMove: boolean): void {
  const there = placeOf(from, file.path);
  const here = placeOf(to, file.path);
  if (bytesHere(to, file) > 0) return;
  fs.mkdirSync(path.dirname(here), { recursive: true });
  try {
    if (fileBytes(there) === file.bytes) fs.linkSync(there, here);
    else if (mayMove && fileBytes(there + PART) > 0) {
      fs.renameSync(there + PART, here + PART);
      fs.renameSync(there + ETAG, here + ETAG);
    }
  } catch {
    // A file system without links, or a part without a tag: what did not come over is downloaded.
  }
}

/** Does nothing when the file is there and right. Throws a HubError (refused, given up, wrong content, disk full). */
export async function downloadFile(download: Download): Promise<void> {
  const { file, directory, patience, signal, onBytes } = download;
  const place = placeOf(directory, file.path);
  if (await matches(place, file, download)) return;
  await fs.promises.rm(place, { force: true });
  await fs.promises.mkdir(path.dirname(place), { recursive: true });
  let mismatches = 0;
  await retrying(patience, signal, async (moved) => {
    const digest = await fillPart(download, place, moved);
    if (digest === file.checksum.hex) return;
    await dropPart(place);
    onBytes(0);
    mismatches++;
    const expected = `${file.checksum.kind} ${file.checksum.hex}`;
    throw new HubError(`${download.id}/${file.path}: checksum mismatch: expected ${expected}, got ${digest}`, {
      isTransient: mismatches < MAX_MISMATCHES,
    });
  });
  await fs.promises.rename(place + PART, place);
  await fs.promises.rm(place + ETAG, { force: true });
}

/** Brings the part to its full length. Returns the checksum of its content. */
async function fillPart(download: Download, place: string, moved: () => void): Promise<string> {
  const { file, onBytes } = download;
  const part = place + PART;
  let have = Math.max(0, fileBytes(part));
  if (have > file.bytes) {
    await dropPart(place);
    have = 0;
  }
  let hash = startHash(file.checksum.kind, file.bytes);
  if (have > 0) await hashInto(hash, part, have, download);
  onBytes(have);
  if (have === file.bytes && fileBytes(part) === have) return hash.digest('hex');
  if (file.bytes === 0) {
    await fs.promises.writeFile(part, '');
    return hash.digest('hex');
  }
  const opened = await openFrom(download, place, have);
  try {
    if (opened.response.status !== 206) {
      hash = startHash(file.checksum.kind, file.bytes);
      have = 0;
    }
    await saveEtag(place, opened.response.headers.get('etag'));
    await append(download, part, have, hash, opened, moved);
  } finally {
    opened.done();
    // Lets go of the connection where something failed before its end.
    await opened.response.body?.cancel().catch(() => {});
  }
  return hash.digest('hex');
}

/** Asks for the rest, provided that the file is still the one that the part was begun from. */
async function openFrom(download: Download, place: string, have: number): Promise<Opened> {
  const { client, id, commit, file } = download;
  const etag = have > 0 ? await fs.promises.readFile(place + ETAG, 'utf8').catch(() => '') : '';
  const headers: Record<string, string> = {};
  if (have > 0) headers['range'] = `bytes=${have}-`;
  if (etag !== '') headers['if-range'] = etag;
  const opened = await client.openFile(id, commit, file.path, headers);
  const subject = `${id}/${file.path}`;
  const refuse = async (error: HubError): Promise<never> => {
    opened.done();
    await opened.response.body?.cancel();
    throw error;
  };
  const { status } = opened.response;
  const announced = announcedBytes(opened.response) ?? opened.linkedBytes;
  if (status === 416 || (status === 206 && firstByte(opened.response) !== have)) {
    await dropPart(place);
    return refuse(new HubError(`${subject}: the server cannot go on at byte ${have}`, { isTransient: true }));
  }
  if (announced !== null && announced !== file.bytes) {
    return refuse(new HubError(`${subject}: listed with ${file.bytes} bytes, but sent with ${announced}`));
  }
  return opened;
}

/** Bytes of the whole file as this answer states them. */
function announcedBytes({ status, headers }: Response): number | null {
  const text =
    status === 206 ? /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1] : headers.get('content-length');
  // A compressed answer has another length than its content.
  return text === null || text === undefined || headers.has('content-encoding') ? null : Number(text);
}

function firstByte({ headers }: Response): number {
  return Number(/^bytes (\d+)-/.exec(headers.get('content-range') ?? '')?.[1] ?? NaN);
}

async function append(
  { id, file, onBytes }: Download,
  part: string,
  from: number,
  hash: Hash,
  opened: Opened,
  moved: () => void,
): Promise<void> {
  const subject = `${id}/${file.path}`;
  const movedAt = from + Math.min(MOVED_BYTES, Math.ceil(file.bytes / 100));
  const handle = await fs.promises.open(part, from > 0 ? 'a' : 'w');
  let have = from;
  try {
    for await (const chunk of chunksOf(opened, subject)) {
      opened.alive();
      have += chunk.length;
      if (have > file.bytes) throw new HubError(`${subject}: more than the ${file.bytes} bytes of the list arrive`);
      hash.update(chunk);
      await handle.writeFile(chunk);
      onBytes(have);
      if (have >= movedAt) moved();
    }
    await handle.sync();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') {
      throw new HubError(`${part}: no space left on the disk (MODELS_DIR)`, { cause: error });
    }
    throw error;
  } finally {
    await handle.close();
  }
  if (have < file.bytes) {
    throw new HubError(`${subject}: cut after ${have} of ${file.bytes} bytes`, { isTransient: true });
  }
}

/** The chunks of a body; what breaks while reading is the connection's fault and worth another try. */
async function* chunksOf(opened: Opened, subject: string): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of opened.response.body ?? []) yield chunk as Uint8Array;
  } catch (error) {
    throw connectionError(error, subject, new URL(opened.response.url).host, opened.isStalled());
  }
}

/** Weak tags must not be used to put parts together (RFC 9110, If-Range). */
async function saveEtag(place: string, etag: string | null): Promise<void> {
  if (etag !== null && /^"[\x21\x23-\x7e]*"$/.test(etag)) await fs.promises.writeFile(place + ETAG, etag);
  else await fs.promises.rm(place + ETAG, { force: true });
}

async function dropPart(place: string): Promise<void> {
  await fs.promises.rm(place + PART, { force: true });
  await fs.promises.rm(place + ETAG, { force: true });
}
