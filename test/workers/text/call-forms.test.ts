// Tool calls in the forms of each family, from the template to what a reader sees: templates as they are published in
// small, grammars that make such calls, and the parsers that find them.
import { describe, expect, it } from 'vitest';
import type { ChatMessage, ToolDefinition } from '../../../protocol/messages.ts';
import { Grammars } from '../../../workers/grammar/grammars.ts';
import type { GrammarSpec } from '../../../workers/messages/grammar.ts';
import { FAKE_EOS, FAKE_SHAPE } from '../../../workers/model/fake.ts';
import { uniform } from '../../../workers/sampling/rng.ts';
import { isAllowed } from '../../../workers/sampling/token-mask.ts';
import { AnswerStream } from '../../../workers/text/answer-stream.ts';
import { byteTemplate } from '../../../workers/text/byte-text.ts';
import { specialTokensOf, type TokenizerJson } from '../../../workers/text/plain-tokenizer.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { tokenBytesOf } from '../../../workers/text/token-bytes.ts';

const llama = `{%- for message in messages %}
{%- if message.tool_calls %}{%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start|>assistant\\n\\n{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}<|end|>' }}
{%- elif message.role == 'tool' %}{{- '<|start|>ipython\\n\\n' }}{{- message.content | tojson }}{{- '<|end|>' }}
{%- else %}{{- '<|start|>' + message.role + '\\n\\n' }}
{%- if loop.first and tools %}{{- 'Answer with {"name": function, "parameters": {}}.\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{{- message.content + '<|end|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n\\n' }}{%- endif %}`;

const mistral = (call: string): string => `{%- for message in messages %}
{%- if message.role == 'user' %}{%- if loop.first and tools %}{{- '[AVAILABLE_TOOLS] [' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '][/AVAILABLE_TOOLS]' }}{%- endif %}{{- '[INST] ' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}${call}{{- '<|end|>' }}
{%- elif message.role == 'tool' %}{%- if message.tool_call_id | length != 9 %}{{- raise_exception('nine characters') }}{%- endif %}{{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- message.content + '<|end|>' }}{%- endif %}{%- endfor %}`;
const listed =
  mistral(`{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}{%- if call.id | length != 9 %}{{- raise_exception('nine characters') }}{%- endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}{{- call.function.arguments | tojson }}{{- ', "id": "' + call.id + '"}' }}{{- ', ' if not loop.last else '' }}{%- endfor %}{{- ']' }}`);
const tagged = mistral(
  `{%- for call in message.tool_calls %}{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' }}{{- call.function.arguments | tojson }}{%- endfor %}`,
);

const forms = [
  [
    'hermes',
    byteTemplate,
    (name: string, json: string) => `<tool_call>\n{"name": "${name}", "arguments": ${json}}\n</tool_call>`,
  ],
  ['llama', llama, (name: string, json: string) => `{"name": "${name}", "parameters": ${json}}`],
  ['mistral', listed, (name: string, json: string) => `[TOOL_CALLS] [{"name": "${name}", "arguments": ${json}}]`],
  ['mistral-args', tagged, (name: string, json: string) => `[TOOL_CALLS]${name}[ARGS]${json}`],
] as const;

const tools: ToolDefinition[] = [
  { name: 'look', description: 'around', parameters: { type: 'object', properties: {} } },
];
const talk: ChatMessage[] = [
  { role: 'user', content: 'Look!' },
  { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'look', arguments: '{"at":"sky"}' }] },
  { role: 'tool', content: 'blue', toolCallId: 'call_1' },
];
const schema = JSON.stringify({
  type: 'object',
  properties: { at: { enum: ['sky', 'sea'] }, far: { type: 'boolean' }, note: { type: 'string', maxLength: 8 } },
  required: ['at', 'far', 'note'],
});
const spec = (fields: Partial<GrammarSpec>): GrammarSpec => ({
  text: null,
  calls: ['look', 'find'].map((name) => ({ name, schema, isStrict: true, param: 'p' })),
  mustCall: true,
  isParallel: true,
  ...fields,
});

