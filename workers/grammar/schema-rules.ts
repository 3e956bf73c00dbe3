// Which JSON schemas can be held to, decided before anything is compiled: sizes, and what web-xgrammar would ignore or
// get wrong. Called by check.ts. What must stay true: a schema that passes is held to in full, as the README says.
import { ServiceError } from '../../protocol/errors.ts';

/** Sizes of one schema. Nesting is counted as written, without following references. */
export const SchemaLimits = { depth: 32, nodes: 4000, properties: 1000, enumValues: 1000, patternChars: 512 } as const;

type Json = Record<string, unknown>;

/** Of no consequence for what is valid. */
const annotations = new Set([
  '$schema',
  '$id',
  '$comment',
  '$defs',
  'definitions',
  'title',
  'description',
  'default',
  'example',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'discriminator',
]);

/** One of these says it all; beside it only annotations may stand, and `type` beside values. */
const whole = ['$ref', 'const', 'enum', 'anyOf', 'oneOf', 'allOf'] as const;

const keywordsOf: Record<string, readonly string[]> = {
  string: ['pattern', 'format', 'minLength', 'maxLength'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  number: [],
  boolean: [],
  null: [],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  object: ['properties', 'required', 'additionalProperties'],
};

/** Formats that are held to. */
const formats = new Set(['date', 'time', 'date-time', 'duration', 'email', 'hostname', 'ipv4', 'ipv6', 'uuid', 'uri']);

/** Outside of classes, characters that a JSON string must escape. */
const escapedInJson = /["\p{Cc}]|\\(?:[\\nrtfv0cbB]|x(?:[01]|22|5[cC])|u00(?:[01]|22|5[cC]))/u;

interface Walk {
  root: unknown;
  param: string;
  nodes: number;
  properties: number;
  enumValues: number;
}

/**
 * Throws ServiceError `unsupported` or `invalid_request` that says where. needsObject: only objects may be valid, as for
 * arguments of a call.
 */
export function checkSchema(root: unknown, param: string, needsObject: boolean): void {
  const walk: Walk = { root, param, nodes: 0, properties: 0, enumValues: 0 };
  checkNode(walk, root, '', 0);
  if (needsObject && !isObjectSchema(resolve(walk, root, '', new Set()))) fail(walk, '', 'is not of "type": "object"');
}

function checkNode(walk: Walk, node: unknown, path: string, depth: number): void {
  if (depth > SchemaLimits.depth) fail(walk, path, `is nested deeper than ${SchemaLimits.depth} levels`);
  if (++walk.nodes > SchemaLimits.nodes) fail(walk, '', `has more than ${SchemaLimits.nodes} subschemas`);
  if (node === true) return;
  if (typeof node !== 'object' || node === null || Array.isArray(node)) refuse(walk, path, 'is not a schema');
  const schema = node as Json;
  for (const name of ['$defs', 'definitions']) {
    for (const [key, value] of entriesOf(walk, schema[name], `${path}/${name}`)) {
      checkNode(walk, value, `${path}/${name}/${key}`, depth + 1);
    }
  }
  const [main, ...more] = whole.filter((name) => schema[name] !== undefined);
  if (more.length > 0) fail(walk, path, `has ${main} beside ${more[0]}, which is not supported`);
  const types = typesOf(walk, schema, path);
  if (main !== undefined) return checkWhole(walk, schema, main, types, path, depth);
  const allowed = new Set(['type', ...types.flatMap((type) => keywordsOf[type]!)]);
  for (const name of Object.keys(schema)) {
    if (!annotations.has(name) && !allowed.has(name)) unknownKeyword(walk, schema, name, path);
  }
  if (types.includes('string')) checkString(walk, schema, path);
  if (types.includes('object')) checkObject(walk, schema, path, depth);
  if (types.includes('array')) checkArray(walk, schema, path, depth);
  for (const name of ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum']) {
    const bound = schema[name];
    if (bound !== undefined && !Number.isSafeInteger(bound)) refuse(walk, `${path}/${name}`, 'is not an integer');
  }
}

/** The schema's types; [] without `type` and without keywords. */
function typesOf(walk: Walk, schema: Json, path: string): string[] {
  const { type } = schema;
  if (type === undefined) return [];
  const types = (Array.isArray(type) ? type : [type]) as unknown[];
  for (const name of types) {
    if (typeof name !== 'string' || !Object.hasOwn(keywordsOf, name))
      refuse(walk, `${path}/type`, 'names no JSON type');
  }
  return types as string[];
}

function unknownKeyword(walk: Walk, schema: Json, name: string, path: string): never {
  const at = `${path}/${name.slice(0, 64)}`;
  if (schema.type === undefined) fail(walk, at, 'is not supported without "type"');
  fail(walk, at, 'is not supported');
}

function checkWhole(
  walk: Walk,
  schema: Json,
  main: (typeof whole)[number],
  types: readonly string[],
  path: string,
  depth: number,
): void {
  const takesType = main === 'const' || main === 'enum';
  const other = Object.keys(schema).find(
    (name) => name !== main && !annotations.has(name) && !(takesType && name === 'type'),
  );
  if (other !== undefined) fail(walk, `${path}/${other.slice(0, 64)}`, `is not supported beside ${main}`);
  const value = schema[main];
  switch (main) {
    case '$ref':
      resolve(walk, schema, path, new Set());
      return;
    case 'const':
      return checkValues(walk, [value], types, `${path}/const`);
    case 'enum':
      return checkValues(walk, value, types, `${path}/enum`);
    default:
      if (!Array.isArray(value) || value.length === 0) refuse(walk, `${path}/${main}`, 'is not a list of schemas');
      if (main === 'allOf' && (value as unknown[]).length > 1)
        fail(walk, `${path}/allOf`, 'of several is not supported');
      for (const [index, item] of (value as unknown[]).entries()) {
        checkNode(walk, item, `${path}/${main}/${index}`, depth + 1);
        resolve(walk, item, `${path}/${main}/${index}`, new Set([schema]));
      }
  }
}

function checkValues(walk: Walk, values: unknown, types: readonly string[], path: string): void {
  if (!Array.isArray(values) || values.length === 0) refuse(walk, path, 'is not a list of values');
  const list = values as unknown[];
  walk.enumValues += list.length;
  if (walk.enumValues > SchemaLimits.enumValues) fail(walk, '', `has more than ${SchemaLimits.enumValues} values`);
  const wrong = list.find((value) => types.length > 0 && !types.some((type) => isOfType(value, type)));
  if (wrong !== undefined) refuse(walk, path, 'has a value of another type');
}

function isOfType(value: unknown, type: string): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'integer') return Number.isInteger(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  return typeof value === type;
}

function checkString(walk: Walk, schema: Json, path: string): void {
  const { pattern, minLength, maxLength, format } = schema;
  if (pattern !== undefined) {
    if (typeof pattern !== 'string') refuse(walk, `${path}/pattern`, 'is not a string');
    if ((pattern as string).length > SchemaLimits.patternChars) fail(walk, `${path}/pattern`, 'is too long');
    if (escapedInJson.test((pattern as string).replaceAll(/\[(?:\\.|[^\]\\])*\]/gu, ''))) {
      fail(walk, `${path}/pattern`, 'needs characters that JSON escapes, which is not supported');
    }
  }
  if (format !== undefined && !formats.has(format as string)) fail(walk, `${path}/format`, 'names no supported format');
  const numForms = [pattern, format, minLength ?? maxLength].filter((form) => form !== undefined).length;
  if (numForms > 1) fail(walk, path, 'has more than one of pattern, format and lengths, which is not supported');
  for (const name of ['minLength', 'maxLength']) checkCount(walk, schema[name], `${path}/${name}`);
}

