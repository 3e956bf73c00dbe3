import { describe, expect, it } from 'vitest';
import { JsonScanner, type ScanStatus } from '../../../workers/text/json-scanner.ts';
import { seeded } from './support.ts';

/** Feeds until the end or a verdict; how many units were taken. */
function scan(text: string): { status: ScanStatus; taken: number; scanner: JsonScanner } {
  const scanner = new JsonScanner();
  for (let i = 0; i < text.length; i++) {
    const status = scanner.feed(text[i] ?? '');
    if (status !== 'more') return { status, taken: i + 1, scanner };
  }
  return { status: 'more', taken: text.length, scanner };
}

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

describe('JsonScanner', () => {
  it.each([
    '{}',
    '[]',
    '{"a": 1, "b": [true, false, null, -1.5e+3, "x\\u00e9\\n"], "c": {"d": {}}}',
    '{ "a" : [ ] , "b" : [ 1 , [ 2 ] ] }',
    '{"\\"": "}]"}',
  ])('takes %s to its last bracket', (text) => {
    expect(scan(`${text} rest`)).toMatchObject({ status: 'done', taken: text.length });
  });

  it.each([
    ['{a', 2],
    ["{'a", 2],
    ['{"a" 1', 6],
    ['{"a": }', 7],
    ['{"a": 1,}', 9],
    ['{,', 2],
    ['[1,]', 4],
    ['[1 2', 4],
    ['[01]', 4],
    ['[1.]', 4],
    ['[tru]', 5],
    ['[truex]', 7],
    ['["a\nb', 4],
    ['["\\x', 4],
    ['["\\u12g', 7],
    ['[}', 2],
    ['{]', 2],
    ['"a"', 1],
    ['12', 1],
    ['[1}', 3],
    [`${'['.repeat(200)}`, 129],
  ])('refuses %s at unit %i', (text, taken) => {
    expect(scan(text)).toMatchObject({ status: 'bad', taken });
  });

  it('knows where the top-level properties stand', () => {
    const text = '{"a" : {"x": [1]}, "b":2 ,"c": "s"}';
    const { scanner } = scan(text);
    expect(
      scanner.properties.map((one) => [text.slice(one.keyStart, one.keyEnd), text.slice(one.valueStart, one.valueEnd)]),
    ).toEqual([
      ['"a"', '{"x": [1]}'],
      ['"b"', '2'],
      ['"c"', '"s"'],
    ]);
  });

  it('agrees with JSON.parse on random damage', () => {
    const seed = 1234;
    const random = seeded(seed);
    const good = '{"name": "f", "n": [1.5e2, -0, true, {"k\\u0041": null}], "s": "a\\"b\\\\"}';
    const units = '{}[]",:\\ 01-.eutrnlfas\n';
    for (let round = 0; round < 20_000; round++) {
      const at = random.int(good.length);
      const unit = units[random.int(units.length)] ?? '';
      const text = good.slice(0, at) + unit + good.slice(at + random.int(3));
      const { status, taken } = scan(text);
      const where = `seed ${seed}, round ${round}: ${text}`;
      if (status === 'done') expect(parses(text.slice(0, taken)), where).toBe(true);
      else expect(parses(text), where).toBe(false);
    }
  });
});
