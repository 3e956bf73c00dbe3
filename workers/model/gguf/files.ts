// Which files make up the GGUF model that a name means: a file, the parts that `gguf-split` numbers, or packages that
// hold pieces of one file. Called by resolve-model.
import fs from 'node:fs';
import path from 'node:path';
import { isPackageName, moduleFolders } from '../model-directory.ts';

export interface GgufFiles {
  /** Files with a header of their own each; within one, the pieces whose concatenation it is. */
  shards: string[][];
  /** What people would call the model. */
  name: string;
}

const EXTENSION = '.gguf';
/** How packages name a piece of a file that is too large for one of them. */
const PIECE = 'model.part';
const MAX_SHARDS = 1000;
const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;
const PIECE_PACKAGE = /-part1$/;

export interface FoundGguf extends GgufFiles {
  /** For people. */
  origin: string;
}

/**
 * `model`: path of a file, of a folder that holds one model, or name of an installed package that holds one. Null when it
 * is none of these; a folder with a config.json is a model of another kind. Throws an Error when parts are missing, or a
 * folder holds several models.
 */
export function findGguf(model: string, modulesFolders = moduleFolders(model)): FoundGguf | null {
  const looksLikePath = path.isAbsolute(model) || /^\.{1,2}([/\\]|$)/.test(model);
  if (model.toLowerCase().endsWith(EXTENSION)) {
    const file = path.resolve(model);
    if (fs.existsSync(file)) return { ...withShards(file), origin: `GGUF file ${file}` };
    if (looksLikePath) throw new Error(`${file}: there is no such file`);
  }
  const folder = path.resolve(model);
  const inFolder = looksLikePath || model.includes('/') ? findIn(folder) : null;
  if (inFolder !== null) return { ...inFolder, origin: `GGUF in ${folder}` };
  if (looksLikePath || !isPackageName(model)) return null;
  for (const modules of modulesFolders) {
    const found = findIn(path.join(modules, model)) ?? findPieces(modules, model);
    if (found !== null) return { ...found, origin: `GGUF in npm package ${model}` };
  }
  return null;
}

/** Null for a folder without GGUF files. */
function findIn(folder: string): GgufFiles | null {
  if (!fs.existsSync(folder) || !fs.statSync(folder).isDirectory()) return null;
  if (fs.existsSync(path.join(folder, 'config.json'))) return null;
  const names = fs.readdirSync(folder).filter((name) => name.toLowerCase().endsWith(EXTENSION));
  const firsts = names.filter((name) => Number(SHARD.exec(name)?.[2] ?? 1) === 1).sort();
  // What looks at pictures is a file of its own, and not the model.
  const models = firsts.filter((name) => !/(^|[-_.])mmproj[-_.]/i.test(name));
  if (models.length > 1) {
    throw new Error(`${folder}: it holds several models (${models.slice(0, 8).join(', ')}); name one of the files`);
  }
  return models.length === 0 ? null : withShards(path.join(folder, models[0]!));
}

/**
 * Pieces of one file in packages `name-part1`, `name-part2` and so on, beside each other. Whether the last is there is
 * seen when the whole is read: it would be cut off.
 */
function findPieces(modules: string, model: string): GgufFiles | null {
  const name = model.replace(PIECE_PACKAGE, '');
  const pieces: string[] = [];
  for (;;) {
    const piece = path.join(modules, `${name}-part${pieces.length + 1}`, PIECE);
    if (!fs.existsSync(piece)) break;
    pieces.push(piece);
  }
  return pieces.length === 0 ? null : { shards: [pieces], name: path.basename(name) };
}

function withShards(file: string): GgufFiles {
  const shard = SHARD.exec(path.basename(file));
  if (shard === null) return { shards: [[file]], name: path.basename(file).slice(0, -EXTENSION.length) };
  const [, name, , digits] = shard as unknown as [string, string, string, string];
  const count = Number(digits);
  if (count < 1 || count > MAX_SHARDS) throw new Error(`${file}: it cannot be one of ${count} parts`);
  const shards = Array.from({ length: count }, (_, i) => {
    const part = path.join(path.dirname(file), `${name}-${String(i + 1).padStart(5, '0')}-of-${digits}${EXTENSION}`);
    if (!fs.existsSync(part)) throw new Error(`${part}: this part of the model is missing`);
    return [part];
  });
  return { shards, name };
}
