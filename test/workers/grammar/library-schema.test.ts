import { describe, expect, it } from 'vitest';
import { forLibrary, withShortNumbers } from '../../../workers/grammar/library-schema.ts';

const LARGEST = 999_999_999_999_999;

/** With the part in every place where a schema may stand. */
const schema = (part: object) => ({
  type: 'object',
  properties: { a: part, b: { type: 'array', items: part, prefixItems: [part] } },
  additionalProperties: { anyOf: [part, { type: 'null' }] },
  $defs: { d: part },
});

describe('A schema for the library', () => {
  it('bounds integers on both sides, wherever they stand', () => {
    const low = { type: 'integer', minimum: 3 };
    const bounded = { type: 'integer', minimum: 3, maximum: LARGEST };
    expect(forLibrary(schema(low))).toEqual(schema(bounded));
    expect(forLibrary({ type: 'integer', exclusiveMaximum: 5 })).toMatchObject({ minimum: -LARGEST });
    expect(forLibrary({ type: 'integer', exclusiveMinimum: LARGEST })).toMatchObject({
      maximum: Number.MAX_SAFE_INTEGER,
    });
    expect(forLibrary({ type: 'integer', minimum: 1, maximum: 2 })).toEqual({
      type: 'integer',
      minimum: 1,
      maximum: 2,
    });
    expect(forLibrary({ type: 'integer' })).toEqual({ type: 'integer' });
  });

  it('leaves values and names of properties as they are, and the schema it was given', () => {
    const same = {
      enum: [{ minimum: 3, format: 'email' }],
      default: { minimum: 3 },
      properties: { minimum: { type: 'null' }, format: { const: { format: 'email' } } },
      items: true,
      additionalProperties: false,
    };
    expect(forLibrary(same)).toEqual(same);
    const email = Object.freeze({ type: 'string', format: 'email' });
    expect(forLibrary(email)).toEqual({ type: 'string', pattern: expect.stringContaining('@') as string });
  });

  it('is refused rules that it does not know', () => {
    expect(() => withShortNumbers('root ::= [0-9]*')).toThrow('basic_integer');
  });
});