function checkObject(walk: Walk, schema: Json, path: string, depth: number): void {
  const { properties, required, additionalProperties } = schema;
  const entries = entriesOf(walk, properties, `${path}/properties`);
  walk.properties += entries.length;
  if (walk.properties > SchemaLimits.properties) fail(walk, '', `has more than ${SchemaLimits.properties} properties`);
  for (const [name, value] of entries) checkNode(walk, value, `${path}/properties/${name}`, depth + 1);
  if (required !== undefined) {
    if (!Array.isArray(required)) refuse(walk, `${path}/required`, 'is not a list of names');
    const known = new Set(entries.map(([name]) => name));
    const missing = (required as unknown[]).find((name) => typeof name !== 'string' || !known.has(name));
    if (missing !== undefined) fail(walk, `${path}/required`, 'names what is not in properties');
  }
  if (additionalProperties !== undefined && additionalProperties !== false) {
    checkNode(walk, additionalProperties, `${path}/additionalProperties`, depth + 1);
  }
}

function checkArray(walk: Walk, schema: Json, path: string, depth: number): void {
  const { items, prefixItems, minItems, maxItems } = schema;
  if (items !== undefined && items !== false) checkNode(walk, items, `${path}/items`, depth + 1);
  if (prefixItems !== undefined) {
    if (!Array.isArray(prefixItems)) refuse(walk, `${path}/prefixItems`, 'is not a list of schemas');
    for (const [index, item] of (prefixItems as unknown[]).entries()) {
      checkNode(walk, item, `${path}/prefixItems/${index}`, depth + 1);
    }
  }
  checkCount(walk, minItems, `${path}/minItems`);
  checkCount(walk, maxItems, `${path}/maxItems`);
}

