// From what MODEL names to a directory on this disk: a path, an installed npm package, or a model of the hub, in this
// order, GGUF files among the first two; `hub:` in front asks for the hub. Called by compile; says what was taken, since one name may mean several.
import type { CompileProgress, HubAccess } from '../messages/models.ts';
import { formatHubName, parseHubName } from './hub/hub-id.ts';
import { pullModel } from './hub/pull.ts';
import { findGguf } from './gguf/files.ts';
import { writeTextFolder } from './gguf/text-folder.ts';
import { findLocalModel, modelId } from './model-directory.ts';

export interface ResolveOptions {
  model: string;
  /** Where the small files of a GGUF model are written in the form that the rest reads. */
  cacheDir: string;
  /** Absent: only what is on this disk. */
  hub?: HubAccess;
  /** Throws when a model with this config.json is of no use, before its weights are downloaded. */
  checkConfig?(directory: string): void;
  signal?: AbortSignal;
  onProgress?(progress: CompileProgress): void;
}

export interface ResolvedModel {
  directory: string;
  /** What clients write in `model`. */
  id: string;
  /** Other names for it. */
  aliases: string[];
  /** For people: "npm package x", "hub org/name (commit 0123abcd)". */
  origin: string;
}

/** Throws an Error that says what was looked for. A whole local copy of a hub's model is used without the network. */
export async function resolveModel(options: ResolveOptions): Promise<ResolvedModel> {
  const { model, hub } = options;
  const name = parseHubName(model);
  const isHub = name !== null && model.startsWith('hub:');
  const gguf = isHub ? null : findGguf(model);
  if (gguf !== null) {
    const directory = writeTextFolder(options.cacheDir, gguf);
    return { directory, id: modelId(gguf.name), aliases: [], origin: gguf.origin };
  }
  const local = isHub ? null : findLocalModel(model);
  if (local !== null) {
    const { directory, kind } = local;
    const origin = kind === 'directory' ? `directory ${directory}` : `npm package ${model}`;
    return { directory, id: modelId(directory), aliases: [], origin };
  }
  if (name === null || hub === undefined) {
    throw new Error(
      `${model}: no such directory or GGUF file, no installed npm package of this name holds a model, and ${name === null ? 'it is no name of a model on the hub (org/name)' : 'no hub is set'}`,
    );
  }
  const snapshot = await pullModel({ ...options, name, hub }).catch((error: unknown) => {
    if (!(error instanceof Error) || model.startsWith('hub:')) throw error;
    throw new Error(`${error.message} (there is no directory or npm package ${model} either)`, { cause: error });
  });
  const origin = `hub ${formatHubName(name)} (commit ${snapshot.manifest.commit.slice(0, 8)})`;
  return { directory: snapshot.directory, id: modelId(name.id), aliases: [name.id], origin };
}
