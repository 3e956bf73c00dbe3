import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { joinItems, parseInput, toMessages } from '../../../src/dialects/response-items.ts';
import { parseCountRequest, parseResponseRequest } from '../../../src/dialects/response-request.ts';

const tool = { type: 'function', name: 'look', parameters: { type: 'object' } };

function errorOf(run: () => unknown): { code: string; param: string | undefined } {
  try {
    run();
  } catch (error) {
    if (error instanceof ServiceError) return { code: error.code, param: error.param };
    throw error;
  }
  throw new Error('was accepted');
}

describe('parseResponseRequest', () => {
  it('reads every field that works', () => {
    const request = parseResponseRequest({
      model: 'm',
      input: 'Hi',
      instructions: 'Be brief.',
      previous_response_id: 'resp_1',
      tools: [{ ...tool, strict: false, description: null }],
      tool_choice: 'none',
      temperature: 0.5,
      top_p: 0.9,
      top_k: -1,
      stop: 'x',
      max_output_tokens: 7,
      truncation: 'auto',
      metadata: { a: 'b' },
      stream: true,
      stream_options: { include_obfuscation: false },
      store: true,
      background: true,
      user: 'u',
      prompt_cache_key: 'k',
      safety_identifier: 's',
    });
    expect(request).toMatchObject({
      model: 'm',
      instructions: 'Be brief.',
      previousResponseId: 'resp_1',
      tools: [{ name: 'look', parameters: { type: 'object' } }],
      toolChoice: { mode: 'none', given: 'none' },
      sampling: { temperature: 0.5, topP: 0.9, topK: 0, stop: ['x'], maxTokens: 7 },
      truncation: 'auto',
      metadata: { a: 'b' },
      stream: true,
      store: true,
      background: true,
      user: 'u',
      promptCacheKey: 'k',
      safetyIdentifier: 's',
    });
  });

  it('reads log-probabilities, in whatever order they are asked for', () => {
    const include = ['message.output_text.logprobs'];
    expect(parseResponseRequest({ input: 'Hi' }).logprobs).toBeUndefined();
    expect(parseResponseRequest({ input: 'Hi', include }).logprobs).toBe(0);
    expect(parseResponseRequest({ input: 'Hi', include, top_logprobs: 5 }).logprobs).toBe(5);
    expect(parseResponseRequest({ input: 'Hi', top_logprobs: 20, include }).logprobs).toBe(20);
  });

  it.each<[name: string, value: unknown]>([
    ['service_tier', 'auto'],
    ['text', { format: { type: 'text' }, verbosity: 'medium' }],
    ['reasoning', {}],
    ['reasoning', { effort: 'none', summary: null }],
    ['include', ['reasoning.encrypted_content']],
    ['top_logprobs', 0],
    ['conversation', null],
  ])('accepts %s: %j, which asks for what happens anyway', (name, value) => {
    expect(() => parseResponseRequest({ input: 'Hi', [name]: value })).not.toThrow();
  });

  it.each<[param: string, body: Record<string, unknown>]>([
    ['tools[0].type', { tools: [{ type: 'web_search' }] }],
    ['tools[0].function', { tools: [{ ...tool, function: {} }] }],
    ['text.format.type', { text: { format: { type: 'grammar' } } }],
    ['tool_choice.type', { tool_choice: { type: 'custom', name: 'x' } }],
    ['text.verbosity', { text: { verbosity: 'high' } }],
    ['reasoning.effort', { reasoning: { effort: 'high' } }],
    ['reasoning.summary', { reasoning: { summary: 'auto' } }],
    ['include[0]', { include: ['file_search_call.results'] }],
    ['stream_options.include_obfuscation', { stream: true, stream_options: { include_obfuscation: true } }],
    ['stream_options.other', { stream: true, stream_options: { other: 1 } }],
    ['conversation', { conversation: 'conv_1' }],
    ['prompt', { prompt: { id: 'p' } }],
    ['max_tool_calls', { max_tool_calls: 3 }],
    ['context_management', { context_management: [] }],
    ['service_tier', { service_tier: 'flex' }],
    ['messages', { messages: [] }],
    ['input[0].type', { input: [{ type: 'item_reference', id: 'x' }] }],
    ['input[0].content[0].type', { input: [{ role: 'user', content: [{ type: 'input_image' }] }] }],
    ['input[0].name', { input: [{ role: 'user', content: 'a', name: 'x' }] }],
    ['input[0].content[0].annotations', { input: [{ role: 'assistant', content: [annotated()] }] }],
  ])('refuses %s as unsupported', (param, body) => {
    expect(errorOf(() => parseResponseRequest({ input: 'Hi', ...body }))).toEqual({ code: 'unsupported', param });
  });

  it.each<[param: string, body: Record<string, unknown>]>([
    ['input', {}],
    ['input', { input: 5 }],
    ['input', { input: [] }],
    ['input[0]', { input: ['Hi'] }],
    ['input[0].type', { input: [{ type: 5 }] }],
    ['input[0].role', { input: [{ role: 'tool', content: 'x' }] }],
    ['input[0].content', { input: [{ role: 'user' }] }],
    ['input[0].content', { input: [{ role: 'user', content: [] }] }],
    ['input[0].content[0].type', { input: [{ role: 'user', content: [{ text: 'x' }] }] }],
    ['input[0].content[0].text', { input: [{ role: 'user', content: [{ type: 'input_text' }] }] }],
    ['input[0].call_id', { input: [{ type: 'function_call', name: 'f', arguments: '' }] }],
    ['input[0].name', { input: [{ type: 'function_call', call_id: 'c', name: 'no way', arguments: '' }] }],
    ['input[0].arguments', { input: [{ type: 'function_call', call_id: 'c', name: 'f', arguments: {} }] }],
    ['input[0].output', { input: [{ type: 'function_call_output', call_id: 'c' }] }],
    ['input[0].status', { input: [{ role: 'user', content: 'x', status: 'done' }] }],
    ['input[0].id', { input: [{ role: 'user', content: 'x', id: '' }] }],
    ['model', { input: 'Hi', model: '' }],
    ['instructions', { input: 'Hi', instructions: ['x'] }],
    ['previous_response_id', { input: 'Hi', previous_response_id: '' }],
    ['tools', { input: 'Hi', tools: {} }],
    ['tools[0].type', { input: 'Hi', tools: [{ name: 'f' }] }],
    ['tools[0].name', { input: 'Hi', tools: [{ type: 'function', name: 'no way' }] }],
    ['tools[1].name', { input: 'Hi', tools: [tool, tool] }],
    ['temperature', { input: 'Hi', temperature: 3 }],
    ['max_output_tokens', { input: 'Hi', max_output_tokens: 0 }],
    ['truncation', { input: 'Hi', truncation: 'some' }],
    ['metadata', { input: 'Hi', metadata: 'x' }],
    ['metadata.a', { input: 'Hi', metadata: { a: 1 } }],
    ['metadata.a', { input: 'Hi', metadata: { a: 'x'.repeat(513) } }],
    ['metadata', { input: 'Hi', metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [i, ''])) }],
    ['stream', { input: 'Hi', stream: 'yes' }],
    ['stream_options', { input: 'Hi', stream_options: {} }],
    ['store', { input: 'Hi', store: 1 }],
    ['store', { input: 'Hi', store: false, background: true }],
    ['background', { input: 'Hi', background: 'no' }],
    ['include', { input: 'Hi', include: 'x' }],
    ['include[0]', { input: 'Hi', include: [5] }],
    ['top_logprobs', { input: 'Hi', top_logprobs: 3 }],
    ['top_logprobs', { input: 'Hi', top_logprobs: 3, include: ['reasoning.encrypted_content'] }],
    ['top_logprobs', { input: 'Hi', top_logprobs: 21, include: ['message.output_text.logprobs'] }],
    ['top_logprobs', { input: 'Hi', top_logprobs: -1, include: ['message.output_text.logprobs'] }],
    ['top_logprobs', { input: 'Hi', top_logprobs: '3', include: ['message.output_text.logprobs'] }],
    ['text', { input: 'Hi', text: 'x' }],
    ['reasoning', { input: 'Hi', reasoning: 'x' }],
  ])('refuses a wrong %s by name', (param, body) => {
    expect(errorOf(() => parseResponseRequest(body))).toEqual({ code: 'invalid_request', param });
  });

  it('needs no input where tokens are only counted, and refuses what has no bearing on them', () => {
    expect(parseCountRequest({ instructions: 'x' }).input).toEqual([]);
    expect(errorOf(() => parseCountRequest({ input: 'x', temperature: 1 })).param).toBe('temperature');
  });
});

