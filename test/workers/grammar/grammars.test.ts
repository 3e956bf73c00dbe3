import { beforeAll, describe, expect, it } from 'vitest';
import { Grammars } from '../../../workers/grammar/grammars.ts';
import type { GrammarSpec } from '../../../workers/messages/grammar.ts';
import { FAKE_EOS, FAKE_SHAPE } from '../../../workers/model/fake.ts';
import { isAllowed } from '../../../workers/sampling/token-mask.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { EngineKit } from '../support/engine-kit.ts';
import { seeded } from '../text/support.ts';

const text = TextModel.bytes();
const { vocabSize } = FAKE_SHAPE;
const load = (): Promise<Grammars> => Grammars.load(text, vocabSize);
let grammars: Grammars;
beforeAll(async () => {
  grammars = await load();
});

const at = JSON.stringify({ type: 'object', properties: { at: { enum: ['sky', 'sea'] } }, required: ['at'] });
const call = (name: string, schema: string | null = at) => ({ name, schema, isStrict: true, param: 'p' });
const spec = (fields: Partial<GrammarSpec>): GrammarSpec => ({
  text: null,
  calls: [],
  mustCall: false,
  isParallel: true,
  ...fields,
});
const schema = (value: unknown): GrammarSpec =>
  spec({ text: { kind: 'schema', schema: JSON.stringify(value), param: 'p' } });
const regex = (pattern: string): GrammarSpec => spec({ text: { kind: 'regex', pattern, param: 'p' } });

let nextId = 1;
/** How far the grammar goes along with a text, in bytes, and whether it may end there. */
function follow(form: GrammarSpec, answer: string): { length: number; mayEnd: boolean } {
  const id = nextId++;
  const key = grammars.open(form);
  const ids = [1, 2, 3];
  const allowed = (token: number): boolean => {
    const mask = grammars.mask(id, form, key, ids, 3);
    return mask !== null && isAllowed(mask, token);
  };
  for (const token of text.encode(answer)) {
    if (!allowed(token)) break;
    ids.push(token);
  }
  const mayEnd = allowed(FAKE_EOS);
  grammars.release(id);
  return { length: ids.length - 3, mayEnd };
}

const hermes = (name: string, json: string) => `<tool_call>\n{"name": "${name}", "arguments": ${json}}\n</tool_call>`;
const good = hermes('look', '{"at": "sky"}');

