// Makes a GGUF model a model directory like any other: config, tokenizer and template in the form that the rest of the
// compiler and workers/text read, and `gguf.json`, which says where the weights are. Called by resolve-model; openWeights
// reads it back. A folder appears whole, by one rename, and is used again while the files are the same.
import fs from 'node:fs';
import path from 'node:path';
import { cacheKey, createTemporary, fingerprintFiles } from '../cache.ts';
import { ggufConfig } from './config.ts';
import type { GgufFiles } from './files.ts';
import { readGguf, type GgufModel } from './model.ts';
import { textFiles } from './tokenizer.ts';

/** Raise it whenever the same metadata becomes something else. */
const FORM = 1;
const POINTER = 'gguf.json';

/** Returns the directory. Throws an Error naming the file and what of it is broken or not supported. */
export function writeTextFolder(cacheDir: string, files: GgufFiles): string {
  const { shards, name } = files;
  const root = path.resolve(cacheDir, 'gguf');
  const key = cacheKey({ form: FORM, shards: shards.map(fingerprintFiles) });
  const folder = path.join(root, `${name.toLowerCase().replace(/[^a-z0-9._-]+/g, '-')}-${key}`);
  if (fs.existsSync(path.join(folder, POINTER))) return folder;
  const model = readGguf(shards);
  const config = ggufConfig(model);
  const { tokenizer, tokenizerConfig, generationConfig } = textFiles(model.meta);
  const temporary = createTemporary(root);
  const write = (file: string, content: object): void => {
    fs.writeFileSync(path.join(temporary, file), JSON.stringify(content), { flush: true });
  };
  try {
    write('config.json', config);
    write('generation_config.json', generationConfig);
    write('tokenizer.json', tokenizer);
    write('tokenizer_config.json', tokenizerConfig);
    write(POINTER, { shards });
    fs.renameSync(temporary, folder);
  } catch (error) {
    fs.rmSync(temporary, { recursive: true, force: true });
    // Another process was faster; what it wrote is the same.
    if (!fs.existsSync(path.join(folder, POINTER))) throw error;
  }
  return folder;
}

/** The model whose folder this is; null for a directory of another kind. */
export function openTextFolder(directory: string): GgufModel | null {
  const file = path.join(directory, POINTER);
  if (!fs.existsSync(file)) return null;
  return readGguf((JSON.parse(fs.readFileSync(file, 'utf8')) as { shards: string[][] }).shards);
}
