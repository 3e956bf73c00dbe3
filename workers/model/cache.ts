// Compiled models on disk: CACHE_DIR/models/<id>-<key>/ with the graph, its data and meta.json.
// An entry appears by one rename and is never changed afterwards; a crash leaves only a temporary folder, which the
// next compile removes. Called by compile. The lock that keeps two compiles apart is in lock.ts.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { Products } from '../messages/models.ts';
import { isAlive, withLock } from './lock.ts';
import { ortVersion } from './ort-binding.ts';
import { cpuFlags } from './processor.ts';

/** Raise it whenever the compiler writes something else for the same input. */
export const COMPILER_VERSION = 15;
const META = 'meta.json';
const TEMPORARY = '.tmp-';
/** Files up to this size are checked by content on every start (a millisecond); larger ones by length. */
const SMALL_BYTES = 4 << 20;

export interface CachedFile {
  name: string;
  bytes: number;
  sha256: string;
}

/** What every entry's meta.json says. */
export interface EntryMeta {
  key: string;
  /** What the key was made of, for people. */
  parts: Record<string, unknown>;
  files: CachedFile[];
  /** sha256 over all weight files, in order. */
  weightsSha256: string;
  weightsBytes: number;
  /** False when the packed form was refused and the plain graph is stored. */
  isPrepacked: boolean;
}

/** Of a decoder. */
export interface CacheMeta extends EntryMeta {
  /** What decode steps multiply with, and how far rows are from blocks (agreement.ts); null: never tried. */
  products: Products;
  rowDivergence: number | null;
  /** Whether the folder has a graph for prefill, and how far it is from the decode graph (agreement.ts); null: never tried. */
  hasPrefillGraph: boolean;
  prefillDivergence: number | null;
  /** Of the decode graph with this KV memory from the one with float32; 0 when it is that one. */
  kvDivergence: number;
  /** Numbers of tokens for which the folder has a graph that agreed with single steps to the bit. */
  verifySizes: number[];
}

export function cacheKey(parts: Record<string, unknown>): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16);
}

/** What identifies weight files without reading them: path, size, time and the first 64 KiB. */
export function fingerprintFiles(files: readonly string[]): unknown[] {
  return files.map((file) => {
    const { size, mtimeMs } = fs.statSync(file);
    const head = Buffer.alloc(Math.min(size, 65536));
    const fd = fs.openSync(file, 'r');
    try {
      fs.readSync(fd, head, 0, head.length, 0);
    } finally {
      fs.closeSync(fd);
    }
    return [fs.realpathSync(file), size, mtimeMs, createHash('sha256').update(head).digest('hex')];
  });
}

/** Packed weights are laid out for this processor by this runtime. */
export function machineParts(): Record<string, unknown> {
  const cpu = createHash('sha256').update(cpuFlags()).digest('hex').slice(0, 16);
  return { compiler: COMPILER_VERSION, onnxruntime: ortVersion, platform: process.platform, arch: process.arch, cpu };
}

export function hashFiles(files: readonly string[]): string {
  const hash = createHash('sha256');
  const chunk = Buffer.allocUnsafe(4 << 20);
  for (const file of files) {
    const fd = fs.openSync(file, 'r');
    try {
      for (let count = 0; (count = fs.readSync(fd, chunk)) > 0;) hash.update(chunk.subarray(0, count));
    } finally {
      fs.closeSync(fd);
    }
  }
  return hash.digest('hex');
}

/**
 * The entry's meta when it is whole, else null: absent, half-written, shortened or changed.
 * `verify` also reads the large files and the weights they were made from.
 */
export function readEntry<M extends EntryMeta = CacheMeta>(
  folder: string,
  key: string,
  verify?: { weightFiles: readonly string[] },
): M | null {
  let meta: M;
  try {
    meta = JSON.parse(fs.readFileSync(path.join(folder, META), 'utf8')) as M;
    if (meta.key !== key || meta.files.length === 0) return null;
    for (const { name, bytes, sha256 } of meta.files) {
      const file = path.join(folder, path.basename(name));
      if (fs.statSync(file).size !== bytes) return null;
      if ((bytes <= SMALL_BYTES || verify !== undefined) && hashFiles([file]) !== sha256) return null;
    }
  } catch {
    return null;
  }
  if (verify !== undefined && hashFiles(verify.weightFiles) !== meta.weightsSha256) return null;
  return meta;
}

