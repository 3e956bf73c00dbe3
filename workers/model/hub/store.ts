// Models from the hub on this machine's disk:
//   MODELS_DIR/ORG/NAME/COMMIT/     one snapshot: the files, and hub.json once all of them are there and right
//   MODELS_DIR/ORG/NAME/refs/REV    the commit that a branch or tag meant when it was last pulled
// pull writes it under the model's lock; compile and `npm run models` read it. A snapshot never changes once it is whole.
import fs from 'node:fs';
import path from 'node:path';
import { fileBytes } from './checksum.ts';
import { isCommit, parseHubName, type HubName } from './hub-id.ts';
import type { RemoteFile } from './listing.ts';

const MANIFEST = 'hub.json';
const REFS = 'refs';

export interface Manifest {
  id: string;
  commit: string;
  /** Where it came from, for people. */
  endpoint: string;
  files: RemoteFile[];
}

export interface Snapshot {
  directory: string;
  manifest: Manifest;
}

export function modelFolder(modelsDir: string, id: string): string {
  return path.join(modelsDir, ...id.split('/'));
}

export function snapshotFolder(modelsDir: string, id: string, commit: string): string {
  return path.join(modelFolder(modelsDir, id), commit);
}

/** The whole local copy of a revision, or null: never pulled, cut off, or files missing or of another length. */
export function findSnapshot(modelsDir: string, { id, revision }: HubName): Snapshot | null {
  const commit = isCommit(revision) ? revision : readRefs(modelsDir, id).get(revision);
  if (commit === undefined) return null;
  const directory = snapshotFolder(modelsDir, id, commit);
  const manifest = readManifest(directory);
  const isWhole = manifest?.files.every((file) => fileBytes(path.join(directory, file.path)) === file.bytes) ?? false;
  return manifest !== null && isWhole ? { directory, manifest } : null;
}

/** Null when the snapshot is not whole, or the manifest is broken. */
export function readManifest(directory: string): Manifest | null {
  try {
    const manifest = JSON.parse(fs.readFileSync(path.join(directory, MANIFEST), 'utf8')) as Manifest;
    return manifest.files.length > 0 ? manifest : null;
  } catch {
    return null;
  }
}

/** From now on the snapshot is whole. */
export function writeManifest(directory: string, manifest: Manifest): void {
  writeWhole(path.join(directory, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The snapshot is not trusted any more: the next pull checks every file again. */
export function dropManifest(directory: string): void {
  fs.rmSync(path.join(directory, MANIFEST), { force: true });
}

/** Revision → commit. */
export function readRefs(modelsDir: string, id: string): Map<string, string> {
  const folder = path.join(modelFolder(modelsDir, id), REFS);
  const refs = new Map<string, string>();
  for (const name of namesIn(folder)) {
    const commit = fs.readFileSync(path.join(folder, name), 'utf8').trim();
    if (isCommit(commit)) refs.set(decodeURIComponent(name), commit);
  }
  return refs;
}

export function writeRef(modelsDir: string, { id, revision }: HubName, commit: string): void {
  const folder = path.join(modelFolder(modelsDir, id), REFS);
  fs.mkdirSync(folder, { recursive: true });
  writeWhole(path.join(folder, encodeURIComponent(revision)), `${commit}\n`);
}

/** Forgets the revisions that mean a commit. */
export function dropRefs(modelsDir: string, id: string, commit: string): void {
  for (const [revision, target] of readRefs(modelsDir, id)) {
    if (target !== commit) continue;
    fs.rmSync(path.join(modelFolder(modelsDir, id), REFS, encodeURIComponent(revision)), { force: true });
  }
}

function writeWhole(file: string, text: string): void {
  const draft = `${file}.${process.pid}.tmp`;
  fs.writeFileSync(draft, text, { flush: true });
  fs.renameSync(draft, file);
}

/** Ids of all models with a folder here, sorted. */
export function localIds(modelsDir: string): string[] {
  const ids = namesIn(modelsDir).flatMap((org) => namesIn(path.join(modelsDir, org)).map((name) => `${org}/${name}`));
  return ids.filter((id) => parseHubName(id)?.id === id && localCommits(modelsDir, id).length > 0).sort();
}

/** Commits with a folder, whole or not. */
export function localCommits(modelsDir: string, id: string): string[] {
  return namesIn(modelFolder(modelsDir, id)).filter(isCommit);
}

/** Bytes of all files below a folder. */
export function folderBytes(folder: string): number {
  return fs
    .readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .reduce((total, name) => total + Math.max(0, fileBytes(path.join(folder, name))), 0);
}

function namesIn(folder: string): string[] {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}
