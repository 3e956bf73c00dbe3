import { describe, expect, it } from 'vitest';
import { patternSize, schemaSize } from '../../../workers/grammar/schema-size.ts';

const size = (schema: unknown) => schemaSize(JSON.stringify(schema), 'p').characters;
const refusal = expect.objectContaining({ code: 'unsupported', param: 'p' }) as Error;

describe('The size of a form', () => {
  it.each<[pattern: string, places: number]>([
    ['abc', 3],
    ['a{20}', 20],
    ['[a-z]{2,5}\\d', 6],
    ['(a|bc){10}x', 31],
    ['((a{10}){10}){3,}', 300],
    ['a*b+c?', 3],
    ['x\\{3}[{4}]', 5],
    ['a{,3}', 5],
    ['(', 0],
    [')', 1],
    ['{5}', 0],
    ['', 0],
  ])('is counted with repetitions: %s', (pattern, places) => {
    expect(patternSize(pattern, 'p').places).toBe(places);
  });

  it.each<[pattern: string, characters: number]>([
    ['.{8}', 2],
    ['[^"]{4}[a-z]{9}', 1],
    ['(\\S\\d){4}', 1],
    ['[.]{8}\\.{8}', 0],
  ])('counts what may be almost any character of a pattern: %s', (pattern, characters) => {
    expect(patternSize(pattern, 'p').characters).toBe(characters);
  });

  it('counts lengths of strings, as far as the compiler does, and what is referred to once', () => {
    const string = { type: 'string', maxLength: 50 };
    expect(size(string)).toBe(50);
    expect(size({ type: 'string', minLength: 7 })).toBe(7);
    expect(size({ type: 'string', maxLength: 5000 })).toBe(128);
    expect(size({ type: 'object', properties: { a: string, b: { type: 'array', items: string } } })).toBe(100);
    const shared = { $ref: '#/$defs/s' };
    expect(size({ anyOf: [shared, shared], $defs: { s: string } })).toBe(50);
    expect(size({ type: 'string' })).toBe(0);
  });

  it('ends for schemas that refer to themselves', () => {
    const list = { type: 'array', items: { $ref: '#' }, prefixItems: [{ $ref: '#/items' }] };
    expect(schemaSize(JSON.stringify(list), 'p').places).toBeLessThan(10);
    expect(schemaSize(JSON.stringify({ type: 'object', additionalProperties: true }), 'p').places).toBe(1);
  });

  it.each<[name: string, run: () => unknown]>([
    ['nested repetition', () => patternSize('((a|b){500}){500}', 'p')],
    ['long lists', () => schemaSize('{"type":"array","items":{"type":"null"},"maxItems":1000000}', 'p')],
    [
      'references that double',
      () => {
        const doubling = Object.fromEntries(
          Array.from({ length: 40 }, (_, i) => [`a${i}`, { anyOf: [1, 2].map(() => ({ $ref: `#/$defs/a${i + 1}` })) }]),
        );
        return schemaSize(JSON.stringify({ $ref: '#/$defs/a0', $defs: { ...doubling, a40: { type: 'null' } } }), 'p');
      },
    ],
  ])('is refused where it is too much: %s', (_name, run) => {
    expect(run).toThrow(refusal);
  });
});
