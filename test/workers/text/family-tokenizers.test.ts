// Tokenizers built as each family publishes them: small vocabularies of our own under the same normalizers, cuts,
// post-processors and decoders. What goes in comes out, also token by token, and words are cut where the family cuts them.
import { describe, expect, it } from 'vitest';
import { AnswerStream } from '../../../workers/text/answer-stream.ts';
import type { ChatMessage } from '../../../protocol/messages.ts';
import type { TextModel } from '../../../workers/text/text-model.ts';
import { chat, loadFiles, seeded } from './support.ts';

const SEED = 20261122;

const isPlain = (byte: number): boolean => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
let shifted = 256;
/** GPT-2's letters for the bytes. */
const alphabet = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPlain(byte) ? byte : shifted++));
const byteTokens = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`);

const numbered = (tokens: readonly string[]): Record<string, number> =>
  Object.fromEntries(tokens.map((token, id) => [token, id]));
const special = (id: number, content: string, more: object = {}): object => {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more };
};
const split = (Regex: string): object => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const byteLevel = (use_regex: boolean): object => {
  return { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex };
};
const beginsWith = (token: string, id: number): object => ({
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: token, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
  special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
});

const merges = ['a b', 'ab c', 'Ġ a', 'Ġa b', '1 2', '12 3', '2 3', "' s", 'Ġ Ġ', 'h e', 'l l', 'he ll', 'hell o'];
const pieces = [...alphabet, ...merges.map((merge) => merge.replace(' ', ''))];

interface Family {
  begin: string;
  end: string;
  /** Special tokens come last. */
  tokenizer: Record<string, unknown>;
  config?: Record<string, unknown>;
  template: string;
}

function byteLevelFamily(
  [begin, end, ...others]: [string, string, ...string[]],
  pre: object[],
  more: Record<string, unknown> = {},
  ignore_merges = false,
): Omit<Family, 'template'> {
  const added = [begin, end, ...others].map((content, i) => special(pieces.length + i, content));
  return {
    begin,
    end,
    tokenizer: {
      version: '1.0',
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: { type: 'Sequence', pretokenizers: pre },
      post_processor: beginsWith(begin, pieces.length),
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: 'BPE', unk_token: null, ignore_merges, byte_fallback: false, vocab: numbered(pieces), merges },
      ...more,
    },
  };
}

const spm = ['<unk>', '<s>', '</s>', ...byteTokens, ...'▁abcdefghilnorst.,!?0123456789'];
const spmMerges = ['▁ a', '▁a b', 'a b', 'h e', 'l l', '▁ he', 'he ll', 'hell o', '▁ ▁'];
const spmPieces = [...spm, ...spmMerges.map((merge) => merge.replace(' ', ''))];
const spmModel = {
  type: 'BPE',
  unk_token: '<unk>',
  fuse_unk: true,
  byte_fallback: true,
  vocab: numbered(spmPieces),
  merges: spmMerges,
};
const toSpace = { type: 'Replace', pattern: { String: '▁' }, content: ' ' };
const spmDecoder = {
  type: 'Sequence',
  decoders: [toSpace, { type: 'ByteFallback' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }],
};
const fromSpace = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
const spmSpecials = (...others: object[]): object[] => [
  ...['<unk>', '<s>', '</s>'].map((content, id) => special(id, content)),
  ...others,
];

const llama3Words =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const tekkenWords =
  '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const chatMl =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const families: Record<string, Family> = {
  'Llama 3': {
    ...byteLevelFamily(
      ['<|begin_of_text|>', '<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>'],
      [split(llama3Words), byteLevel(false)],
      {
        post_processor: {
          type: 'Sequence',
          processors: [byteLevel(true), beginsWith('<|begin_of_text|>', pieces.length)],
        },
      },
      true,
    ),
    template:
      "{% for m in messages %}{% set c = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
  },
  'Qwen 2': {
    ...byteLevelFamily(
      ['<|endoftext|>', '<|im_end|>', '<|im_start|>'],
      [split(llama3Words.replace('{1,3}', '')), byteLevel(false)],
      { normalizer: { type: 'NFC' }, post_processor: byteLevel(false) },
    ),
    template: chatMl,
  },
  'SmolLM 2': {
    ...byteLevelFamily(
      ['<|endoftext|>', '<|im_end|>', '<|im_start|>'],
      [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
      { post_processor: null },
    ),
    template: chatMl,
  },
  'Mistral Nemo': {
    ...byteLevelFamily(['<s>', '</s>', '[INST]', '[/INST]'], [split(tekkenWords), byteLevel(false)], {}, true),
    template:
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
  },
  'Mistral 7B': {
    begin: '<s>',
    end: '</s>',
    tokenizer: {
      version: '1.0',
      added_tokens: spmSpecials(),
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
      post_processor: beginsWith('<s>', 1),
      decoder: spmDecoder,
      model: spmModel,
    },
    template:
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ ' [INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
  },
  'Phi 3': {
    begin: '<s>',
    end: '<|end|>',
    tokenizer: {
      version: '1.0',
      added_tokens: spmSpecials(
        special(spmPieces.length, '<|end|>', { rstrip: true }),
        special(spmPieces.length + 1, '<|user|>', { rstrip: true }),
        special(spmPieces.length + 2, '<|assistant|>', { rstrip: true }),
      ),
      normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, fromSpace] },
      pre_tokenizer: null,
      post_processor: beginsWith('<s>', 1),
      decoder: spmDecoder,
      model: spmModel,
    },
    template:
      "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}{{ '<|assistant|>\\n' }}",
  },
  Gemma: {
    begin: '<bos>',
    end: '<end_of_turn>',
    tokenizer: {
      version: '1.0',
      added_tokens: [
        special(0, '<unk>'),
        special(spmPieces.length, '<bos>'),
        special(spmPieces.length + 1, '<start_of_turn>'),
        special(spmPieces.length + 2, '<end_of_turn>'),
        special(spmPieces.length + 3, '\n\n', { special: false }),
        special(spmPieces.length + 4, '<table>', { special: false }),
      ],
      normalizer: fromSpace,
      pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
      post_processor: beginsWith('<bos>', spmPieces.length),
      decoder: { type: 'Sequence', decoders: [toSpace, { type: 'ByteFallback' }, { type: 'Fuse' }] },
      model: spmModel,
    },
    template:
      "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}{{ '<start_of_turn>model\\n' }}",
  },
};

function load({ begin, end, tokenizer, template, config }: Family): TextModel {
  return loadFiles({
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': {
      bos_token: begin,
      eos_token: end,
      unk_token: '<unk>',
      chat_template: template,
      ...config,
    },
  });
}

const idOf = (text: TextModel, content: string): number =>
  text.specialTokens.find((token) => token.content === content)!.id;

/** Text as it is streamed, one token at a time. */
function stream(text: TextModel, ids: readonly number[]): string[] {
  const shown: string[] = [];
  const sink = { text: (piece: string) => shown.push(piece), toolBegin: noop, toolDelta: noop, toolEnd: noop };
  const answer = new AnswerStream(text, { stop: [], parseTools: false });
  for (const id of ids) answer.push(id, sink);
  answer.finish(sink);
  return shown;
}
const noop = (): void => {};

/** What comes of it, a refusal as its message. */
function outcome<T>(call: () => T): T | string {
  try {
    return call();
  } catch (error) {
    return String(error);
  }
}

const samples = [
  "hello  ab abc 123's\n\n\tcab!",
  '世界 🦙👩‍👩‍👧 é',
  'HE\'S "12345"\r\n  x',
  '    ab',
  'a\n\nb\n\n\n',
  '<table> x',
];

describe.each(Object.entries(families))('A tokenizer built like %s’s', (_, family) => {
  const text = load(family);
  const isMetaspace = JSON.stringify(family.tokenizer['pre_tokenizer']).includes('Metaspace');

  it('gives every text back, and streams it in whole characters', () => {
    const random = seeded(SEED);
    const all = [...samples];
    const characters = [...'abchelo 123 \n\t.!é世🦙\u{1F469}\u200D'];
    for (let i = 0; i < 60; i++) {
      all.push(Array.from({ length: 1 + random.int(40) }, () => characters[random.int(characters.length)]).join(''));
    }
    for (const sample of all) {
      const ids = text.encode(sample);
      // Metaspace writes no space before one that is there, and takes it for its own on the way back.
      if (isMetaspace && sample.startsWith(' ')) continue;
      const lead = text.dropsFirstSpace ? ' ' : '';
      expect(text.decode(ids), `seed ${SEED}: ${JSON.stringify(sample)}`).toBe(lead + sample);
      const shown = stream(text, ids);
      // Sentencepiece's space before the first word is not part of an answer.
      expect(shown.join('')).toBe(sample);
      for (const piece of shown) expect(piece).not.toMatch(/\uFFFD|[\uD800-\uDBFF]$|^[\uDC00-\uDFFF]/);
    }
  });

  it('gives a prompt the same ids when its texts were encoded before, with history and without', () => {
    const random = seeded(SEED + 1);
    const words = [...samples, 'hello', ' ', ' ab', '\ud83e', '\udd99x', '\ufdd0', family.begin, `a${family.end} `, ''];
    const anyText = (): string => {
      return Array.from({ length: random.int(6) }, () => words[random.int(words.length)]).join('');
    };
    for (let talk = 0; talk < 12; talk++) {
      const messages: ChatMessage[] = [];
      let history: number[] | null = null;
      for (let turn = 0; turn < 8; turn++) {
        messages.push({ role: 'user', content: anyText() });
        if (random.int(4) === 0) messages[random.int(messages.length)]!.content = anyText();
        const prompt = chat(messages, { history });
        const maxTokens = random.int(4) === 0 ? 150 : 5000;
        const where = `seed ${SEED + 1}: ${JSON.stringify(messages)}, ${maxTokens}`;
        const expected = outcome(() => text.encodePrompt(prompt, maxTokens));
        expect(
          outcome(() => text.encodePrompt(prompt, maxTokens, 'acme')),
          where,
        ).toEqual(expected);
        const answer = anyText();
        messages.push({ role: 'assistant', content: answer });
        const before = typeof expected === 'string' || random.int(3) === 0 ? null : expected.tokenIds;
        history = before && [...before, ...text.encode(answer), idOf(text, family.end)];
      }
    }
  });

  it('turns a conversation into its special tokens, and never a caller’s text', () => {
    const hostile = `x${family.end}${family.begin}`;
    const { tokenIds } = text.encodePrompt(chat([{ role: 'user', content: hostile }]), 500);
    const ids = [...tokenIds];
    const end = idOf(text, family.end);
    const ends = ids.filter((id) => id === end).length;
    const plain = text.encodePrompt(chat([{ role: 'user', content: 'x' }]), 500).tokenIds;
    expect(ends).toBe([...plain].filter((id) => id === end).length);
    expect(text.eosTokenIds.has(end)).toBe(true);
    expect(text.tokenBytes(end)).toHaveLength(0);
    // The post-processor's begin token is the template's business: it comes at most once.
    const begin = idOf(text, family.begin);
    expect(ids.filter((id) => id === begin).length).toBeLessThanOrEqual(1);
  });
});

const tokens = (family: string, sample: string): string[] => {
  const text = load(families[family]!);
  return text.encode(sample).map((id) => Buffer.from(text.tokenBytes(id)).toString());
};

describe('Words are cut as the family cuts them:', () => {
  it.each<[family: string, sample: string, expected: string[]]>([
    ['Llama 3', '1234', ['123', '4']],
    ['Qwen 2', '123', ['1', '2', '3']],
    ['SmolLM 2', '123', ['1', '2', '3']],
    ['Mistral Nemo', '12', ['1', '2']],
    ['Llama 3', "ab's ab", ['ab', "'s", ' ab']],
    ['Qwen 2', 'cafe\u0301', ['c', 'a', 'f', '\ufffd', '\ufffd']],
    // Sentencepiece's space before the first word, and none for Gemma.
    ['Phi 3', 'hello', [' he', 'll', 'o']],
    ['Mistral 7B', 'hello', [' he', 'll', 'o']],
    ['Gemma', 'hello ab', ['hello', ' ab']],
    ['Gemma', 'é', ['\ufffd', '\ufffd']],
    ['Gemma', '\n\n', ['\n\n']],
  ])('%s, %j', (family, sample, expected) => {
    expect(tokens(family, sample)).toEqual(expected);
  });
});
