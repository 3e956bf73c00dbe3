// How large a grammar would be, told from its schema or pattern before anything is compiled: counted repetitions are
// written out by the compiler, and each place where a string may hold any character is looked at for every token of the
// vocabulary. Called by check.ts. What must stay true: telling takes no longer than reading the schema.
import { ServiceError } from '../../protocol/errors.ts';

/** Of one schema or pattern, with repetitions and references written out. */
const MAX_PLACES = 20_000;
/** The compiler counts no further than this within one string. */
const MAX_COUNTED = 128;
/** Of a pattern, what may be almost any character; it costs less there than where lengths are counted. */
const anyCharacter = /^(?:\.|\[\^|\\[DWS])/;
const WEIGHT_IN_PATTERN = 0.25;

type Json = Record<string, unknown>;

export interface GrammarSize {
  /** Everything that can be told apart within the form. */
  places: number;
  /** Those of them that may be any character, as where `maxLength` is counted. */
  characters: number;
}

/** Throws ServiceError `unsupported` where it is too much in any case. */
export function schemaSize(schema: string, param: string): GrammarSize {
  const root = JSON.parse(schema) as unknown;
  const size = sizeOf(root, { root, known: new Map() });
  if (size.places > MAX_PLACES) throw tooLarge(param);
  return size;
}

/** As `schemaSize`, of a regular expression. */
export function patternSize(pattern: string, param: string): GrammarSize {
  const size = countedIn(pattern);
  if (size.places > MAX_PLACES) throw tooLarge(param);
  return size;
}

function tooLarge(param: string): ServiceError {
  const message = `${param} is too complex: written out, it has more than ${MAX_PLACES} places.`;
  return new ServiceError('unsupported', message, { param });
}

interface Sizing {
  root: unknown;
  /** Of what is referred to; an empty size while it is being told. */
  known: Map<string, GrammarSize>;
}

/** The schema has passed checkSchema. */
function sizeOf(node: unknown, sizing: Sizing): GrammarSize {
  if (typeof node !== 'object' || node === null) return { places: 1, characters: 0 };
  const schema = node as Json;
  if (typeof schema.$ref === 'string') return referred(schema.$ref, sizing);
  const { minLength, maxLength, pattern, items, prefixItems, minItems, maxItems, additionalProperties } = schema;
  const children = ['anyOf', 'oneOf', 'allOf'].flatMap((name) => (schema[name] as unknown[] | undefined) ?? []);
  children.push(...Object.values((schema.properties as Json | undefined) ?? {}));
  children.push(...((prefixItems as unknown[] | undefined) ?? []));
  for (const child of [items, additionalProperties]) if (typeof child === 'object') children.push(child);
  const size =
    typeof pattern === 'string' ? countedIn(pattern) : evenly(Math.min(MAX_COUNTED, largest(minLength, maxLength)));
  size.places += largest(minItems, maxItems) + (Array.isArray(schema.enum) ? schema.enum.length : 1);
  for (const child of children) {
    const part = sizeOf(child, sizing);
    size.places += part.places;
    size.characters += part.characters;
  }
  return size;
}

const evenly = (characters: number): GrammarSize => ({ places: characters, characters });

function largest(...counts: unknown[]): number {
  return Math.max(0, ...counts.filter((count) => typeof count === 'number'));
}

function referred(ref: string, sizing: Sizing): GrammarSize {
  const known = sizing.known.get(ref);
  if (known !== undefined) return known;
  sizing.known.set(ref, { places: 1, characters: 0 });
  let at = sizing.root;
  for (const part of ref.split('/').slice(1)) at = (at as Json)[part.replaceAll('~1', '/').replaceAll('~0', '~')];
  const size = sizeOf(at, sizing);
  // What is referred to is compiled once, and its strings with it.
  sizing.known.set(ref, { places: size.places, characters: 0 });
  return size;
}

/** Atoms of a regular expression, times how often they may be repeated where that is counted. */
function countedIn(pattern: string): GrammarSize {
  /** Sizes of each open group, and of the last atom in it. */
  const groups = [{ whole: evenly(0), last: evenly(0) }];
  for (const [unit] of pattern.matchAll(/\\.|\[(?:\\.|[^\]\\])*\]?|\{\d+(?:,\d*)?\}|[^]/gu)) {
    const group = groups.at(-1)!;
    let added: GrammarSize;
    if (unit === '(') {
      groups.push({ whole: evenly(0), last: evenly(0) });
      continue;
    } else if (unit === ')' && groups.length > 1) {
      const { whole } = groups.pop()!;
      groups.at(-1)!.last = added = whole;
    } else if (unit.length > 1 && unit.startsWith('{')) {
      const times = Math.max(1, ...unit.slice(1, -1).split(',').map(Number));
      const { places, characters } = group.last;
      added = { places: places * (times - 1), characters: characters * (times - 1) };
      group.last = { places: places * times, characters: characters * times };
    } else if (!'*+?|^$'.includes(unit)) {
      group.last = added = { places: 1, characters: anyCharacter.test(unit) ? WEIGHT_IN_PATTERN : 0 };
    } else continue;
    const { whole } = groups.at(-1)!;
    groups.at(-1)!.whole = { places: whole.places + added.places, characters: whole.characters + added.characters };
  }
  return groups.reduce(
    (sum, { whole }) => ({ places: sum.places + whole.places, characters: sum.characters + whole.characters }),
    evenly(0),
  );
}
