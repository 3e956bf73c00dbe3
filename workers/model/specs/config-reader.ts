// Reads fields of a config.json that a stranger wrote. Used by the families' readers.
// What must stay true: every refusal names the file and the field; a field that changes the computation and that a
// family does not support is refused, never ignored.

export type Config = Record<string, unknown>;

export class ConfigReader {
  readonly #config: Config;
  readonly #file: string;

  constructor(config: Config, file: string) {
    this.#config = config;
    this.#file = file;
  }

  /** null stands for absent: exports write either. */
  get(field: string): unknown {
    return this.#config[field] ?? undefined;
  }

  fail(field: string, why: string): never {
    throw new Error(`${this.#file}: ${field} ${why}`);
  }

  /** Only within 1..max; `fallback` is checked too. */
  natural(field: string, max: number, fallback?: number): number {
    const value = this.get(field) ?? fallback;
    if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max) return value as number;
    return this.fail(field, `is ${JSON.stringify(value)}; a whole number from 1 to ${max} is needed`);
  }

  positive(field: string, fallback?: unknown): number {
    const value = this.get(field) ?? fallback;
    if (isPositive(value)) return value;
    return this.fail(field, `is ${JSON.stringify(value)}; a positive number is needed`);
  }

  /** null when the field is absent or null. */
  positiveOrNull(field: string): number | null {
    return this.get(field) === undefined ? null : this.positive(field);
  }

  flag(field: string, fallback = false): boolean {
    const value = this.get(field) ?? fallback;
    if (typeof value === 'boolean') return value;
    return this.fail(field, `is ${JSON.stringify(value)}; true or false is needed`);
  }

  only(field: string, supported: unknown, fallback: unknown = supported): void {
    const value = this.get(field) ?? fallback;
    if (value !== supported) {
      this.fail(field, `is ${JSON.stringify(value)}; only ${JSON.stringify(supported)} is supported`);
    }
  }

  /** `length` entries of `allowed`; null when the field is absent. */
  list<T extends string | number>(field: string, length: number, allowed: readonly T[]): T[] | null {
    const value = this.get(field);
    if (value === undefined) return null;
    const isEntry = (entry: unknown): entry is T => allowed.includes(entry as T);
    if (Array.isArray(value) && value.length === length && value.every(isEntry)) return value;
    return this.fail(field, `is not a list of ${length} entries out of ${allowed.join(', ')}`);
  }

  /** Of any length. */
  positives(field: string): number[] {
    const value = this.get(field);
    if (Array.isArray(value) && value.every(isPositive)) return value;
    return this.fail(field, 'is not a list of positive numbers');
  }

  /** The object in a field, to be read with errors that name both; null when the field is absent. */
  object(field: string): ConfigReader | null {
    const value = this.get(field);
    if (value === undefined) return null;
    if (typeof value !== 'object' || Array.isArray(value)) return this.fail(field, 'is not an object');
    return new ConfigReader(value as Config, `${this.#file}: ${field}`);
  }
}

function isPositive(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0;
}
