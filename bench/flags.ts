// Flags of a bench: declared with a default and a meaning, read from `--name value` or `--name=value`. run.ts parses,
// the benches read. A flag nobody declared, or a value of the wrong form, is a UsageError that names it.

export class UsageError extends Error {}

/** kind `list` is comma-separated whole numbers; `texts` may be given several times; `switch` stands alone. */
export interface FlagSpec {
  kind: 'integer' | 'list' | 'text' | 'texts' | 'switch';
  fallback: string;
  meaning: string;
}

export type FlagSpecs = Readonly<Record<string, FlagSpec>>;

/** Taken by every bench. */
export const commonFlags: FlagSpecs = {
  seed: { kind: 'integer', fallback: '1', meaning: 'of all prompts and random numbers' },
  table: { kind: 'switch', fallback: '', meaning: 'print the table to stderr also where that is no terminal' },
  help: { kind: 'switch', fallback: '', meaning: 'this text' },
};

/** Cannot be part of an argument. */
const SEPARATOR = '\0';
const WHOLE = /^(0|[1-9][0-9]{0,9})$/;

export class Flags {
  readonly #values: ReadonlyMap<string, string>;

  constructor(values: ReadonlyMap<string, string>) {
    this.#values = values;
  }

  text(name: string): string {
    const value = this.#values.get(name);
    if (value === undefined) throw new Error(`no flag --${name} was declared`);
    return value;
  }

  integer(name: string): number {
    return Number(this.text(name));
  }

  list(name: string): number[] {
    return this.text(name).split(',').map(Number);
  }

  /** Names separated by commas. Throws UsageError for one that is not `known`. */
  chosen<T extends string>(name: string, known: readonly T[]): T[] {
    return this.text(name)
      .split(',')
      .map((each) => {
        const found = known.find((one) => one === each);
        if (found === undefined)
          throw new UsageError(`--${name} holds "${each}", which is none of ${known.join(', ')}`);
        return found;
      });
  }

  /** Every value that was given, in order. */
  texts(name: string): string[] {
    const all = this.text(name);
    return all === '' ? [] : all.split(SEPARATOR);
  }

  isOn(name: string): boolean {
    return this.text(name) === '1';
  }
}

/** Throws UsageError for unknown flags, missing values and values of the wrong form. */
export function parseFlags(args: readonly string[], specs: FlagSpecs): Flags {
  const values = new Map(Object.entries(specs).map(([name, spec]) => [name, spec.fallback]));
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    const match = /^--([a-z][a-z-]*)(?:=(.*))?$/s.exec(arg);
    if (match === null) throw new UsageError(`"${arg}" is no flag; flags look like --name value`);
    const name = match[1]!;
    const spec = Object.hasOwn(specs, name) ? specs[name] : undefined;
    if (spec === undefined) {
      const known = Object.keys(specs).map((each) => `--${each}`);
      throw new UsageError(`unknown flag --${name}; there are ${known.join(' ')}`);
    }
    if (spec.kind === 'switch') {
      if (match[2] !== undefined) throw new UsageError(`--${name} takes no value`);
      values.set(name, '1');
      continue;
    }
    const value = match[2] ?? args[++i];
    if (value === undefined || value === '') throw new UsageError(`--${name} needs a value`);
    if (spec.kind === 'integer' && !WHOLE.test(value)) {
      throw new UsageError(`--${name} is "${value}", no whole number`);
    }
    if (spec.kind === 'list' && !value.split(',').every((each) => WHOLE.test(each))) {
      throw new UsageError(`--${name} is "${value}", no list of whole numbers like 1,4,16`);
    }
    const before = spec.kind === 'texts' ? values.get(name)! : '';
    values.set(name, before === '' ? value : `${before}${SEPARATOR}${value}`);
  }
  return new Flags(values);
}

/** Lines for `--help`. */
export function flagHelp(specs: FlagSpecs): string[] {
  return Object.entries(specs).map(([name, { fallback, meaning }]) => {
    const head = `  --${name}`.padEnd(16);
    return `${head}${meaning}${fallback === '' ? '' : ` (${fallback})`}`;
  });
}
