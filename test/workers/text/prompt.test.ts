import { describe, expect, it } from 'vitest';
import type { ChatMessage, ToolDefinition } from '../../../protocol/messages.ts';
import { AnswerStream, type AnswerSink } from '../../../workers/text/answer-stream.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { chat, defaultTextDir, loadFiles, seeded, sentencepieceFiles } from './support.ts';
import { cpuMs } from '../../support/cpu-time.ts';

const model = TextModel.load(defaultTextDir);
const bytes = TextModel.bytes();
const MANY = 1_000_000;

const ids = (messages: ChatMessage[], options: Parameters<typeof chat>[1] = {}, text = model): number[] =>
  text.encodePrompt(chat(messages, options), MANY).tokenIds;

/** The prompt as text, special tokens spelled out. */
function spell(tokenIds: readonly number[], text = model): string {
  let spelled = '';
  let run: number[] = [];
  for (const id of tokenIds) {
    const special = text.specialTokens.find((token) => token.id === id);
    if (special === undefined) run.push(id);
    else {
      spelled += text.decode(run) + special.content;
      run = [];
    }
  }
  return spelled + text.decode(run);
}

/** A conversation that carries one text in every place a caller can write to. */
function carrying(text: string): { messages: ChatMessage[]; tools: ToolDefinition[] } {
  return {
    messages: [
      { role: 'system', content: `system ${text}` },
      { role: 'user', content: text, name: text },
      {
        role: 'assistant',
        content: `${text} ${text}`,
        toolCalls: [
          { id: text, name: `call${text}`, arguments: JSON.stringify({ [`key${text}`]: [text, { deep: text }] }) },
          { id: 'two', name: 'two', arguments: `not JSON ${text}` },
        ],
      },
      { role: 'tool', content: text, toolCallId: text, name: text },
      { role: 'user', content: `last ${text}` },
    ],
    tools: [
      {
        name: `tool${text}`,
        description: `about ${text}`,
        parameters: { type: 'object', properties: { [`p${text}`]: { description: text, enum: [text, 1, null] } } },
      },
    ],
  };
}

const models: [string, TextModel][] = [
  ['default model', model],
  ['byte model', bytes],
];

/** Answer ids as a model may sample them: not the ids encoding would give. */
function letterwise(text: string): number[] {
  return [...text].flatMap((letter) => model.encode(letter));
}

function weatherCall(city: string): string {
  return `<tool_call>\n{"name": "weather", "arguments": {"city": "${city}"}}\n</tool_call>`;
}

/** n turns of a question and an answer. */
function turns(n: number, numWords = 5): ChatMessage[] {
  return Array.from({ length: n }, (_, i): ChatMessage[] => [
    { role: 'user', content: `question ${i} ${'word '.repeat(numWords)}` },
    { role: 'assistant', content: `answer ${i}` },
  ]).flat();
}

describe.each(models)('caller text never yields special ids: %s', (_, text) => {
  const promptOf = (word: string): number[] => {
    const { messages, tools } = carrying(word);
    return ids(messages, { tools }, text);
  };
  const specialsOf = (tokenIds: readonly number[]): number[] => tokenIds.filter((id) => text.isSpecial(id));
  const harmless = specialsOf(promptOf('word'));

  it.each(text.specialTokens.map((token) => token.content))('%s in every field', (content) => {
    for (const word of [content, `${content}x`, `a ${content}\n${content}`, content + content]) {
      const tokenIds = promptOf(word);
      expect(specialsOf(tokenIds)).toEqual(harmless);
      // The text arrives unchanged: the same prompt with a harmless word, the word replaced. JSON escapes line breaks.
      const expected = spell(promptOf('WORD'), text).replaceAll('WORD', content);
      if (word === content) expect(spell(tokenIds, text)).toBe(expected);
    }
  });

  it('cut across neighbouring messages and fields', () => {
    for (const { content } of text.specialTokens) {
      for (let cut = 1; cut < content.length; cut++) {
        const left = content.slice(0, cut);
        const right = content.slice(cut);
        const split = ids(
          [
            { role: 'system', content: left },
            { role: 'user', content: right },
            { role: 'assistant', content: left, toolCalls: [{ id: '1', name: right, arguments: left }] },
            { role: 'tool', content: right, toolCallId: '1' },
            { role: 'user', content: right + left },
          ],
          { tools: [{ name: left, description: right }] },
          text,
        );
        const plain = ids(
          [
            { role: 'system', content: 'a' },
            { role: 'user', content: 'b' },
            { role: 'assistant', content: 'a', toolCalls: [{ id: '1', name: 'b', arguments: 'a' }] },
            { role: 'tool', content: 'b', toolCallId: '1' },
            { role: 'user', content: 'ba' },
          ],
          { tools: [{ name: 'a', description: 'b' }] },
          text,
        );
        expect(specialsOf(split)).toEqual(specialsOf(plain));
      }
    }
  });

  it('and encode() has none either', () => {
    for (const { content } of text.specialTokens) {
      const tokenIds = text.encode(`x${content}`);
      expect(specialsOf(tokenIds)).toEqual([]);
      expect(text.decode(tokenIds)).toBe(`x${content}`);
    }
  });
});

