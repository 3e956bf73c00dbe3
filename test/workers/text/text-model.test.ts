import { describe, expect, it } from 'vitest';
import type { ChatMessage } from '../../../protocol/messages.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';
import { TextModel } from '../../../workers/text/text-model.ts';
import { chat, defaultTextDir, loadFiles, seeded, sentencepieceFiles } from './support.ts';
import { cpuMs } from '../../support/cpu-time.ts';

const model = TextModel.load(defaultTextDir);
const user: ChatMessage = { role: 'user', content: 'hi' };

function invalid(text: TextModel, input: Parameters<TextModel['encodePrompt']>[0], message: string): void {
  expect(() => text.encodePrompt(input, 4096)).toThrow(
    expect.objectContaining({ code: 'invalid_request', message: expect.stringContaining(message) }),
  );
}

function tokens(tokenIds: number[]): PromptInput {
  return { kind: 'tokens', tokenIds };
}

function withTemplate(template: unknown): TextModel {
  return loadFiles(sentencepieceFiles({ config: { chat_template: template } }));
}

describe('TextModel', () => {
  it('knows the default model', () => {
    expect(model).toMatchObject({ vocabSize: 6400, supportsTools: true, supportsChat: true, dropsFirstSpace: false });
    expect([...model.eosTokenIds]).toEqual([2]);
    expect(model.tokenBytes(2)).toHaveLength(0);
    expect(model.tokenText(2)).toBe('');
    expect(model.tokenText(6400)).toBe('');
  });

  it('knows the byte model', () => {
    const bytes = TextModel.bytes();
    expect(bytes).toMatchObject({ vocabSize: 260, supportsTools: true, supportsChat: true });
    expect([...bytes.eosTokenIds]).toEqual([257]);
    expect(bytes.specialTokens.map((token) => token.id).sort()).toEqual([256, 257, 258, 259]);
    const { tokenIds } = bytes.encodePrompt(chat([user]), 100);
    expect(tokenIds.filter((id) => id > 255)).toEqual([256, 257, 256]);
    expect(bytes.decode(tokenIds)).toBe('user\nhiassistant\n');
  });

  it('gives back any text from its ids', () => {
    const seed = 606;
    const random = seeded(seed);
    const parts = [
      'word',
      ' ',
      '  ',
      '\n',
      '你好',
      '😀',
      "'s",
      '123',
      '<|im_end|>',
      '\t',
      'é',
      '\u0000',
      '…',
      '{"a": 1}',
    ];
    for (let round = 0; round < 300; round++) {
      const text = Array.from({ length: random.int(20) }, () => parts[random.int(parts.length)]).join('');
      expect(model.decode(model.encode(text)), `seed ${seed}, round ${round}`).toBe(text);
    }
  });

  it('encodes long texts in pieces without changing an id at a space', () => {
    const sentence = ' The quick brown fox jumps over the lazy dog, twice.';
    const once = model.encode(sentence.repeat(100));
    const long = model.encode(sentence.repeat(1000));
    expect(long).toEqual(Array.from({ length: 10 }, () => once).flat());
  });

  it.each([
    ['one letter', 'a'],
    ['one character of three bytes', '我'],
    ['emoji', '😀'],
    ['line breaks', '\n'],
    ['brackets', '<|'],
  ])('needs linear time for 200,000 characters of %s', (_, unit) => {
    const text = unit.repeat(200_000 / unit.length);
    let ids: number[] = [];
    expect(cpuMs(() => void (ids = model.encode(text)))).toBeLessThan(6000);
    expect(model.decode(ids)).toBe(text);
  });

  it('takes token ids as they are, and refuses wrong ones', () => {
    expect(model.encodePrompt(tokens([1, 2, 3]), 3)).toEqual({ tokenIds: [1, 2, 3], droppedMessages: 0 });
    for (const bad of [6400, -1, 1.5, NaN]) invalid(model, tokens([1, bad]), 'not a token id');
    invalid(model, tokens([]), 'empty');
    expect(() => model.encodePrompt(tokens([1, 2, 3, 4]), 3)).toThrow(
      expect.objectContaining({ code: 'context_too_long', message: 'prompt has 4 tokens, at most 3 fit' }),
    );
  });

  it('passes on what was encoded beforehand', () => {
    const input = { kind: 'encoded', tokenIds: [5, 6], droppedMessages: 4 } as const;
    expect(model.encodePrompt({ ...input, tokenIds: [5, 6] }, 10)).toEqual({ tokenIds: [5, 6], droppedMessages: 4 });
  });

  it('refuses an empty conversation', () => {
    invalid(model, chat([]), 'messages are empty');
  });

  it('refuses JSON nested without end', () => {
    let deep: Record<string, unknown> = {};
    for (let i = 0; i < 5000; i++) deep = { a: deep };
    invalid(model, chat([user], { tools: [{ name: 'f', parameters: deep }] }), 'nested');
    const call = { id: '1', name: 'f', arguments: `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}` };
    invalid(model, chat([user, { role: 'assistant', content: '', toolCalls: [call] }]), '');
  });
});