/** The entries of a cache whose weights lie below `directory`, with their lengths. */
export function entriesMadeFrom(cacheDir: string, directory: string): { folder: string; bytes: number }[] {
  const root = path.resolve(cacheDir, 'models');
  if (!fs.existsSync(root) || !fs.existsSync(directory)) return [];
  const below = fs.realpathSync(directory) + path.sep;
  return fs.readdirSync(root).flatMap((name) => {
    const folder = path.join(root, name);
    try {
      const meta = JSON.parse(fs.readFileSync(path.join(folder, META), 'utf8')) as CacheMeta;
      const weights = meta.parts['weights'] as [file: string][];
      if (!weights.some(([file]) => file.startsWith(below))) return [];
      return [{ folder, bytes: meta.files.reduce((sum, { bytes }) => sum + bytes, 0) }];
    } catch {
      // A lock, a folder that is being built, or an entry that no compile would use either.
      return [];
    }
  });
}

export interface EntryRequest<M extends EntryMeta> {
  cacheDir: string;
  /** Begins the folder's name, for people. */
  id: string;
  /** Everything that the entry depends on; its key is made of it. */
  parts: Record<string, unknown>;
  weightFiles: readonly string[];
  /** Read and hash what is cached and the weights it was made from. */
  verify: boolean;
  /** Called while another process builds the same entry. */
  onWait(): void;
  /** Makes the entry below `root` and commits it as `folder`. */
  build(entry: Entry): Promise<M>;
}

/** Where an entry is to be made. */
export interface Entry {
  root: string;
  folder: string;
  key: string;
  parts: Record<string, unknown>;
}

/** Finds the entry or has it built. Safe to call from several processes at once: one builds, the others wait. */
export async function findOrBuildEntry<M extends EntryMeta>(
  request: EntryRequest<M>,
): Promise<{ folder: string; meta: M }> {
  const { id, parts, weightFiles } = request;
  const key = cacheKey(parts);
  const root = path.resolve(request.cacheDir, 'models');
  const folder = path.join(root, `${id}-${key}`);
  const verify = request.verify ? { weightFiles } : undefined;
  const cached = readEntry<M>(folder, key, verify);
  if (cached !== null) return { folder, meta: cached };

  fs.mkdirSync(root, { recursive: true });
  return withLock(
    `${folder}.lock`,
    () => request.onWait(),
    async () => {
      const made = readEntry<M>(folder, key, verify);
      return { folder, meta: made ?? (await request.build({ root, folder, key, parts })) };
    },
  );
}

/** A folder for building, on the same file system as the entries. Also removes what dead processes left behind. */
export function createTemporary(root: string): string {
  fs.mkdirSync(root, { recursive: true });
  for (const name of fs.readdirSync(root)) {
    const pid = name.startsWith(TEMPORARY) ? Number(name.slice(TEMPORARY.length).split('-')[0]) : 0;
    if (pid > 0 && pid !== process.pid && !isAlive(pid)) {
      fs.rmSync(path.join(root, name), { recursive: true, force: true });
    }
  }
  return fs.mkdtempSync(path.join(root, `${TEMPORARY}${process.pid}-`));
}

/** Adds meta.json to a built folder and makes it the entry, replacing a broken one. */
export function commitEntry<M extends EntryMeta = CacheMeta>(
  temporary: string,
  folder: string,
  meta: Omit<M, 'files'>,
): M {
  const files = fs.readdirSync(temporary).map((name) => {
    const file = path.join(temporary, name);
    return { name, bytes: fs.statSync(file).size, sha256: hashFiles([file]) };
  });
  const complete = { ...meta, files } as M;
  fs.writeFileSync(path.join(temporary, META), JSON.stringify(complete, null, 2), { flush: true });
  fs.rmSync(folder, { recursive: true, force: true });
  fs.renameSync(temporary, folder);
  syncFolder(path.dirname(folder));
  return complete;
}

/** Throws an Error that says how much is missing when the disk cannot hold `bytes` more. */
export function checkDiskSpace(folder: string, bytes: number): void {
  const { bavail, bsize } = fs.statfsSync(folder);
  const free = bavail * bsize;
  if (free >= bytes) return;
  throw new Error(
    `${folder}: compiling this model needs ${mebibytes(bytes)} of disk space, ${mebibytes(free)} are free (CACHE_DIR)`,
  );
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / (1 << 20))} MiB`;
}

/** Makes the rename itself survive a power cut; not every file system can. */
function syncFolder(folder: string): void {
  try {
    const fd = fs.openSync(folder, 'r');
    fs.fsyncSync(fd);
    fs.closeSync(fd);
  } catch {
    // Without it the entry may be missing after a power cut, and is then built again.
  }
}