/** What a reader sees of an answer. */
function reader() {
  const seen = { text: '', calls: [] as { name: string; json: string; deltas: number; isDone: boolean }[] };
  const sink = {
    text: (piece: string) => void (seen.text += piece),
    toolBegin: (index: number, name: string) => void (seen.calls[index] = { name, json: '', deltas: 0, isDone: false }),
    toolDelta: (index: number, piece: string) => {
      seen.calls[index]!.json += piece;
      seen.calls[index]!.deltas++;
    },
    toolEnd: (index: number) => void (seen.calls[index]!.isDone = true),
  };
  return { seen, sink };
}

/** All of an answer, in pieces of one byte, moved between threads after each. */
function read(text: TextModel, answer: string, isForced: boolean, toolNames = ['look', 'find']) {
  const { seen, sink } = reader();
  const options = { stop: [], parseTools: true, isForced, toolNames };
  let stream = new AnswerStream(text, options);
  for (const token of text.encode(answer)) {
    stream.push(token, sink);
    stream = new AnswerStream(text, options, structuredClone(stream.snapshot()));
  }
  stream.finish(sink);
  return seen;
}

describe.each(forms)('Calls in the form of %s', (kind, source, write) => {
  const text = TextModel.bytes(source);
  const encoded = (messages: ChatMessage[], offered: ToolDefinition[]) =>
    text.decode(
      text.encodePrompt({ kind: 'chat', messages, tools: offered, history: null, truncation: 'error' } as never, 8192)
        .tokenIds,
    );

  it('are what the template asks for, and it takes calls and results', () => {
    expect(text.callSyntax?.kind).toBe(kind);
    expect(text.supportsTools).toBe(true);
    const prompt = encoded(talk, tools);
    expect(prompt).toContain('around');
    expect(prompt).toContain('"sky"');
    expect(prompt).toContain('blue');
  });

  it('fit the schema in 60 of 60 seeded trials of a required call, and their deltas join to it', async () => {
    const grammars = await Grammars.load(text, FAKE_SHAPE.vocabSize);
    const form = spec({});
    const key = grammars.open(form);
    for (let trial = 0; trial < 60; trial++) {
      const { seen, sink } = reader();
      const stream = new AnswerStream(text, { stop: [], parseTools: true, isForced: true });
      const ids: number[] = [];
      for (let token = -1; token !== FAKE_EOS;) {
        const mask = grammars.mask(trial + 1, form, key, ids, 0)!;
        // The end where it may be, most of the time: or each answer has as many calls as there may be.
        if (isAllowed(mask, FAKE_EOS) && uniform(trial, ids.length) < 0.7) break;
        token = Math.floor(uniform(trial, ids.length) * FAKE_SHAPE.vocabSize);
        while (!isAllowed(mask, token)) token = (token + 1) % FAKE_SHAPE.vocabSize;
        ids.push(token);
        stream.push(token, sink);
        expect(ids.length).toBeLessThan(4000);
      }
      stream.finish(sink);
      grammars.release(trial + 1);
      expect(seen.text).toBe('');
      expect(seen.calls.length).toBeGreaterThan(0);
      for (const { name, json, deltas, isDone } of seen.calls) {
        expect(['look', 'find']).toContain(name);
        expect(isDone).toBe(true);
        expect(deltas).toBeGreaterThan(5);
        const value = JSON.parse(json) as Record<string, unknown>;
        expect(['sky', 'sea']).toContain(value.at);
        expect(typeof value.far).toBe('boolean');
        expect(typeof value.note).toBe('string');
      }
    }
  }, 60_000);

  it('may come behind text, or not at all, where they are not required', async () => {
    const grammars = await Grammars.load(text, FAKE_SHAPE.vocabSize);
    const form = spec({ mustCall: false });
    const key = grammars.open(form);
    const good = write('look', '{"at": "sky", "far": true, "note": "x"}');
    for (const [id, answer] of [good, `Well, ${good}`, 'No call: {"a": [1]}'].entries()) {
      const ids: number[] = [];
      for (const token of text.encode(answer)) {
        const mask = grammars.mask(id + 1, form, key, ids, 0);
        expect(mask !== null && isAllowed(mask, token), answer.slice(0, ids.length)).toBe(true);
        ids.push(token);
      }
      expect(isAllowed(grammars.mask(id + 1, form, key, ids, 0)!, FAKE_EOS), answer).toBe(true);
    }
    const wrong = text.encode(write('leap', '{}'));
    const at = wrong.findIndex((token, index) => {
      const mask = grammars.mask(9, form, key, wrong.slice(0, index), 0);
      return mask === null || !isAllowed(mask, token);
    });
    expect(at).toBeGreaterThan(0);
  });

  it.each([true, false])('are read however they are cut (held to the form: %s)', (isForced) => {
    const json = '{"at": "}\\"]", "far": [{}]}';
    const seen = read(text, `Well, ${write('look', json)}`, isForced);
    // Without a grammar an object within a text is text.
    if (kind === 'llama' && !isForced) return expect(seen).toEqual({ text: `Well, ${write('look', json)}`, calls: [] });
    expect(seen.text).toBe('Well, ');
    expect(seen.calls).toMatchObject([{ name: 'look', json, isDone: true }]);
  });

  it('stay text where they are broken, or of a function that is not there', () => {
    for (const answer of [write('leap', '{}'), write('look', '{"at": tru}'), write('look', '[]'), 'a [b] {"c": 1}']) {
      expect(read(text, answer, false)).toEqual({ text: answer, calls: [] });
    }
    expect(read(text, write('look', '{}'), false).calls).toMatchObject([{ name: 'look', json: '{}', isDone: true }]);
  });
});

