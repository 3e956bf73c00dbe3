// A model in GGUF: one file, or several that `gguf-split` made, with the metadata of the first and the tensors of all.
// Called by text-folder.ts for the metadata and by weights/gguf for the tensors.
import type { MetaValue } from './header-reader.ts';
import { readContainer, type GgufTensor } from './container.ts';
import { PartedFile } from './parts.ts';

export interface GgufModel {
  /** For messages. */
  file: string;
  /** `general.architecture`, with which the names of its own metadata begin. */
  architecture: string;
  meta: GgufMeta;
  tensors: ReadonlyMap<string, GgufTensor>;
}

/** `shards`: files of their own each; within one, the parts whose concatenation it is. Reads headers only. */
export function readGguf(shards: readonly (readonly string[])[]): GgufModel {
  const containers = shards.map((parts) => readContainer(new PartedFile(parts)));
  const file = shards[0]![0]!;
  const meta = new GgufMeta(containers[0]!.meta, file);
  const tensors = new Map(containers[0]!.tensors);
  for (const [i, container] of containers.entries()) {
    const own = new GgufMeta(container.meta, shards[i]![0]!);
    const [count, number] = [own.natural('split.count', 1), own.natural('split.no', 0)];
    if (count !== shards.length || number !== i) {
      own.fail(
        'split.no',
        `says it is part ${number + 1} of ${count}, but it was found as ${i + 1} of ${shards.length}`,
      );
    }
    if (i === 0) continue;
    for (const [name, tensor] of container.tensors) {
      if (tensors.has(name)) own.fail(`tensor ${name}`, 'is in another part too');
      tensors.set(name, tensor);
    }
  }
  const wanted = meta.natural('split.tensors.count', tensors.size);
  if (wanted !== tensors.size) meta.fail('split.tensors.count', `is ${wanted}, but the parts hold ${tensors.size}`);
  return { file, architecture: meta.text('general.architecture'), meta, tensors };
}

/** Metadata by name and type. Every refusal names the file and the entry. */
export class GgufMeta {
  readonly file: string;
  readonly #values: ReadonlyMap<string, MetaValue>;

  constructor(values: ReadonlyMap<string, MetaValue>, file: string) {
    this.#values = values;
    this.file = file;
  }

  get(key: string): MetaValue | undefined {
    return this.#values.get(key);
  }

  fail(key: string, why: string): never {
    throw new Error(`${this.file}: ${key} ${why}`);
  }

  text(key: string, fallback?: string): string {
    const value = this.get(key) ?? fallback;
    return typeof value === 'string' ? value : this.#wrong(key, 'a text');
  }

  textOrNull(key: string): string | null {
    return this.get(key) === undefined ? null : this.text(key);
  }

  number(key: string, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    return typeof value === 'number' && Number.isFinite(value) ? value : this.#wrong(key, 'a number');
  }

  natural(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    return Number.isSafeInteger(value) && value >= 0 ? value : this.#wrong(key, 'a whole number');
  }

  naturalOrNull(key: string): number | null {
    return this.get(key) === undefined ? null : this.natural(key);
  }

  /** Some files give a number per layer, which has to be the same for all. */
  commonNatural(key: string, fallback?: number): number {
    const value = this.get(key);
    if (!Array.isArray(value)) return this.natural(key, fallback);
    if (new Set(value).size !== 1) this.fail(key, 'differs from layer to layer, which is not supported');
    const [first] = value;
    return Number.isSafeInteger(first) && (first as number) >= 0
      ? (first as number)
      : this.#wrong(key, 'whole numbers');
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.#wrong(key, 'true or false');
  }

  texts(key: string): string[] {
    const value = this.get(key);
    return Array.isArray(value) && value.every(isText) ? value : this.#wrong(key, 'a list of texts');
  }

  /** Null where the entry is absent. */
  numbersOrNull(key: string): number[] | null {
    const value = this.get(key);
    if (value === undefined) return null;
    return Array.isArray(value) && value.every(isNumber) ? value : this.#wrong(key, 'a list of numbers');
  }

  #wrong(key: string, needed: string): never {
    const value = this.get(key);
    const found = Array.isArray(value)
      ? 'a list'
      : value === undefined
        ? 'missing'
        : JSON.stringify(value).slice(0, 80);
    return this.fail(key, `is ${found}; ${needed} is needed`);
  }
}

function isText(value: unknown): value is string {
  return typeof value === 'string';
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}
