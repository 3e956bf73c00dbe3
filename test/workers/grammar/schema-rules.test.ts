import { describe, expect, it } from 'vitest';
import { checkSchema, SchemaLimits } from '../../../workers/grammar/schema-rules.ts';

const object = (properties: Record<string, unknown>, rest = {}) => ({ type: 'object', properties, ...rest });
const deep = (depth: number): unknown => (depth === 0 ? { type: 'null' } : { type: 'array', items: deep(depth - 1) });

describe('Schemas that can be held to', () => {
  it.each<[name: string, schema: unknown]>([
    ['anything', {}],
    ['anything, said otherwise', true],
    ['an object with notes', object({ a: { type: 'string', description: 'x', default: '', title: 'A' } })],
    ['properties that need not be there', object({ a: true, b: { type: ['string', 'null'] } }, { required: ['a'] })],
    ['a map', { type: 'object', additionalProperties: { type: 'integer', minimum: 1, exclusiveMaximum: 5 } }],
    ['lists', { type: 'array', prefixItems: [{ const: 1 }], items: { enum: ['a', 2, null] }, maxItems: 3 }],
    ['patterns with quotes in classes', { type: 'string', pattern: '^[^"]+\\.[\\u4e00-\\u9fa5]$' }],
    ['choices', { anyOf: [{ type: 'string', format: 'date' }, { oneOf: [{ type: 'null' }] }] }],
    ['a tree', { $ref: '#/$defs/node', $defs: { node: object({ next: { $ref: '#/$defs/node' } }) } }],
    ['a reference to itself from within', object({ next: { anyOf: [{ type: 'null' }, { $ref: '#' }] } })],
    ['names with slashes', { $ref: '#/$defs/a~1b', $defs: { 'a/b': { type: 'string' } } }],
    ['values of one of the types', { type: ['integer', 'string'], enum: [1, 'x'] }],
  ])('are %s', (_name, schema) => {
    expect(() => checkSchema(schema, 'p', false)).not.toThrow();
  });

  it.each<[where: string, schema: unknown]>([
    ['/not', { type: 'string', not: { const: 'x' } }],
    ['/if', object({}, { if: {} })],
    ['/multipleOf', { type: 'integer', multipleOf: 5 }],
    ['/minimum', { type: 'number', minimum: 0.5 }],
    ['/uniqueItems', { type: 'array', uniqueItems: true }],
    ['/properties/a/contains', object({ a: { type: 'array', contains: {} } })],
    ['/patternProperties', object({}, { patternProperties: {} })],
    ['/constructor', JSON.parse('{"type": "string", "constructor": 1}')],
    ['/properties', { properties: {} }],
    ['/required', object({ a: {} }, { required: ['b'] })],
    ['allOf of several', { allOf: [{}, {}] }],
    ['/required is not supported beside anyOf', { anyOf: [{ type: 'object' }], required: ['a'] }],
    ['$ref beside anyOf', { anyOf: [{}], $ref: '#' }],
    ['more than one of', { type: 'string', pattern: 'a', maxLength: 3 }],
    ['points to nothing', { $ref: '#/$defs/a' }],
    ['points to nothing', { $ref: '#/constructor' }],
    ['does not point into', { $ref: 'https://example.com/s.json' }],
    ['refers to itself', { $ref: '#' }],
    ['refers to itself', { $ref: '#/$defs/a', $defs: { a: { $ref: '#/$defs/b' }, b: { $ref: '#/$defs/a' } } }],
    ['refers to itself', { anyOf: [{ $ref: '#' }] }],
    ['refers to itself', { $ref: '#/$defs/a', $defs: { a: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/a' }] } } }],
    ['nested deeper', deep(SchemaLimits.depth + 1)],
    ['subschemas', { anyOf: Array.from({ length: SchemaLimits.nodes }, () => ({})) }],
    ['values', { enum: Array.from({ length: SchemaLimits.enumValues + 1 }, (_, i) => i) }],
    ['properties', object(Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`p${i}`, true])))],
    ['/format', { type: 'string', format: 'regex' }],
    ['/format', { type: 'string', format: 7 }],
    ['JSON escapes', { type: 'string', pattern: 'say "hi"' }],
    ['JSON escapes', { type: 'string', pattern: 'a\\\\b' }],
    ['JSON escapes', { type: 'string', pattern: 'a\\x22' }],
    ['is too long', { type: 'string', pattern: 'a'.repeat(513) }],
  ])('are not those with %s (%#)', (where, schema) => {
    const error = expect.objectContaining({ code: 'unsupported', param: 'p', message: expect.stringContaining(where) });
    expect(() => checkSchema(schema, 'p', false)).toThrow(error);
  });

  it.each<[name: string, schema: unknown]>([
    ['a word', 'string'],
    ['nothing', null],
    ['a list', [{}]],
    ['never', false],
    ['an unknown type', { type: 'objekt' }],
    ['a type of the language', { type: 'toString' }],
    ['no types', { type: 7 }],
    ['no properties', { type: 'object', properties: [] }],
    ['a property that is no schema', object({ a: 'string' })],
    ['definitions that are none', { $defs: { a: 1 } }],
    ['required that is no list', object({}, { required: 'a' })],
    ['no choices', { anyOf: [] }],
    ['no values', { enum: [] }],
    ['values that are no list', { enum: 'abc' }],
    ['values of another type', { type: 'integer', enum: [1, 'x'] }],
    ['a constant of another type', { type: 'string', const: 1 }],
    ['a pattern that is no string', { type: 'string', pattern: 1 }],
    ['a length below nothing', { type: 'string', minLength: -1 }],
    ['half a count', { type: 'array', maxItems: 1.5 }],
    ['a bound that is no integer', { type: 'integer', minimum: '1' }],
    ['items that are no schemas', { type: 'array', prefixItems: {} }],
  ])('are no schemas at all: %s', (_name, schema) => {
    const error = expect.objectContaining({ code: 'invalid_request', param: 'p' });
    expect(() => checkSchema(schema, 'p', false)).toThrow(error);
  });

  it('take objects only for arguments, also by reference', () => {
    const named = { $ref: '#/$defs/a', $defs: { a: object({}) } };
    expect(() => checkSchema(named, 'p', true)).not.toThrow();
    for (const schema of [{}, { type: 'string' }, { type: ['object', 'null'] }, { anyOf: [object({})] }, true]) {
      expect(() => checkSchema(schema, 'p', true)).toThrow(expect.objectContaining({ code: 'unsupported' }));
    }
  });
});