describe('TextModel of a sentencepiece tokenizer', () => {
  const text = loadFiles(sentencepieceFiles());

  it('writes the prefix space and takes it away again', () => {
    expect(text.dropsFirstSpace).toBe(true);
    expect(text.decode(text.encode('hello'))).toBe(' hello');
    expect(text.decode(text.encode('hello 你'))).toBe(' hello 你');
  });

  it('never makes a special token of a vocabulary entry', () => {
    for (const { content } of text.specialTokens) {
      const ids = text.encode(`a${content}b`);
      expect(ids.filter((id) => text.isSpecial(id) && id !== 0)).toEqual([]);
    }
    expect(text.decode(text.encode('a</s>b<s>'))).toBe(' a</s>b<s>');
  });

  it('has end tokens from the config, and tokens that strip the white space behind them', () => {
    expect([...text.eosTokenIds]).toEqual([2]);
    const { tokenIds } = text.encodePrompt(chat([user]), 100);
    expect(tokenIds[0]).toBe(1);
    expect(tokenIds.filter((id) => text.isSpecial(id))).toEqual([1, 400]);
    // The line break after [END] was stripped; "assistant:" got its prefix space.
    expect(text.decode(tokenIds)).toBe(' user: hi assistant: ');
  });

  it('shows added tokens that are not special as text', () => {
    expect(text.tokenText(401)).toBe('<think>');
    expect(text.tokenText(400)).toBe('');
  });

  it('continues a session’s ids', () => {
    const prompt = text.encodePrompt(chat([user]), 100).tokenIds;
    const history = [...prompt, ...text.encode('w').slice(1), 400];
    expect(text.decode(history)).toBe(' user: hi assistant: w');
    const messages: ChatMessage[] = [user, { role: 'assistant', content: 'w' }, user];
    const next = text.encodePrompt(chat(messages, { history }), 200).tokenIds;
    expect(next.slice(0, history.length)).toEqual(history);
    expect(text.decode(next)).toBe(' user: hi assistant: w user: hi assistant: ');
  });

  it('says so when the template has no tools', () => {
    expect(text.supportsTools).toBe(false);
    invalid(text, chat([user], { tools: [{ name: 'f' }] }), 'does not support tools');
  });
});

describe('TextModel of other files', () => {
  it('says so when the template has no system role, or refuses the messages', () => {
    const strict = withTemplate(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" +
        "{% if m.role == 'tool' %}{{ raise_exception('secret detail') }}{% endif %}{{ m.content }}{% endfor %}",
    );
    invalid(strict, chat([{ role: 'system', content: 's' }, user]), 'does not support system messages');
    invalid(strict, chat([user, { role: 'tool', content: 'x' }]), 'does not accept these messages');
  });

  it('takes the default of several templates, and tool_use for tools', () => {
    const text = withTemplate([
      { name: 'tool_use', template: 'tools {{ tools[0].function.name }} <tool_call>' },
      { name: 'default', template: 'default' },
    ]);
    expect(text.supportsTools).toBe(true);
    expect(text.decode(text.encodePrompt(chat([user]), 100).tokenIds)).toBe(' default');
    expect(text.decode(text.encodePrompt(chat([user], { tools: [{ name: 'f' }] }), 100).tokenIds)).toBe(
      ' tools f <tool_call>',
    );
  });

  it('prefers chat_template.jinja', () => {
    const text = loadFiles({ ...sentencepieceFiles(), 'chat_template.jinja': 'from file' });
    expect(text.decode(text.encodePrompt(chat([user]), 100).tokenIds)).toBe(' from file');
  });

  it('collects end tokens of all files', () => {
    const text = loadFiles({
      ...sentencepieceFiles(),
      'generation_config.json': { eos_token_id: [400, 2] },
      'config.json': { eos_token_id: 5 },
    });
    expect([...text.eosTokenIds].sort()).toEqual([2, 400, 5]);
  });

  it('takes no chats without a template', () => {
    const text = withTemplate(null);
    expect(text.supportsChat).toBe(false);
    invalid(text, chat([user]), 'no chat template');
  });

  it('treats added tokens of white space as spelling', () => {
    const text = loadFiles(
      sentencepieceFiles({ addedTokens: [{ id: 402, content: '\n\n', special: false, normalized: false }] }),
    );
    expect(text.encode('a\n\nb')).toContain(402);
    expect(text.isSpecial(402)).toBe(false);
    expect(text.decode([402])).toBe('\n\n');
  });

  it('names the file that is missing or broken', () => {
    expect(() => loadFiles({})).toThrow('tokenizer.json not found');
    expect(() => loadFiles({ 'tokenizer.json': '{' })).toThrow('is not valid JSON');
    const files = sentencepieceFiles();
    const json = files['tokenizer.json'] as { model: object };
    expect(() =>
      loadFiles({ ...files, 'tokenizer.json': { ...json, model: { ...json.model, type: 'WordPiece' } } }),
    ).toThrow('WordPiece is not supported');
    expect(() => withTemplate('{% for %}')).toThrow();
  });
});
