// What web-xgrammar would make too much of: a schema rewritten for it, and its rules for numbers mended. Used by
// grammar-source.ts. What must stay true: whatever fits the rewritten form fits the schema as it was sent.

const EMAIL = '^[a-zA-Z0-9_%+-]+(\\.[a-zA-Z0-9_%+-]+)*@[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*(\\.[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*)+$';
/** A number without bounds could go on to the limit of the answer: so many digits are exact in every reader of JSON. */
const MAX_DIGITS = 15;
const LARGEST = 10 ** MAX_DIGITS - 1;

type Json = Record<string, unknown>;

/** The schema with integers that have one bound given the other, and with addresses that need no escapes in JSON. */
export function forLibrary(schema: unknown): unknown {
  if (typeof schema !== 'object' || schema === null) return schema;
  const result: Json = { ...schema };
  for (const name of ['properties', '$defs', 'definitions']) {
    const schemas = result[name];
    if (typeof schemas !== 'object' || schemas === null) continue;
    result[name] = Object.fromEntries(Object.entries(schemas).map(([key, value]) => [key, forLibrary(value)]));
  }
  for (const name of ['prefixItems', 'anyOf', 'oneOf', 'allOf']) {
    const schemas = result[name];
    if (Array.isArray(schemas)) result[name] = schemas.map(forLibrary);
  }
  for (const name of ['items', 'additionalProperties']) {
    if (result[name] !== undefined) result[name] = forLibrary(result[name]);
  }
  if (result.format === 'email') {
    // The library's own allows quoted names, with escapes that are no JSON.
    delete result.format;
    result.pattern = EMAIL;
  }
  boundBothWays(result);
  return result;
}

function boundBothWays(schema: Json): void {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (typeof low === 'number' && high === undefined) {
    schema.maximum = low < LARGEST ? LARGEST : Number.MAX_SAFE_INTEGER;
  } else if (typeof high === 'number' && low === undefined) {
    schema.minimum = high > -LARGEST ? -LARGEST : Number.MIN_SAFE_INTEGER;
  }
}

/** The library's rules for digits, by what they stand for in JSON, with as many as are let through. */
const digits: readonly [rule: string, as: string][] = [
  [
    'basic_integer ::= (("0") | (basic_integer_1 [1-9] [0-9]*))',
    `(("0") | (basic_integer_1 [1-9] [0-9]{0,${MAX_DIGITS - 1}}))`,
  ],
  ['basic_number_7 ::= (("0") | ([1-9] [0-9]*))', `(("0") | ([1-9] [0-9]{0,${MAX_DIGITS - 1}}))`],
  ['basic_number_2 ::= (([0-9] basic_number_2) | ([0-9]))', `[0-9]{1,${MAX_DIGITS}}`],
  // Below 10^115: finite in every reader.
  ['basic_number_5 ::= (([0-9] basic_number_5) | ([0-9]))', '[0-9]{1,2}'],
];

/** Throws an Error when the library writes numbers otherwise than it did. */
export function withShortNumbers(rules: string): string {
  return digits.reduce((text, [rule, as]) => {
    if (!text.includes(rule)) throw new Error(`this web-xgrammar has no rule ${rule}`);
    return text.replace(rule, () => `${rule.split(' ', 1)[0]!} ::= ${as}`);
  }, rules);
}