function checkCount(walk: Walk, value: unknown, path: string): void {
  if (value !== undefined && !(Number.isSafeInteger(value) && (value as number) >= 0)) {
    refuse(walk, path, 'is not a count');
  }
}

function entriesOf(walk: Walk, value: unknown, path: string): [string, unknown][] {
  if (value === undefined) return [];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse(walk, path, 'is not an object');
  return Object.entries(value as Json);
}

/** What a reference stands for in the end. References that lead in a circle, with nothing on the way, are refused. */
function resolve(walk: Walk, node: unknown, path: string, seen: Set<unknown>): unknown {
  if (typeof node !== 'object' || node === null) return node;
  if (seen.has(node)) fail(walk, path, 'refers to itself and nothing else');
  seen.add(node);
  const { $ref: ref } = node as Json;
  if (ref !== undefined) return resolve(walk, pointed(walk, ref, path), path, seen);
  for (const name of ['anyOf', 'oneOf', 'allOf']) {
    const options = (node as Json)[name];
    if (Array.isArray(options)) for (const option of options) resolve(walk, option, path, new Set(seen));
  }
  return node;
}

function pointed(walk: Walk, ref: unknown, path: string): unknown {
  if (typeof ref !== 'string' || !/^#(\/|$)/.test(ref)) fail(walk, `${path}/$ref`, 'does not point into this schema');
  let at: unknown = walk.root;
  for (const part of (ref as string).split('/').slice(1)) {
    const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
    const isInside = typeof at === 'object' && at !== null && Object.hasOwn(at, key);
    at = isInside ? (at as Json)[key] : fail(walk, `${path}/$ref`, 'points to nothing');
  }
  return at;
}

function isObjectSchema(schema: unknown): boolean {
  return typeof schema === 'object' && schema !== null && (schema as Json).type === 'object';
}

/** What we do not do. */
function fail(walk: Walk, path: string, why: string): never {
  throw new ServiceError('unsupported', `${placeOf(walk, path)} ${why}.`, { param: walk.param });
}

/** What is no schema. */
function refuse(walk: Walk, path: string, why: string): never {
  throw new ServiceError('invalid_request', `${placeOf(walk, path)} ${why}.`, { param: walk.param });
}

function placeOf(walk: Walk, path: string): string {
  return path === '' ? walk.param : `${walk.param}: ${path.slice(0, 200)}`;
}