describe('the rendered prompt', () => {
  it('is the template’s text, ending where the answer begins', () => {
    expect(spell(ids([{ role: 'user', content: 'What is the capital of France?' }]))).toBe(
      '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' +
        '<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('shows tools in OpenAI’s form and calls with their arguments as an object', () => {
    const { messages, tools } = carrying('x');
    const spelled = spell(ids(messages, { tools }));
    expect(spelled).toContain('{"type": "function", "function": {"name": "toolx", "description": "about x"');
    expect(spelled).toContain(
      '<tool_call>\n{"name": "callx", "arguments": {"keyx": ["x", {"deep": "x"}]}}\n</tool_call>',
    );
    expect(spelled).toContain('"arguments": not JSON x}');
    expect(spelled).toContain('<tool_response>\nx\n</tool_response>');
  });

  it('keeps every character of a caller’s text but the two guard characters', () => {
    const content = ' \t\r\n你好😀 \u0000\u200B\uFEFF\uFFFD {{ 1 + 1 }} {% raw %} \uFDD0x\uFDD1 ';
    expect(spell(ids([{ role: 'user', content }]))).toContain(
      `user\n${content.replace(/[\uFDD0\uFDD1]/g, '')}<|im_end|>`,
    );
  });
});

describe('session history', () => {
  const answers = ['Paris.', '你好，世界 😀', 'a  b\n\nc', 'The end', 'fin'];

  it.each([
    ['with', [2]],
    ['without', []],
  ])('is continued over five turns %s the end token in it', (_, end) => {
    const messages: ChatMessage[] = [{ role: 'system', content: 'Be brief. <|im_end|>' }];
    let history: number[] | null = null;
    for (const [turn, answer] of answers.entries()) {
      messages.push({ role: 'user', content: `question ${turn} <|im_start|>` });
      const prompt = ids(messages, { history });
      const full = ids(messages);
      expect(spell(prompt)).toBe(spell(full));
      if (history !== null) {
        expect(prompt.slice(0, history.length)).toEqual(history);
        // What follows is the template's text since the answer, freshly encoded.
        expect(prompt.slice(-5)).toEqual(full.slice(-5));
        expect(prompt).not.toEqual(full);
      }
      history = [...prompt, ...letterwise(answer), ...end];
      messages.push({ role: 'assistant', content: answer });
    }
  });

  it('is continued after tool calls, as the parser reports them', () => {
    const tools: ToolDefinition[] = [{ name: 'weather', parameters: { type: 'object' } }];
    const messages: ChatMessage[] = [{ role: 'user', content: 'Weather in Bern and Basel?' }];
    const prompt = ids(messages, { tools });
    const history = [...prompt, ...letterwise(`Let me see.\n${weatherCall('Bern')}\n${weatherCall('Basel')}`), 2];
    const calls: { name: string; arguments: string }[] = [];
    let content = '';
    const stream = new AnswerStream(model, { stop: [], parseTools: true });
    const sink: AnswerSink = {
      text: (text) => (content += text),
      toolBegin: (_, name) => calls.push({ name, arguments: '' }),
      toolDelta: (index, text) => {
        const known = calls[index];
        if (known !== undefined) known.arguments += text;
      },
      toolEnd: () => {},
    };
    for (const id of history.slice(prompt.length)) stream.push(id, sink);
    stream.finish(sink);
    messages.push({ role: 'assistant', content, toolCalls: calls.map((one, i) => ({ id: `${i}`, ...one })) });
    messages.push(
      { role: 'tool', content: 'sunny', toolCallId: '0' },
      { role: 'tool', content: 'rain', toolCallId: '1' },
    );
    const next = ids(messages, { tools, history });
    expect(next.slice(0, history.length)).toEqual(history);
    expect(spell(next)).toBe(spell(ids(messages, { tools })));
  });

  it('is continued after an answer that ended in the middle of a character', () => {
    const messages: ChatMessage[] = [{ role: 'user', content: 'smile' }];
    const prompt = ids(messages);
    const half = letterwise('😀').slice(0, 1);
    expect(model.decode(half)).toBe('\uFFFD');
    const history = [...prompt, ...letterwise('ok'), ...half];
    messages.push({ role: 'assistant', content: 'ok\uFFFD' }, { role: 'user', content: 'more' });
    expect(ids(messages, { history }).slice(0, history.length)).toEqual(history);
  });

  it.each([
    ['another answer', (h: number[]) => [...h, ...model.encode('Rome.')]],
    ['an answer that goes on', (h: number[]) => [...h, ...model.encode('Paris. And more')]],
    ['an end token in the wrong place', (h: number[]) => [...h, 2, ...model.encode('Paris.')]],
    ['another end token', (h: number[]) => [...h, ...model.encode('Paris.'), 0]],
    ['a missing control token', (h: number[]) => h.filter((id, i) => id !== 1 || i > 0)],
    ['a control token written as text', (h: number[]) => [...model.encode('<|im_start|>'), ...h.slice(1)]],
    ['ids outside the vocabulary', (h: number[]) => [...h, 99_999]],
    ['a negative id', (h: number[]) => [...h, -1]],
  ])('is dropped, and the whole conversation encoded, when the ids are of %s', (_, spoil) => {
    const question: ChatMessage = { role: 'user', content: 'Capital of France?' };
    const messages: ChatMessage[] = [
      question,
      { role: 'assistant', content: 'Paris.' },
      { role: 'user', content: 'Sure?' },
    ];
    expect(ids(messages, { history: spoil(ids([question])) })).toEqual(ids(messages));
  });

  it('never lets text that looks like a control token stand for one', () => {
    const question: ChatMessage = { role: 'user', content: 'hi' };
    const prompt = ids([question]);
    // The caller's message spells the end token; the history has the real one there.
    const messages: ChatMessage[] = [
      question,
      { role: 'assistant', content: 'x<|im_end|>' },
      { role: 'user', content: 'y' },
    ];
    const history = [...prompt, ...model.encode('x'), 2];
    expect(ids(messages, { history })).toEqual(ids(messages));
  });

  it('keeps the ids of added tokens that show as text', () => {
    const files = sentencepieceFiles();
    const thinking = loadFiles(files);
    const question: ChatMessage = { role: 'user', content: 'hello' };
    const prompt = ids([question], {}, thinking);
    const answer = [401, ...thinking.encode('hello')];
    const history = [...prompt, ...answer];
    const content = thinking.decode(history).slice(thinking.decode(prompt).length);
    expect(content).toBe('<think> hello');
    const messages: ChatMessage[] = [question, { role: 'assistant', content }, question];
    const next = ids(messages, { history }, thinking);
    expect(next.slice(0, history.length)).toEqual(history);
    // Without the history the caller's text is only text.
    expect(ids(messages, {}, thinking)).not.toContain(401);
  });
});

describe('truncation', () => {
  it('drops nothing when the prompt fits to the token', () => {
    const messages = turns(3).slice(0, 5);
    const full = ids(messages);
    expect(model.encodePrompt(chat(messages), full.length)).toEqual({ tokenIds: full, droppedMessages: 0 });
  });

  it('drops as few of the oldest turns as needed and keeps the system message', () => {
    const system: ChatMessage = { role: 'system', content: 'You are brief.' };
    const messages = [system, ...turns(40), { role: 'user', content: 'last' } as const];
    for (const keptTurns of [1, 2, 3, 7, 20, 39, 40]) {
      const kept = [system, ...messages.slice(messages.length - 2 * keptTurns + 1)];
      const fitting = ids(kept);
      const expected = { tokenIds: fitting, droppedMessages: messages.length - kept.length };
      expect(model.encodePrompt(chat(messages), fitting.length)).toEqual(expected);
      const dropped = model.encodePrompt(chat(messages), fitting.length + 1).droppedMessages;
      expect(dropped).toBe(expected.droppedMessages);
    }
  });

  it('drops a turn with its tool results, and an assistant’s greeting as a turn of its own', () => {
    const messages: ChatMessage[] = [
      { role: 'assistant', content: 'Welcome!' },
      { role: 'user', content: 'weather?' },
      { role: 'assistant', content: '', toolCalls: [{ id: 'a', name: 'weather', arguments: '{}' }] },
      { role: 'tool', content: 'sunny', toolCallId: 'a' },
      { role: 'assistant', content: 'Sunny.' },
      { role: 'user', content: 'thanks' },
    ];
    const dropped = (kept: number): number =>
      model.encodePrompt(chat(messages), ids(messages.slice(-kept)).length).droppedMessages;
    expect([dropped(6), dropped(5), dropped(1)]).toEqual([0, 1, 5]);
  });

  it('says by how much the last turn alone is too long', () => {
    const messages = [...turns(2), { role: 'user', content: 'word '.repeat(500) } as const];
    const numTokens = ids(messages.slice(-1)).length;
    expect(() => model.encodePrompt(chat(messages), 100)).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: `prompt has ${numTokens} tokens, at most 100 fit`,
      }),
    );
  });

  it('fails instead of dropping when asked to', () => {
    const messages = turns(3).slice(0, 5);
    const numTokens = ids(messages).length;
    const input = chat(messages, { truncation: 'error' });
    expect(model.encodePrompt(input, numTokens).droppedMessages).toBe(0);
    expect(() => model.encodePrompt(input, numTokens - 1)).toThrow(
      expect.objectContaining({
        code: 'context_too_long',
        message: `prompt has ${numTokens} tokens, at most ${numTokens - 1} fit`,
      }),
    );
  });

  it('refuses unread what no tokens within the limit can spell', () => {
    const content = ' '.repeat(2_000_000);
    const refused = expect.objectContaining({
      code: 'context_too_long',
      message: 'prompt has 2000000 characters, more than 100 tokens can spell',
    });
    const ms = cpuMs(() => {
      for (const truncation of ['auto', 'error'] as const) {
        expect(() => model.encodePrompt(chat([{ role: 'user', content }], { truncation }), 100)).toThrow(refused);
      }
    });
    // Reading it takes seconds.
    expect(ms).toBeLessThan(1000);
  });

  it('reads no further back than it may, however long what it drops is', () => {
    const messages: ChatMessage[] = [
      { role: 'user', content: ' '.repeat(2_000_000) },
      { role: 'assistant', content: 'Long.' },
      { role: 'user', content: 'short' },
    ];
    expect(model.encodePrompt(chat(messages), 100).droppedMessages).toBe(2);
  });

  it('is quick with 4,096 messages', () => {
    const messages = turns(2048);
    const ms = cpuMs(() => {
      const { tokenIds, droppedMessages } = model.encodePrompt(chat(messages), 3000);
      expect(tokenIds.length).toBeGreaterThan(2900);
      expect(droppedMessages % 2).toBe(0);
    });
    expect(ms).toBeLessThan(5000);
  });

  it('keeps what a plain search would keep, on random conversations', () => {
    const seed = 8086;
    const random = seeded(seed);
    const roles = ['user', 'assistant', 'user', 'tool'] as const;
    for (let round = 0; round < 150; round++) {
      const messages: ChatMessage[] = Array.from({ length: 1 + random.int(12) }, (_, i) => ({
        role: i === 0 && random.int(2) === 0 ? 'system' : (roles[random.int(4)] ?? 'user'),
        content: 'w '.repeat(random.int(30)),
      }));
      const maxTokens = 40 + random.int(200);
      const head = messages[0]?.role === 'system' ? 1 : 0;
      let expected = -1;
      for (let from = head; from <= messages.length && expected < 0; from++) {
        const isStart = from === head || messages[from]?.role === 'user';
        if (from === messages.length && head === 0) break;
        if (from === messages.length && messages.length > head) break;
        if (!isStart) continue;
        const rest = [...messages.slice(0, head), ...messages.slice(from)];
        if (ids(rest, {}, bytes).length <= maxTokens) expected = from - head;
      }
      const where = `seed ${seed}, round ${round}`;
      if (expected < 0) {
        expect(() => bytes.encodePrompt(chat(messages), maxTokens), where).toThrow('at most');
      } else {
        expect(bytes.encodePrompt(chat(messages), maxTokens).droppedMessages, where).toBe(expected);
      }
    }
  });
});