describe('A grammar', () => {
  it('ends an answer that has to call after eight calls, and one that may call once after one', () => {
    const calls = (count: number): string => Array.from({ length: count }, () => good).join('\n');
    const many = spec({ calls: [call('look')], mustCall: true });
    expect(follow(many, calls(8))).toEqual({ length: text.encode(calls(8)).length, mayEnd: true });
    expect(follow(many, calls(9)).length).toBe(text.encode(calls(8)).length);
    const once = { ...many, isParallel: false };
    expect(follow(once, calls(2))).toEqual({ length: text.encode(good).length, mayEnd: true });
  });

  it.each<[name: string, form: GrammarSpec, answer: string]>([
    ['an object', schema({ type: 'object' }), '{"a": [1, {"b": null}], "c": "é🙂\\u00e9\\"", "d": -1.5e3}'],
    ['a schema', schema(JSON.parse(at)), '{"at": "sea"}'],
    ['a pattern', regex('[a-c]{2,3}(-[0-9]+)?'), 'abc-42'],
    ['numbers', schema({ type: 'array', items: { type: 'number' } }), '[0, -0.5, 123456789012345.25e+10, 1E-9]'],
    ['a large least', schema({ type: 'integer', minimum: 10 ** 15 }), '9007199254740991'],
    ['values as they are', schema({ const: { type: 'integer', minimum: 3 } }), '{"type":"integer","minimum":3}'],
    ['a required call', spec({ calls: [call('look')], mustCall: true }), good],
    ['parallel calls', spec({ calls: [call('look'), call('f')], mustCall: true }), `${good}\n${hermes('f', '{}')}`],
    ['text before calls', spec({ calls: [call('look')] }), `Hm <tool 你 < ${good} and ${good}`],
    ['text alone', spec({ calls: [call('look')] }), 'No call.'],
    ['any object as arguments', spec({ calls: [call('f', null)], mustCall: true }), hermes('f', '{"x": [1]}')],
  ])('goes along with %s', (name, form, answer) => {
    const wanted = { length: text.encode(answer).length, mayEnd: true };
    if (name === 'parallel calls') form.calls[1]!.schema = null;
    expect(follow(form, answer)).toEqual(wanted);
  });

  it.each<[name: string, form: GrammarSpec, answer: string, length: number]>([
    ['a value outside the schema', schema(JSON.parse(at)), '{"at": "sun"}', 9],
    ['a second property', schema(JSON.parse(at)), '{"at": "sky", "b": 1}', 12],
    ['text where a call is required', spec({ calls: [call('look')], mustCall: true }), 'Hello', 0],
    ['an unknown function', spec({ calls: [call('look')] }), hermes('leap', '{}'), 23],
    ['bad arguments after text', spec({ calls: [call('look')] }), `x${hermes('look', '{"to"')}`, 45],
    ['a second call', spec({ calls: [call('look')], mustCall: true, isParallel: false }), `${good}\n`, good.length],
    ['a letter too many', regex('a{2}'), 'aaa', 2],
    ['the sixteenth digit of an integer', schema({ type: 'integer' }), '-1234567890123456', 16],
    ['the sixteenth digit of a number', schema({ type: 'number' }), '1234567890123456', 15],
    ['the sixteenth digit behind the point', schema({ type: 'number' }), '0.1234567890123456', 17],
    ['the third digit of an exponent', schema({ type: 'number' }), '1.5e-123', 7],
    ['the sixteenth digit where only the least is given', schema({ type: 'integer', minimum: 3 }), '1'.repeat(16), 15],
    [
      'the sixteenth digit where only the most is given',
      schema({ type: 'integer', maximum: 3 }),
      `-${'1'.repeat(16)}`,
      16,
    ],
    ['the sixteenth digit in any object', schema({ type: 'object' }), '{"a": 1234567890123456', 21],
    ['half a character', regex('[é]'), 'è', 1],
  ])('stops at %s', (_name, form, answer, length) => {
    expect(follow(form, answer).length).toBe(length);
  });

  it('takes text in its form or calls, where both may come', () => {
    const form = { ...schema(JSON.parse(at)), calls: [call('look')] };
    expect(follow(form, '{"at": "sky"}')).toEqual({ length: 13, mayEnd: true });
    expect(follow(form, good)).toEqual({ length: good.length, mayEnd: true });
    expect(follow(form, 'Hello').length).toBe(0);
  });

  it.each<[name: string, string: object]>([
    ['lengths', { maxLength: 40 }],
    ['least lengths', { minLength: 8 }],
    ['any character of a pattern', { pattern: '^.{6,20}$' }],
    ['ranges of a pattern', { pattern: '^[ -~]{9}[^a][^\\\\"]$' }],
    ['addresses', { format: 'email' }],
    ['identifiers', { format: 'uri' }],
  ])('makes strings that are JSON: %s', (name, string) => {
    const form = schema({ type: 'string', ...string });
    const key = grammars.open(form);
    for (let seed = 0; seed < 40; seed++) {
      const random = seeded(seed);
      const id = nextId++;
      const ids: number[] = [];
      for (;;) {
        const mask = grammars.mask(id, form, key, ids, 0)!;
        const allowed = Array.from({ length: vocabSize }, (_, token) => token).filter((token) =>
          isAllowed(mask, token),
        );
        // Its own end as soon as it may, after a while.
        const quote = ids.length > 30 && allowed.includes(0x22);
        const token = allowed.includes(FAKE_EOS) ? FAKE_EOS : quote ? 0x22 : allowed[random.int(allowed.length)]!;
        if (token === FAKE_EOS) break;
        ids.push(token);
      }
      grammars.release(id);
      const answer = text.decode(ids);
      expect(() => JSON.parse(answer) as unknown, `${name}, seed ${seed}: ${answer}`).not.toThrow();
    }
  });

  it('gives up on a pattern that costs more with every token', () => {
    const form = regex('(a*)*b');
    const key = grammars.open(form);
    const ids: number[] = [];
    while (ids.length < 3000 && grammars.mask(nextId, form, key, ids, 0) !== null) ids.push('a'.charCodeAt(0));
    grammars.release(nextId++);
    expect(ids.length).toBeGreaterThan(50);
    expect(ids.length).toBeLessThan(3000);
  });

  it('gives the same masks to a sequence that comes from elsewhere', async () => {
    const form = schema({ type: 'object' });
    const other = await load();
    const ids = [7, ...text.encode('{"a": [tr')];
    const masks = [grammars, other].map((one) => [...one.mask(99, form, one.open(form), ids, 1)!]);
    expect(masks[0]).toEqual(masks[1]);
    ids.push(...text.encode('ue]'));
    expect([...grammars.mask(99, form, grammars.open(form), ids, 1)!]).toEqual([
      ...other.mask(1, form, other.open(form), ids, 1)!,
    ]);
    grammars.release(99);
  });

  it('forgets grammars and states beyond its limits without a difference to those that use them', () => {
    const form = regex('x{5}');
    const key = grammars.open(form);
    const ids = text.encode('xx');
    expect(grammars.mask(1000, form, key, ids, 0)).not.toBeNull();
    for (let i = 0; i < 130; i++) grammars.open(regex(`y{${i + 1}}`));
    for (let id = 2000; id < 3100; id++) grammars.mask(id, form, key, ids, 0);
    ids.push(...text.encode('xxx'));
    const mask = grammars.mask(1000, form, key, ids, 0)!;
    expect(isAllowed(mask, FAKE_EOS)).toBe(true);
    expect(isAllowed(mask, 'x'.charCodeAt(0))).toBe(false);
  });
});

