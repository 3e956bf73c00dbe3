// A model from the hub to the disk: the list of its files, the small ones, then the weights, all of one commit.
// Called by resolve-model (a server that starts) and by `npm run models pull`. Several processes may call it at once:
// one downloads, the others wait and find it done.
import fs from 'node:fs';
import path from 'node:path';
import type { CompileProgress, HubAccess } from '../../messages/models.ts';
import { withLock } from '../lock.ts';
import { adoptFile, bytesHere, downloadFile } from './download.ts';
import { HubClient } from './hub-client.ts';
import { formatHubName, type HubName } from './hub-id.ts';
import { selectFiles, totalBytes, type RemoteFile } from './listing.ts';
import { defaultPatience, HubError, retrying, type Patience } from './retry.ts';
import {
  findSnapshot,
  localCommits,
  modelFolder,
  readManifest,
  snapshotFolder,
  writeManifest,
  writeRef,
} from './store.ts';
import type { Snapshot } from './store.ts';

export interface PullOptions {
  name: HubName;
  hub: HubAccess;
  /** Ask the hub what the revision means now, also when there is a whole copy. */
  isRefresh?: boolean;
  /** Called once the small files are there; throws to stop before the weights are downloaded. */
  checkConfig?(directory: string): void;
  patience?: Patience;
  signal?: AbortSignal | undefined;
  onProgress?(progress: CompileProgress): void;
}

const LOCK = '.lock';
/** What has to stay free on the disk. */
const RESERVE_BYTES = 64 << 20;
const REPORT_MS = 100;

/**
 * The whole snapshot of a revision: the local one as it is, without asking the network, else what the hub has. Rejects
 * with an Error that says what to do; what was downloaded until then is used by the next call.
 */
export async function pullModel(options: PullOptions): Promise<Snapshot> {
  const { name, hub, signal, onProgress } = options;
  const found = options.isRefresh ? null : findSnapshot(hub.modelsDir, name);
  if (found !== null) return found;
  const folder = modelFolder(hub.modelsDir, name.id);
  fs.mkdirSync(folder, { recursive: true });
  const waiting = (): void => {
    signal?.throwIfAborted();
    onProgress?.({ phase: 'waiting for another process to download', done: 0 });
  };
  return withLock(path.join(folder, LOCK), waiting, async () => {
    const made = options.isRefresh ? null : findSnapshot(hub.modelsDir, name);
    return made ?? (await pullLocked(options));
  });
}

async function pullLocked(options: PullOptions): Promise<Snapshot> {
  const { name, hub, signal } = options;
  const patience = options.patience ?? defaultPatience;
  const { endpoint, token, modelsDir } = hub;
  const client = new HubClient({ endpoint, token, stallMs: patience.stallMs, signal });
  options.onProgress?.({ phase: 'asking the hub', done: 0 });
  const listing = await retrying(patience, signal, () => client.list(name));
  const { commit } = listing;
  const directory = snapshotFolder(modelsDir, name.id, commit);
  const whole = findSnapshot(modelsDir, { id: name.id, revision: commit });
  if (whole === null) {
    const { text, weights } = selectFiles(name.id, listing.files);
    const files = [...text, ...weights];
    fs.mkdirSync(directory, { recursive: true });
    takeOver(modelsDir, name.id, directory, files);
    checkSpace(modelsDir, directory, files, formatHubName(name));
    const report = reporter(files, directory, options.onProgress);
    const fetchAll = async (some: readonly RemoteFile[]): Promise<void> => {
      for (const file of some) {
        const onBytes = (done: number): void => report(file, done);
        await downloadFile({ client, id: name.id, commit, file, directory, patience, signal, onBytes });
        report(file, file.bytes);
      }
    };
    await fetchAll(text);
    options.checkConfig?.(directory);
    await fetchAll(weights);
    writeManifest(directory, { id: name.id, commit, endpoint, files });
  }
  writeRef(modelsDir, name, commit);
  const snapshot = findSnapshot(modelsDir, { id: name.id, revision: commit });
  if (snapshot === null) throw new HubError(`${directory}: it changed while it was downloaded`);
  return snapshot;
}

/** Sums up what is here over all files, and reports it a few times a second. */
function reporter(
  files: readonly RemoteFile[],
  directory: string,
  onProgress: PullOptions['onProgress'],
): (file: RemoteFile, done: number) => void {
  const total = totalBytes(files);
  const here = new Map(files.map((file) => [file, bytesHere(directory, file)]));
  let sum = [...here.values()].reduce((a, b) => a + b, 0);
  let reportedAt = -Infinity;
  return (file, done) => {
    sum += done - here.get(file)!;
    here.set(file, done);
    const now = performance.now();
    if (now - reportedAt < REPORT_MS && sum < total) return;
    reportedAt = now;
    onProgress?.({ phase: 'downloading', done: total === 0 ? 1 : sum / total, bytes: { done: sum, total } });
  };
}

function checkSpace(modelsDir: string, directory: string, files: readonly RemoteFile[], subject: string): void {
  const missing = files.reduce((bytes, file) => bytes + file.bytes - bytesHere(directory, file), 0);
  const { bavail, bsize } = fs.statfsSync(directory);
  const free = bavail * bsize;
  if (missing === 0 || missing + RESERVE_BYTES <= free) return;
  throw new HubError(
    `${subject}: ${mebibytes(missing)} are still to be downloaded and ${mebibytes(RESERVE_BYTES)} have to stay free, but ${modelsDir} has ${mebibytes(free)} (MODELS_DIR)`,
  );
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / (1 << 20)).toLocaleString('en')} MiB`;
}

/**
 * Takes over what other commits of the model have here, whole or begun: most commits change a README. Nothing is trusted
 * for that; downloadFile checks every file. Needs no space: whole files are linked.
 */
function takeOver(modelsDir: string, id: string, directory: string, files: readonly RemoteFile[]): void {
  for (const commit of localCommits(modelsDir, id)) {
    const other = snapshotFolder(modelsDir, id, commit);
    if (other === directory) continue;
    const manifest = readManifest(other);
    for (const file of files) {
      const isOther = manifest?.files.some(({ path: name, checksum }) => {
        return name === file.path && checksum.hex !== file.checksum.hex;
      });
      // A cut pull has no manifest: length and name have to do until the content is hashed.
      if (!isOther) adoptFile(other, directory, file, manifest === null);
    }
  }
}
