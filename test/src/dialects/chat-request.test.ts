import { describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { ignoredFields, parseChatRequest } from '../../../src/dialects/chat-request.ts';

const hi = [{ role: 'user', content: 'Hi' }];
const parse = (fields: Record<string, unknown>) => parseChatRequest({ messages: hi, ...fields });
const tool = { type: 'function', function: { name: 'look', description: 'Looks.', parameters: { type: 'object' } } };

describe('parseChatRequest', () => {
  it('needs nothing but messages', () => {
    expect(parse({})).toEqual({
      model: undefined,
      messages: hi,
      tools: [],
      sampling: defaultSampling,
      stream: false,
      includeUsage: false,
      n: 1,
    });
  });

  it("maps every sampling field, the peers' extras included", () => {
    const { sampling } = parse({
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.05,
      repetition_penalty: 1.1,
      presence_penalty: -1,
      frequency_penalty: 1,
      logit_bias: { 5: -100 },
      seed: 7,
      max_tokens: 10,
      stop: 'END',
      ignore_eos: true,
    });
    expect(sampling).toEqual({
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      presencePenalty: -1,
      frequencyPenalty: 1,
      logitBias: { 5: -100 },
      seed: 7,
      maxTokens: 10,
      stop: ['END'],
      ignoreEos: true,
    });
    expect(parse({ top_k: -1 }).sampling.topK).toBe(0);
    expect(parse({ max_completion_tokens: 3 }).sampling.maxTokens).toBe(3);
    expect(parse({ max_tokens: 3, max_completion_tokens: 3 }).sampling.maxTokens).toBe(3);
    expect(parse({ stop: ['a', 'b'] }).sampling.stop).toEqual(['a', 'b']);
  });

  it('maps roles, text parts, tool calls and tool results', () => {
    const { messages } = parseChatRequest({
      messages: [
        { role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'What is ' },
            { type: 'text', text: 'there?' },
          ],
          name: 'ann',
        },
        {
          role: 'assistant',
          content: null,
          refusal: null,
          annotations: [],
          tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'look', arguments: '{}' } }],
        },
        { role: 'tool', tool_call_id: 'call_1', content: 'A cat.' },
      ],
    });
    expect(messages).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'What is there?', name: 'ann' },
      { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'look', arguments: '{}' }] },
      { role: 'tool', content: 'A cat.', toolCallId: 'call_1' },
    ]);
  });

  it('honours tools and tool_choice auto and none', () => {
    const mapped = [{ name: 'look', description: 'Looks.', parameters: { type: 'object' } }];
    expect(parse({ tools: [tool] }).tools).toEqual(mapped);
    expect(parse({ tools: [tool], tool_choice: 'auto', parallel_tool_calls: true }).tools).toEqual(mapped);
    expect(parse({ tools: [tool], tool_choice: 'none' }).tools).toEqual([]);
    expect(parse({ tools: [{ ...tool, function: { name: 'a', strict: false } }] }).tools).toEqual([{ name: 'a' }]);
  });

  it('reads stream and stream_options', () => {
    expect(parse({ stream: true, stream_options: { include_usage: true } })).toMatchObject({
      stream: true,
      includeUsage: true,
    });
    expect(parse({ stream: true, stream_options: { include_obfuscation: false } }).includeUsage).toBe(false);
  });

  it('reads choices and log-probabilities', () => {
    expect(parse({ n: 8 }).n).toBe(8);
    expect(parse({ n: null, logprobs: null, top_logprobs: null })).toMatchObject({ n: 1, logprobs: undefined });
    expect(parse({ logprobs: false }).logprobs).toBeUndefined();
    expect(parse({ logprobs: true }).logprobs).toBe(0);
    expect(parse({ top_logprobs: 20, logprobs: true }).logprobs).toBe(20);
  });

  it('accepts the short list of fields without effect, values that name what happens anyway, and null', () => {
    for (const name of ignoredFields) expect(() => parse({ [name]: 'anything' })).not.toThrow();
    const same = {
      n: 1,
      store: false,
      logprobs: false,
      service_tier: 'auto',
      response_format: { type: 'text' },
      modalities: ['text'],
    };
    expect(() => parse(same)).not.toThrow();
    for (const name of ['seed', 'stop', 'tools', 'audio', 'functions', 'logit_bias', 'temperature']) {
      expect(parse({ [name]: null }).sampling).toEqual(defaultSampling);
    }
  });

  it.each<[param: string, fields: Record<string, unknown>]>([
    ['store', { store: true }],
    ['service_tier', { service_tier: 'flex' }],
    ['response_format.type', { response_format: { type: 'grammar' } }],
    ['tool_choice.type', { tool_choice: { type: 'custom', custom: { name: 'x' } } }],
    ['modalities', { modalities: ['text', 'audio'] }],
    ['functions', { functions: [] }],
    ['reasoning_effort', { reasoning_effort: 'low' }],
    ['web_search_options', { web_search_options: {} }],
    ['invented', { invented: 1 }],
    ['constructor', { constructor: 1 }],
    ['toString', { toString: 'x' }],
    ['tools[0].type', { tools: [{ type: 'custom', custom: {} }] }],
    ['stream_options.include_obfuscation', { stream: true, stream_options: { include_obfuscation: true } }],
    ['messages[0].role', { messages: [{ role: 'function', content: 'x' }] }],
    [
      'messages[0].content[1].type',
      {
        messages: [
          {
            role: 'user',
            content: [
              { type: 'text', text: 'a' },
              { type: 'image_url', image_url: {} },
            ],
          },
        ],
      },
    ],
    ['messages[0].audio', { messages: [{ role: 'assistant', content: 'x', audio: { id: 'a' } }] }],
    ['messages[0].invented', { messages: [{ role: 'user', content: 'x', invented: true }] }],
  ])('refuses %s as unsupported', (param, fields) => {
    expect(() => parse(fields)).toThrow(expect.objectContaining({ code: 'unsupported', param }));
  });

  it.each<[param: string, fields: Record<string, unknown>]>([
    ['messages', { messages: [] }],
    ['messages', { messages: 'Hi' }],
    ['messages', { messages: null }],
    ['messages', { messages: Array.from({ length: Limits.messagesPerRequest + 1 }, () => hi[0]) }],
    ['messages[0]', { messages: ['Hi'] }],
    ['messages[0].role', { messages: [{ content: 'x' }] }],
    ['messages[0].content', { messages: [{ role: 'user' }] }],
    ['messages[0].content', { messages: [{ role: 'user', content: 5 }] }],
    ['messages[0].content[0].text', { messages: [{ role: 'user', content: [{ type: 'text' }] }] }],
    ['messages[0].content', { messages: [{ role: 'assistant' }] }],
    ['messages[0].tool_call_id', { messages: [{ role: 'tool', content: 'x' }] }],
    [
      'messages[0].tool_calls[0].id',
      { messages: [{ role: 'assistant', tool_calls: [{ type: 'function', function: { name: 'a', arguments: '' } }] }] },
    ],
    [
      'messages[0].tool_calls[0].function.name',
      {
        messages: [
          { role: 'assistant', tool_calls: [{ id: 'a', type: 'function', function: { name: 'a b', arguments: '' } }] },
        ],
      },
    ],
    ['model', { model: 5 }],
    ['stream', { stream: 'yes' }],
    ['stream_options', { stream_options: { include_usage: true } }],
    ['stream_options.include_usage', { stream: true, stream_options: { include_usage: 1 } }],
    ['n', { n: 0 }],
    ['n', { n: 9 }],
    ['n', { n: 1.5 }],
    ['n', { n: '2' }],
    ['n', { n: [2] }],
    ['logprobs', { logprobs: 5 }],
    ['logprobs', { logprobs: 'true' }],
    ['top_logprobs', { top_logprobs: 3 }],
    ['top_logprobs', { top_logprobs: 0 }],
    ['top_logprobs', { logprobs: false, top_logprobs: 3 }],
    ['top_logprobs', { logprobs: true, top_logprobs: 21 }],
    ['top_logprobs', { logprobs: true, top_logprobs: -1 }],
    ['top_logprobs', { logprobs: true, top_logprobs: 2.5 }],
    ['top_logprobs', { logprobs: true, top_logprobs: '2' }],
    ['temperature', { temperature: 3 }],
    ['temperature', { temperature: '1' }],
    ['top_p', { top_p: -0.1 }],
    ['top_k', { top_k: 1.5 }],
    ['min_p', { min_p: 2 }],
    ['repetition_penalty', { repetition_penalty: 0 }],
    ['presence_penalty', { presence_penalty: 2.5 }],
    ['frequency_penalty', { frequency_penalty: -3 }],
    ['logit_bias', { logit_bias: [] }],
    ['logit_bias.x', { logit_bias: { x: 1 } }],
    ['logit_bias.1', { logit_bias: { 1: 101 } }],
    ['seed', { seed: 0.5 }],
    ['max_tokens', { max_tokens: 0 }],
    ['max_tokens', { max_tokens: 5, max_completion_tokens: 6 }],
    ['max_completion_tokens', { max_completion_tokens: -1 }],
    ['stop', { stop: Array.from({ length: Limits.stopStrings + 1 }, String) }],
    ['stop[0]', { stop: '' }],
    ['ignore_eos', { ignore_eos: 1 }],
    ['tools', { tools: {} }],
    ['tools[0].type', { tools: [{}] }],
    ['tools[0].function', { tools: [{ type: 'function' }] }],
    ['tools[0].function.name', { tools: [{ type: 'function', function: { name: 'not a name' } }] }],
    ['tools[0].function.parameters', { tools: [{ type: 'function', function: { name: 'a', parameters: [] } }] }],
    ['tools[1].function.name', { tools: [tool, tool] }],
    ['response_format', { response_format: 'text' }],
  ])('refuses a bad %s as invalid (%#)', (param, fields) => {
    expect(() => parse(fields)).toThrow(expect.objectContaining({ code: 'invalid_request', param }));
  });
});
