// What `npm run models` does with the models on this machine's disk: list, verify, remove. Called by cpu-worker; pull is
// in pull.ts. Removing takes the compiled entries of the cache along, which are of no use without their weights.
import fs from 'node:fs';
import path from 'node:path';
import type { CompileProgress, HubAccess, LocalModel, VerifiedFile } from '../../messages/models.ts';
import { entriesMadeFrom } from '../cache.ts';
import { withLock } from '../lock.ts';
import { matches } from './checksum.ts';
import { isCommit, parseHubName } from './hub-id.ts';
import { totalBytes } from './listing.ts';
import {
  dropManifest,
  dropRefs,
  findSnapshot,
  folderBytes,
  localCommits,
  localIds,
  modelFolder,
  readManifest,
  readRefs,
  snapshotFolder,
} from './store.ts';

const LOCK = '.lock';

export interface ManageOptions {
  hub: HubAccess;
  cacheDir: string;
  onProgress(progress: CompileProgress): void;
  /** Stops a verify between two pieces of a file. */
  signal?: AbortSignal;
}

/** All snapshots on this disk, by id. */
export function listLocal({ hub: { modelsDir }, cacheDir }: ManageOptions): LocalModel[] {
  return localIds(modelsDir).flatMap((id) => {
    const refs = readRefs(modelsDir, id);
    return localCommits(modelsDir, id).map((commit): LocalModel => {
      const directory = snapshotFolder(modelsDir, id, commit);
      const isWhole = findSnapshot(modelsDir, { id, revision: commit }) !== null;
      return {
        id,
        commit,
        revisions: [...refs].filter(([, target]) => target === commit).map(([revision]) => revision),
        bytes: folderBytes(directory),
        state: isWhole ? 'complete' : readManifest(directory) === null ? 'partial' : 'damaged',
        compiled: entriesMadeFrom(cacheDir, directory),
      };
    });
  });
}

/**
 * Reads and hashes every file again. A snapshot with a wrong file is not served any more: the next pull brings what is
 * wrong. Throws an Error when the model is not here or not whole.
 */
export async function verifyLocal(text: string, { hub, onProgress, signal }: ManageOptions): Promise<VerifiedFile[]> {
  const { id, commits } = localTargets(text, hub.modelsDir);
  const results: VerifiedFile[] = [];
  for (const commit of commits) {
    const directory = snapshotFolder(hub.modelsDir, id, commit);
    const manifest = readManifest(directory);
    if (manifest === null) throw new Error(`${text}: its download was not finished; pull goes on with it`);
    const total = totalBytes(manifest.files);
    let before = 0;
    for (const file of manifest.files) {
      const onBytes = (done: number): void => {
        const sum = before + done;
        onProgress({ phase: 'verifying', done: total === 0 ? 1 : sum / total, bytes: { done: sum, total } });
      };
      const isRight = await matches(path.join(directory, file.path), file, { onBytes, signal });
      results.push({ commit, path: file.path, bytes: file.bytes, isRight });
      before += file.bytes;
    }
    if (results.some((result) => result.commit === commit && !result.isRight)) dropManifest(directory);
  }
  return results;
}

/** Removes one revision, or all of a model when none is named. Returns the bytes given back. */
export async function removeLocal(text: string, options: ManageOptions): Promise<number> {
  const { hub, cacheDir, onProgress } = options;
  const { id, commits, isAll } = localTargets(text, hub.modelsDir);
  const folder = modelFolder(hub.modelsDir, id);
  const waiting = (): void => onProgress({ phase: 'waiting for another process to download', done: 0 });
  return withLock(path.join(folder, LOCK), waiting, async () => {
    let bytes = 0;
    for (const commit of commits) {
      const directory = snapshotFolder(hub.modelsDir, id, commit);
      for (const entry of entriesMadeFrom(cacheDir, directory)) {
        bytes += entry.bytes;
        fs.rmSync(entry.folder, { recursive: true, force: true });
      }
      bytes += folderBytes(directory);
      // First, so that a half removed snapshot is never taken for a whole one.
      dropManifest(directory);
      fs.rmSync(directory, { recursive: true, force: true });
      dropRefs(hub.modelsDir, id, commit);
    }
    if (isAll) fs.rmSync(folder, { recursive: true, force: true });
    return bytes;
  });
}

/** The snapshots that `org/name` (all of them) or `org/name@revision` means. Throws an Error when there are none. */
function localTargets(text: string, modelsDir: string): { id: string; commits: string[]; isAll: boolean } {
  const name = parseHubName(text);
  if (name === null) throw new Error(`${text}: a model of the hub is written org/name or org/name@revision`);
  const { id, revision } = name;
  const isAll = !text.includes('@');
  const commit = isCommit(revision) ? revision : readRefs(modelsDir, id).get(revision);
  const commits = localCommits(modelsDir, id).filter((candidate) => isAll || candidate === commit);
  if (commits.length === 0) throw new Error(`${text}: not on this machine (${modelsDir})`);
  return { id, commits, isAll };
}
