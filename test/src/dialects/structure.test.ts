import { describe, expect, it } from 'vitest';
import { parseChatRequest } from '../../../src/dialects/chat-request.ts';
import { parseResponseRequest } from '../../../src/dialects/response-request.ts';
import { grammarOf } from '../../../src/dialects/structure.ts';

const parameters = { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] };
const schema = JSON.stringify(parameters);
const chatTool = (name: string, strict?: boolean) => ({ type: 'function', function: { name, parameters, strict } });
const tool = (name: string, strict?: boolean) => ({ type: 'function', name, parameters, strict });

const chat = (fields: Record<string, unknown>) =>
  parseChatRequest({ messages: [{ role: 'user', content: 'Hi' }], ...fields }).grammar;

function responses(fields: Record<string, unknown>) {
  const { text, tools, strict, toolChoice: choice, isParallel } = parseResponseRequest({ input: 'Hi', ...fields });
  return grammarOf({ text, tools, strict, choice, isParallel }, 'responses');
}

describe('The form of an answer', () => {
  it('is free without tools and formats, and with tools that may not be called', () => {
    expect(chat({})).toBeUndefined();
    expect(chat({ response_format: { type: 'text' } })).toBeUndefined();
    expect(chat({ tools: [chatTool('a', true)], tool_choice: 'none' })).toBeUndefined();
    expect(responses({ text: { format: { type: 'text' } } })).toBeUndefined();
  });

  it('holds functions to their schema, strict or not, whether they must be called or may be', () => {
    const tools = [chatTool('a', true), chatTool('b')];
    const [a, b] = ['tools[0].function.parameters', 'tools[1].function.parameters'] as const;
    expect(chat({ tools })).toEqual({
      text: null,
      calls: [
        { name: 'a', schema, isStrict: true, param: a },
        { name: 'b', schema, isStrict: false, param: b },
      ],
      mustCall: false,
      isParallel: true,
    });
    expect(chat({ tools, tool_choice: 'required', parallel_tool_calls: false })).toEqual({
      text: null,
      calls: [
        { name: 'a', schema, isStrict: true, param: a },
        { name: 'b', schema, isStrict: false, param: b },
      ],
      mustCall: true,
      isParallel: false,
    });
  });

  it('offers only the functions that the choice names', () => {
    const names = (spec: ReturnType<typeof chat>) => spec?.calls.map(({ name }) => name);
    const tools = [chatTool('a'), chatTool('b'), chatTool('c')];
    const one = chat({ tools, tool_choice: { type: 'function', function: { name: 'b' } } });
    expect([names(one), one?.mustCall]).toEqual([['b'], true]);
    const some = { type: 'function', function: { name: 'c' } };
    const allowed = chat({
      tools,
      tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [some] } },
    });
    expect([names(allowed), allowed?.mustCall]).toEqual([['c'], false]);
    const flat = [tool('a'), tool('b')];
    expect(names(responses({ tools: flat, tool_choice: { type: 'function', name: 'b' } }))).toEqual(['b']);
    const tools2 = [{ type: 'function', name: 'a' }];
    const flatAllowed = { type: 'allowed_tools', mode: 'required', tools: tools2 };
    expect(names(responses({ tools: flat, tool_choice: flatAllowed }))).toEqual(['a']);
  });

  it('reads JSON objects, schemas and patterns, in both spellings', () => {
    const format = { type: 'json_schema', json_schema: { name: 's', schema: parameters, strict: true } };
    expect(chat({ response_format: format })?.text).toEqual({
      kind: 'schema',
      schema,
      param: 'response_format.json_schema.schema',
    });
    const flat = { type: 'json_schema', name: 's', schema: parameters };
    expect(responses({ text: { format: flat } })?.text).toEqual({
      kind: 'schema',
      schema,
      param: 'text.format.schema',
    });
    expect(chat({ response_format: { type: 'json_object' } })?.text).toMatchObject({ schema: '{"type":"object"}' });
    expect(chat({ response_format: { type: 'regex', pattern: 'a+' } })?.text).toEqual({
      kind: 'regex',
      pattern: 'a+',
      param: 'response_format.pattern',
    });
  });

  it('leaves the text out where a call is required, and keeps both where either may come', () => {
    const fields = { tools: [chatTool('a')], response_format: { type: 'json_object' } };
    expect(chat({ ...fields, tool_choice: 'required' })?.text).toBeNull();
    expect(chat(fields)).toMatchObject({ text: { kind: 'schema' }, calls: [{ name: 'a' }], mustCall: false });
  });

  const large = { type: 'object', description: 'x'.repeat(70_000) };

  it('does not look at schemas of any size, and asks less of functions that are not strict', () => {
    const big = { type: 'function', function: { name: 'a', parameters: large } };
    expect(chat({ tools: [big], tool_choice: 'required' })?.calls[0]?.schema).toBeNull();
  });

  it.each<[param: string, fields: Record<string, unknown>]>([
    ['tool_choice', { tool_choice: 'any' }],
    ['tool_choice', { tool_choice: 7 }],
    ['tool_choice', { tool_choice: 'required' }],
    ['tool_choice', { tools: [chatTool('a')], tool_choice: { type: 'function', function: { name: 'b' } } }],
    ['tool_choice.type', { tool_choice: {} }],
    ['tool_choice.function', { tool_choice: { type: 'function' } }],
    ['tool_choice.function.name', { tool_choice: { type: 'function', function: { name: 'a b' } } }],
    ['tool_choice.allowed_tools', { tool_choice: { type: 'allowed_tools' } }],
    ['tool_choice.allowed_tools.tools', { tool_choice: { type: 'allowed_tools', allowed_tools: { tools: [] } } }],
    ['parallel_tool_calls', { parallel_tool_calls: 'yes' }],
    ['tools[0].function.strict', { tools: [{ type: 'function', function: { name: 'a', strict: 1 } }] }],
    ['response_format.type', { response_format: {} }],
    ['response_format.json_schema', { response_format: { type: 'json_schema' } }],
    ['response_format.json_schema.name', { response_format: { type: 'json_schema', json_schema: { schema: {} } } }],
    [
      'response_format.json_schema.schema',
      { response_format: { type: 'json_schema', json_schema: { name: 's', schema: [] } } },
    ],
    [
      'response_format.json_schema.strict',
      { response_format: { type: 'json_schema', json_schema: { name: 's', strict: 'yes' } } },
    ],
    ['response_format.pattern', { response_format: { type: 'regex' } }],
  ])('refuses a bad %s (%#)', (param, fields) => {
    expect(() => chat(fields)).toThrow(expect.objectContaining({ code: 'invalid_request', param }));
  });

  it.each<[param: string, fields: Record<string, unknown>]>([
    ['response_format.type', { response_format: { type: 'lark' } }],
    ['response_format.schema', { response_format: { type: 'json_object', schema: {} } }],
    [
      'response_format.json_schema.schema',
      { response_format: { type: 'json_schema', json_schema: { name: 's', schema: large } } },
    ],
    [
      'tools[0].function.parameters',
      { tools: [{ type: 'function', function: { name: 'a', strict: true, parameters: large } }] },
    ],
    ['tool_choice.mode', { tool_choice: { type: 'function', function: { name: 'a' }, mode: 'x' } }],
  ])('refuses what it cannot do by its name: %s (%#)', (param, fields) => {
    expect(() => chat(fields)).toThrow(expect.objectContaining({ code: 'unsupported', param }));
  });
});
