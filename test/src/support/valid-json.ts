// Whether a value fits a JSON schema, for tests of answers that were held to one: the keywords that the server supports,
// written from the definition and not from what makes the answers.

type Json = Record<string, unknown>;

/** What is wrong with the value, as a path; null when it fits. */
export function misfit(schema: unknown, value: unknown, root: unknown = schema, path = '$'): string | null {
  if (schema === true) return null;
  const node = schema as Json;
  if (typeof node.$ref === 'string') return misfit(pointed(root, node.$ref), value, root, path);
  for (const name of ['anyOf', 'oneOf'] as const) {
    const options = node[name] as unknown[] | undefined;
    if (options !== undefined && options.every((option) => misfit(option, value, root, path) !== null)) return path;
  }
  if ('const' in node && !isEqual(node.const, value)) return path;
  if (Array.isArray(node.enum) && !node.enum.some((one) => isEqual(one, value))) return path;
  const types = node.type === undefined ? [] : [node.type].flat();
  if (types.length > 0 && !types.some((type) => isOf(type as string, value))) return path;
  if (typeof value === 'string') return misfitString(node, value, path);
  if (typeof value === 'number') return isWithin(node, value) ? null : path;
  if (Array.isArray(value)) return misfitArray(node, value, root, path);
  if (typeof value === 'object' && value !== null) return misfitObject(node, value as Json, root, path);
  return null;
}

function isOf(type: string, value: unknown): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'integer') return Number.isInteger(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  return typeof value === type;
}

function misfitString({ minLength = 0, maxLength = Infinity, pattern }: Json, value: string, path: string) {
  const length = [...value].length;
  if (length < (minLength as number) || length > (maxLength as number)) return path;
  return pattern !== undefined && !new RegExp(pattern as string, 'u').test(value) ? path : null;
}

function isWithin({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Json, value: number): boolean {
  return (
    value >= ((minimum as number) ?? -Infinity) &&
    value <= ((maximum as number) ?? Infinity) &&
    value > ((exclusiveMinimum as number) ?? -Infinity) &&
    value < ((exclusiveMaximum as number) ?? Infinity)
  );
}

function misfitArray(node: Json, value: unknown[], root: unknown, path: string): string | null {
  const { minItems = 0, maxItems = Infinity, prefixItems = [], items = true } = node;
  if (value.length < (minItems as number) || value.length > (maxItems as number)) return path;
  for (const [index, item] of value.entries()) {
    const found = misfit((prefixItems as unknown[])[index] ?? items, item, root, `${path}[${index}]`);
    if (found !== null) return found;
  }
  return null;
}

function misfitObject(node: Json, value: Json, root: unknown, path: string): string | null {
  const properties = (node.properties ?? {}) as Json;
  for (const name of (node.required ?? []) as string[]) if (!Object.hasOwn(value, name)) return `${path}.${name}`;
  for (const [name, item] of Object.entries(value)) {
    const isKnown = Object.hasOwn(properties, name);
    if (!isKnown && node.additionalProperties === false) return `${path}.${name}`;
    const found = misfit(
      isKnown ? properties[name] : (node.additionalProperties ?? true),
      item,
      root,
      `${path}.${name}`,
    );
    if (found !== null) return found;
  }
  return null;
}

function isEqual(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function pointed(root: unknown, ref: string): unknown {
  return ref
    .split('/')
    .slice(1)
    .reduce((at, key) => (at as Json)[key], root);
}