function annotated() {
  return { type: 'output_text', text: 'x', annotations: [{ type: 'url_citation' }] };
}

const call = (callId: string) => ({ type: 'function_call', call_id: callId, name: 'look', arguments: '{}' });
const toolCall = (id: string) => ({ id, name: 'look', arguments: '{}' });

describe('items', () => {
  it('become messages: an answer and the calls behind it are one', () => {
    const items = parseInput(
      [
        { role: 'developer', content: 'Be kind.' },
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'a' },
            { type: 'input_text', text: 'b' },
          ],
        },
        { role: 'assistant', content: [{ type: 'output_text', text: 'c', annotations: [], logprobs: [] }] },
        call('c1'),
        call('c2'),
        { type: 'function_call_output', call_id: 'c1', output: [{ type: 'input_text', text: 'one' }] },
        { type: 'function_call_output', call_id: 'c2', output: 'two' },
        call('c3'),
      ],
      'input',
    );
    expect(toMessages('Rules.', items)).toEqual([
      { role: 'system', content: 'Rules.' },
      { role: 'system', content: 'Be kind.' },
      { role: 'user', content: 'ab' },
      { role: 'assistant', content: 'c', toolCalls: [toolCall('c1'), toolCall('c2')] },
      { role: 'tool', content: 'one', toolCallId: 'c1' },
      { role: 'tool', content: 'two', toolCallId: 'c2' },
      { role: 'assistant', content: '', toolCalls: [toolCall('c3')] },
    ]);
  });

  it('keep the ids they came with, and each has one of its own', () => {
    const items = parseInput(
      [
        { id: 'mine', role: 'user', content: 'a' },
        { role: 'user', content: 'b' },
      ],
      'input',
    );
    const joined = joinItems(items, items);
    expect(joined[0]!.id).toBe('mine');
    expect(joined[1]!.id).toMatch(/^msg_/);
    expect(new Set(joined.map((item) => item.id)).size).toBe(4);
  });

  it('refuse the output of a call that nobody made', () => {
    const output = parseInput([{ type: 'function_call_output', call_id: 'c1', output: '' }], 'input');
    expect(errorOf(() => joinItems([], output))).toEqual({ code: 'invalid_request', param: 'input[0].call_id' });
    expect(() => joinItems(parseInput([call('c1')], 'input'), output)).not.toThrow();
  });

  it('have a limit for the whole conversation', () => {
    const items = parseInput(
      Array.from({ length: 4096 }, () => ({ role: 'user', content: 'x' })),
      'input',
    );
    expect(joinItems([], items).length).toBe(4096);
    expect(errorOf(() => joinItems(items, items.slice(0, 1))).code).toBe('invalid_request');
  });
});