const kitWith = async (workers: number, options = {}) =>
  new EngineKit({
    workers,
    maxLen: 2048,
    grammars: await Promise.all(Array.from({ length: workers }, load)),
    ...options,
  });

describe('The engine with grammars', () => {
  it('makes a model say what it would not', async () => {
    const kit = await kitWith(1);
    const outcome = kit.answer('!!say Hello there!!', { grammar: regex('[0-9]{4}') });
    expect(outcome).toMatchObject({ text: '0000', ends: ['stop'] });
    const drawn = kit.answer('!!say Hello there!!', { grammar: regex('[0-9]{40}'), temperature: 2, seed: 3 });
    expect(drawn.text).toMatch(/^[0-9]{40}$/);
  });

  it('ends with the form even where end tokens are to be ignored', async () => {
    const kit = await kitWith(1);
    const outcome = kit.answer('!!say x!!', { grammar: regex('ab'), ignoreEos: true, maxTokens: 100 });
    expect(outcome).toMatchObject({ text: 'ab', ends: ['stop'] });
  });

  it('parses required calls, and a call that is cut off ends with length', async () => {
    const kit = await kitWith(1);
    const grammar = spec({ calls: [call('look')], mustCall: true, isParallel: false });
    const done = kit.answer(`!!say ${good}!!`, { grammar, tools: ['look'] });
    expect(done).toMatchObject({ text: '', tools: [{ name: 'look', arguments: '{"at": "sky"}' }] });
    expect(done.ends).toEqual(['tool_calls']);
    const cut = kit.answer(`!!say ${good}!!`, { grammar, tools: ['look'], maxTokens: 44 });
    expect(cut.ends).toEqual(['length']);
    expect(cut.tools).toEqual([{ name: 'look', arguments: '{"' }]);
  });

  it('gives the same answers with several workers and with guesses, for all choices', async () => {
    const form = schema({ type: 'object', properties: { a: { type: 'string', maxLength: 20 } }, required: ['a'] });
    const texts: string[][] = [];
    for (const [workers, speculation] of [
      [1, false],
      [1, true],
      [3, false],
    ] as const) {
      const kit = await kitWith(workers, { speculation });
      const ids = Array.from({ length: 6 }, (_, i) =>
        kit.submitChoices(2, `prompt ${i}`, { grammar: form, temperature: 1, seed: i }),
      ).flat();
      kit.run();
      texts.push(ids.map((id) => kit.outcome(id).text));
    }
    expect(texts[0]).toEqual(texts[1]);
    expect(texts[0]).toEqual(texts[2]);
    for (const answer of texts[0]!) expect(typeof JSON.parse(answer).a).toBe('string');
  });

  it('ends a request whose form no token fits, and no other', async () => {
    const kit = await kitWith(1);
    const stuck = kit.submit('x', { grammar: schema({ type: 'string', pattern: '[^\\u0000-\\U0010ffff]' }) });
    const other = kit.submit('!!say fine!!');
    kit.run();
    expect(kit.outcome(other).text).toBe('fine');
    expect(kit.outcome(stuck).ends).toHaveLength(1);
  });

  it('refuses them where there are none', () => {
    const outcome = new EngineKit().answer('x', { grammar: regex('a') });
    expect(outcome).toMatchObject({ ends: ['error'] });
    expect(outcome.error).toContain('unsupported');
  });
});
