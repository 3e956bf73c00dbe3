// Answers of a given form through the official client, on real engine threads over the fake model, which would rather say
// something else.
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startModelApp, type ModelApp } from '../support/model-app.ts';

let test: ModelApp;
let client: OpenAI;

beforeAll(async () => {
  test = await startModelApp(['--model', 'fake:']);
  client = test.client;
});
afterAll(() => test.stop());

const schema = {
  type: 'object',
  properties: { at: { enum: ['sky', 'sea'] }, deep: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['at', 'deep'],
  additionalProperties: false,
};
const tool = (name: string, parameters: Record<string, unknown> = schema) => ({
  type: 'function' as const,
  function: { name, parameters, strict: true },
});
const ask = (fields: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming>, content = 'Hi') =>
  client.chat.completions.create({
    model: 'default',
    messages: [{ role: 'user', content }],
    max_tokens: 300,
    temperature: 0,
    ...fields,
  });

const call = (deep: number) =>
  `<tool_call>\n{"name": "look", "arguments": {"at": "sky", "deep": ${deep}}}\n</tool_call>`;

describe('The form of an answer, through the official client', () => {
  it('is JSON that fits the schema, for every choice', async () => {
    const format = { type: 'json_schema' as const, json_schema: { name: 's', strict: true, schema } };
    const { choices } = await ask({ response_format: format, n: 3, temperature: 1 });
    for (const { message, finish_reason: reason } of choices) {
      expect(message.content).toMatch(/^\{"at": "(sky|sea)", "deep": [1-9]\}$/);
      expect(reason).toBe('stop');
    }
  });

  it('is a call of a function that was named, streamed in pieces that join', async () => {
    const stream = await client.chat.completions.create({
      model: 'default',
      messages: [{ role: 'user', content: 'Hi' }],
      tools: [tool('look'), tool('dive')],
      tool_choice: { type: 'function', function: { name: 'dive' } },
      parallel_tool_calls: false,
      stream: true,
    });
    const pieces: string[] = [];
    let name = '';
    for await (const { choices } of stream) {
      expect(choices[0]!.delta.content ?? '').toBe('');
      name += choices[0]!.delta.tool_calls?.[0]?.function?.name ?? '';
      pieces.push(choices[0]!.delta.tool_calls?.[0]?.function?.arguments ?? '');
    }
    expect(name).toBe('dive');
    expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(5);
    expect(pieces.join('')).toMatch(/^\{"at": "(sky|sea)", "deep": [1-9]\}$/);
  });

  it('is text until a call begins, and several calls where they may come', async () => {
    const said = `!!say So ${call(3)}\n${call(4)}!!`;
    const { choices } = await ask({ tools: [tool('look')] }, said);
    expect(choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: 'So ' } });
    const args = (choices[0]!.message.tool_calls ?? []).map(
      (made) => made.type === 'function' && made.function.arguments,
    );
    expect(args).toEqual(['{"at": "sky", "deep": 3}', '{"at": "sky", "deep": 4}']);
    const one = await ask({ tools: [tool('look')], parallel_tool_calls: false }, said);
    expect(one.choices[0]!.message.tool_calls).toHaveLength(1);
  });

  it('ends with length within a call, which stands there with the beginning of its arguments', async () => {
    const { choices } = await ask({ tools: [tool('look')], tool_choice: 'required', max_tokens: 50 });
    expect(choices[0]!.finish_reason).toBe('length');
    const made = choices[0]!.message.tool_calls![0]!;
    expect(made.type === 'function' && made.function.arguments).toMatch(/^\{"at"?/);
  });

  it('works in the Responses API, which gives back what was asked for', async () => {
    const format = { type: 'json_schema' as const, name: 's', strict: true, schema };
    const answer = await client.responses.create({ model: 'default', input: 'Hi', text: { format } });
    expect(answer.output_text).toMatch(/^\{"at": "(sky|sea)", "deep": [1-9]\}$/);
    expect(answer.text?.format).toEqual(format);
    const flat = { type: 'function' as const, name: 'look', parameters: schema, strict: true };
    const called = await client.responses.create({
      model: 'default',
      input: 'Hi',
      tools: [flat],
      tool_choice: 'required',
      parallel_tool_calls: false,
    });
    expect(called).toMatchObject({ tool_choice: 'required', parallel_tool_calls: false });
    expect(called.tools[0]).toMatchObject({ strict: true });
    expect(called.output.map(({ type }) => type)).toEqual(['function_call']);
  });

  it('is refused with the field where it cannot be held to, and others are answered', async () => {
    const bad = { type: 'object', properties: { a: { type: 'string', not: {} } } };
    const format = { type: 'json_schema' as const, json_schema: { name: 's', schema: bad } };
    await expect(ask({ response_format: format })).rejects.toMatchObject({
      status: 400,
      code: 'unsupported',
      param: 'response_format.json_schema.schema',
    });
    await expect(ask({ tools: [tool('look', bad)] })).rejects.toMatchObject({
      status: 400,
      param: 'tools[0].function.parameters',
    });
    const other = await ask({}, '!!say fine!!');
    expect(other.choices[0]!.message.content).toBe('fine');
  });
});
