// The check of grammars in its own thread: what is refused, in which words, and that hostile ones cost nobody else.
import { afterEach, describe, expect, it, vi } from 'vitest';
import { GrammarChecker } from '../../../src/engine/grammar-checker.ts';
import type { GrammarSpec } from '../../../workers/messages/grammar.ts';
import { parseFakeModel } from '../../../workers/model/fake-name.ts';

const model = parseFakeModel('fake:', null)!;
/** Only computing time counts: a machine may be slow. */
const patient = { longestMs: 20_000, deadlineMs: 20_000 };
let checker: GrammarChecker;
afterEach(() => checker.close());

const schema = (value: unknown): GrammarSpec => ({
  text: { kind: 'schema', schema: JSON.stringify(value), param: 'response_format.json_schema.schema' },
  calls: [],
  mustCall: false,
  isParallel: true,
});
const regex = (pattern: string): GrammarSpec => ({
  ...schema({}),
  text: { kind: 'regex', pattern, param: 'response_format.pattern' },
});
const call = (name: string, value: unknown, isStrict: boolean) => ({
  name,
  schema: JSON.stringify(value),
  isStrict,
  param: `tools.${name}`,
});
const calls = (...forms: ReturnType<typeof call>[]): GrammarSpec => ({
  ...schema({}),
  text: null,
  calls: forms,
  mustCall: true,
});
const object = { type: 'object', properties: { a: { type: 'string' } } };
const refused = (param: string, message = '') =>
  expect.objectContaining({ code: 'unsupported', param, message: expect.stringContaining(message) });

/** Each says how long it may be. */
const optional = Object.fromEntries(
  Array.from({ length: 900 }, (_, i) => [`p${i}`, { type: 'string', maxLength: 900 }]),
);
const doubling = {
  $ref: '#/$defs/a0',
  $defs: Object.fromEntries(
    Array.from({ length: 26 }, (_, i) => [
      `a${i}`,
      i === 25 ? { type: 'null' } : { anyOf: [{ $ref: `#/$defs/a${i + 1}` }, { $ref: `#/$defs/a${i + 1}` }] },
    ]),
  ),
};
const hostile: [name: string, form: GrammarSpec][] = [
  ['many long options', schema({ type: 'object', properties: optional })],
  ['references that double', schema(doubling)],
  ['many repeated choices', regex('(a|b|ab|ba|aa|bb){500}{500}')],
];

/** Costs more with every token that it is followed for: far more than there is. */
const endless = regex(`(${'(a?b?)*(b?a?)*'.repeat(8)})*c`);

describe('The check of a grammar', () => {
  it('lets good ones pass, and knows them again', async () => {
    checker = new GrammarChecker(model, patient);
    const forms = [schema(object), regex('[a-z]+@[0-9]{2}'), calls(call('f', object, true))];
    for (const form of forms) expect(await checker.check(form, 't')).toMatchObject(form);
    expect(await checker.check(forms[0]!, 't')).toBe(await checker.check(structuredClone(forms[0]!), 't'));
  });

  it.each<[name: string, form: GrammarSpec, param: string, message: string]>([
    ['a keyword', schema({ type: 'string', not: {} }), 'response_format.json_schema.schema', '/not is not supported'],
    ['an open bracket', regex('(a'), 'response_format.pattern', 'cannot be held to'],
    ['look-ahead', regex('(?=a)b'), 'response_format.pattern', 'Lookahead'],
    [
      'a range from high to low',
      schema({ type: 'integer', minimum: 5, maximum: 1 }),
      'response_format.json_schema.schema',
      'minimum',
    ],
    ['a pattern in a schema', schema({ type: 'string', pattern: '[' }), 'response_format.json_schema.schema', ''],
    ['a strict function', calls(call('f', object, true), call('g', { type: 'string' }, true)), 'tools.g', 'object'],
  ])('says what is wrong: %s', async (_name, form, param, message) => {
    checker = new GrammarChecker(model, patient);
    await expect(checker.check(form, 't')).rejects.toEqual(refused(param, message));
    // The thread is good for the next.
    expect(await checker.check(schema(object), 't')).toMatchObject(schema(object));
  });

  it('lets functions that are not strict have any object', async () => {
    checker = new GrammarChecker(model, patient);
    const [good, odd] = [call('f', object, false), call('g', { type: 'object', not: {} }, false)];
    const slow = call('h', { type: 'object', properties: optional }, false);
    expect(await checker.check(calls(good, odd), 't')).toMatchObject(calls(good, { ...odd, schema: null } as never));
    const relaxed = (form: typeof good) => ({ ...form, schema: null }) as never;
    expect(await checker.check(calls(good, slow), 't')).toMatchObject(calls(good, relaxed(slow)));
  });

  it.each(hostile)('refuses what is too large, and goes on: %s', async (_name, form) => {
    checker = new GrammarChecker(model, patient);
    await checker.check(schema(object), 't');
    const outcome = checker.check(form, 't').then(
      () => 'passed',
      (error: unknown) => error,
    );
    const next = checker.check(regex('later'), 't').catch((error: unknown) => error);
    expect(await outcome).toEqual(refused(form.text!.param));
    expect(await next).toMatchObject(regex('later'));
  });

  it('answers by the clock who sent what had to be ended, and knows the outcome when asked again', async () => {
    checker = new GrammarChecker(model, { limitMs: 200, longestMs: 60_000, deadlineMs: 20 });
    const tooMuch = refused(endless.text!.param);
    await expect(checker.check(endless, 't')).rejects.toEqual(tooMuch);
    const again = regex(`x${(endless.text as { pattern: string }).pattern}`);
    await expect(checker.check(again, 't')).rejects.toMatchObject({ code: 'overloaded', retryAfterMs: 1000 });
    // Another tenant waits for as long as it takes.
    expect(await checker.check(regex('later'), 'other')).toMatchObject(regex('later'));
    const outcome = (): Promise<unknown> => checker.check(again, 't').catch((error: unknown) => error);
    await vi.waitFor(async () => expect(await outcome()).toEqual(tooMuch), { timeout: 90_000, interval: 100 });
  });

  it('refuses more than may wait, and all when it is closed', async () => {
    checker = new GrammarChecker(model, patient);
    const checks = Array.from({ length: 80 }, (_, i) =>
      checker.check(regex(`x{${i + 1}}`), `tenant ${i % 8}`).catch((error: unknown) => error),
    );
    expect(await checks[79]).toMatchObject({ code: 'overloaded', retryAfterMs: 1000 });
    checker.close();
    expect(await checks[0]).toMatchObject({ code: 'shutting_down' });
    await expect(checker.check(schema(object), 't')).rejects.toMatchObject({ code: 'shutting_down' });
  });
});