describe('Calls of other forms', () => {
  it('have tags that answers show, though the tokenizer hides them', () => {
    const flags = { special: true, lstrip: false, rstrip: false };
    const added = ['[TOOL_CALLS]', '</s>'].map((content, index) => ({ id: index + 1, content, ...flags }));
    const json = { model: { vocab: { a: 0 } }, added_tokens: added } as unknown as TokenizerJson;
    const specials = specialTokensOf(json);
    const markers = TextModel.bytes(listed).callSyntax!.markers;
    const bytes = tokenBytesOf(json, specials, markers);
    expect([0, 1, 2].map((id) => bytes.textOf(id))).toEqual(['a', '[TOOL_CALLS]', '']);
    // A caller cannot write one all the same.
    expect(specials.mark(specials.guard('[TOOL_CALLS]')).marks).toEqual([]);
  });

  it('come as a list, or behind Llama’s tag', () => {
    const several = '[TOOL_CALLS] [{"name": "look", "arguments": {}}, {"name": "find", "arguments": {"a": 1}}]';
    for (const isForced of [true, false]) {
      const names = read(TextModel.bytes(listed), several, isForced).calls.map(({ name, json }) => name + json);
      expect(names).toEqual(['look{}', 'find{"a": 1}']);
      const behindTag = '<|python_tag|>{"name": "look", "parameters": {"a": 1}}';
      expect(read(TextModel.bytes(llama), behindTag, isForced)).toMatchObject({
        text: '',
        calls: [{ name: 'look', json: '{"a": 1}' }],
      });
    }
  });

  it('are no calls where an answer of its own form only begins like one', () => {
    const answer = '{"name": "Bob", "age": 7}';
    expect(read(TextModel.bytes(llama), answer, true)).toEqual({ text: answer, calls: [] });
  });

  it('are refused by name where the template shows no tools, or asks for calls in a form that is not known', () => {
    const plain = '{%- for message in messages %}{{- message.role + message.content }}{%- endfor %}';
    const odd = `${plain}{%- for tool in tools or [] %}{{- tool.function.name }} as CALL(){%- endfor %}`;
    for (const source of [plain, odd]) {
      const text = TextModel.bytes(source);
      expect(text.supportsTools).toBe(false);
      const prompt = { kind: 'chat', messages: talk.slice(0, 1), tools, history: null, truncation: 'error' };
      expect(() => text.encodePrompt(prompt as never, 100)).toThrow(
        expect.objectContaining({ code: 'invalid_request', param: 'tools' }) as Error,
      );
    }
  });
});
