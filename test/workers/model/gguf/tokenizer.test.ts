// Tokenizers out of GGUF metadata: pairs from scores, cuts by name, special tokens, ends, and the template's beginning.
import { describe, expect, it } from 'vitest';
import type { MetaValue } from '../../../../workers/model/gguf/header-reader.ts';
import { GgufMeta } from '../../../../workers/model/gguf/model.ts';
import { preTokenizers } from '../../../../workers/model/gguf/pre-tokenizers.ts';
import { mergesOf } from '../../../../workers/model/gguf/sentencepiece.ts';
import { textFiles } from '../../../../workers/model/gguf/tokenizer.ts';
import type { TextModel } from '../../../../workers/text/text-model.ts';
import { chat, loadFiles, seeded } from '../../text/support.ts';

const SEED = 20261122;

function load(meta: Record<string, MetaValue>): TextModel {
  const { tokenizer, tokenizerConfig, generationConfig } = textFiles(new GgufMeta(new Map(Object.entries(meta)), 'x'));
  return loadFiles({
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': tokenizerConfig,
    'generation_config.json': generationConfig,
  });
}

const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
const letters = [...'▁abcdehlorw'];

/** Special tokens 0 to 2, bytes from 3, then pieces, the likeliest first. */
function sentencepiece(pieces: string[], more: Record<string, MetaValue> = {}, added: [string, number][] = []) {
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...pieces, ...letters, ...added.map(([token]) => token)];
  const isPiece = (id: number): boolean => id >= 259 && id < 259 + pieces.length;
  return {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.scores': tokens.map((_, id) => (isPiece(id) ? 258 - id : id < 259 ? 0 : -1000)),
    'tokenizer.ggml.token_type': tokens.map((token, id) => {
      const kind = added.find(([content]) => content === token)?.[1];
      return kind ?? (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1);
    }),
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    ...more,
  };
}

/** Sentencepiece's own way: of all neighbours whose joint is a piece, join the best, the first of equals, until none is. */
function joinByScore(text: string, tokens: readonly string[], scores: readonly number[]): string[] {
  const parts = [...text];
  for (;;) {
    let [best, at] = [-Infinity, -1];
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = tokens.indexOf(parts[i]! + parts[i + 1]!);
      if (id >= 259 && scores[id]! > best) [best, at] = [scores[id]!, i];
    }
    if (at < 0) return parts;
    parts.splice(at, 2, parts[at]! + parts[at + 1]!);
  }
}

describe('A tokenizer with scores', () => {
  it('joins what sentencepiece would join, on seeded texts', () => {
    const random = seeded(SEED);
    const word = (length: number): string => Array.from({ length }, () => letters[random.int(6)]).join('');
    for (let round = 0; round < 20; round++) {
      const pieces = [...new Set(Array.from({ length: 60 }, () => word(2 + random.int(3))))];
      const meta = sentencepiece(pieces);
      const tokens = meta['tokenizer.ggml.tokens'] as string[];
      const scores = meta['tokenizer.ggml.scores'] as number[];
      const text = load(meta);
      for (let i = 0; i < 20; i++) {
        const sample = word(1 + random.int(30)).replaceAll('▁', ' ');
        const expected = joinByScore(`▁${sample.replaceAll(' ', '▁')}`, tokens, scores);
        const found = text.encode(sample).map((id) => tokens[id]);
        expect(found, `seed ${SEED}, round ${round}: ${JSON.stringify(sample)} with ${pieces.join(' ')}`).toEqual(
          expected,
        );
      }
    }
  });

  it('spells what no piece covers in bytes, and gives every text back', () => {
    const text = load(sentencepiece(['he', 'll', '▁hell', '▁he']));
    const sample = 'hello 世界 🦙\n\t ok';
    expect(text.decode(text.encode(sample))).toBe(` ${sample}`);
    expect(text.dropsFirstSpace).toBe(true);
    const bare = load(sentencepiece(['he'], { 'tokenizer.ggml.add_space_prefix': false }));
    expect(bare.decode(bare.encode(sample))).toBe(sample);
    expect(bare.dropsFirstSpace).toBe(false);
  });

  it('takes no control token as a piece, and no half character', () => {
    const tokens = ['a', 'b', 'ab', '🦙', '🦙a'];
    const all = mergesOf(tokens, [0, 0, -1, -2, -3], () => true);
    expect(all).toEqual([
      ['a', 'b'],
      ['🦙', 'a'],
    ]);
    expect(mergesOf(tokens, [0, 0, -1, -2, -3], (id) => id !== 2)).toEqual([['🦙', 'a']]);
  });

  it('hides control tokens, shows user-defined ones, and lets callers write neither', () => {
    const added: [string, number][] = [
      ['<|im_end|>', 3],
      ['<tool>', 4],
      ['<unused7>', 5],
    ];
    const meta = sentencepiece([], {}, added);
    const text = load(meta);
    const [end, tool] = [259 + letters.length, 260 + letters.length];
    expect(text.isSpecial(end)).toBe(true);
    expect(text.decode([end])).toBe('');
    expect(text.decode([tool])).toBe('<tool>');
    expect(text.encode('<|im_end|><tool>')).not.toContain(end);
    expect(text.encode('<|im_end|><tool>')).not.toContain(tool);
    // Named as an end by its text, beside the one the file names.
    expect([...text.eosTokenIds].sort()).toEqual([2, end]);
  });

  it('may have tokens of any name', () => {
    const text = load(sentencepiece(['__proto__', 'constructor']));
    expect(text.encode('a')).toHaveLength(2);
  });

  it('begins prompts with its begin token where neither template nor file says otherwise', () => {
    const plain = '{% for m in messages %}{{ m.content }}{% endfor %}';
    const begins = (more: Record<string, MetaValue>): boolean =>
      load(sentencepiece([], more)).encodePrompt(chat([{ role: 'user', content: 'a' }]), 99).tokenIds[0] === 1;
    const template = 'tokenizer.chat_template';
    expect(begins({ [template]: plain })).toBe(true);
    expect(begins({ [template]: `{{ bos_token }}${plain}` })).toBe(true);
    expect(begins({ [template]: `<s>${plain}` })).toBe(true);
    expect(begins({ [template]: plain, 'tokenizer.ggml.add_bos_token': false })).toBe(false);
    const twice = load(sentencepiece([], { [template]: `{{ bos_token }}${plain}` }));
    const ids = [...twice.encodePrompt(chat([{ role: 'user', content: 'a' }]), 99).tokenIds];
    expect(ids.filter((id) => id === 1)).toHaveLength(1);
    expect(load(sentencepiece([])).supportsChat).toBe(false);
  });
});

const isPlain = (byte: number): boolean => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);

/** GPT-2's alphabet, and a few pairs. */
function byteLevel(pre: string, merges: string[], more: Record<string, MetaValue> = {}) {
  let next = 256;
  const alphabet = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPlain(byte) ? byte : next++));
  const tokens = [...alphabet, ...merges.map((merge) => merge.replace(' ', '')), 'whole', '<|eot_id|>'];
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.merges': merges,
    'tokenizer.ggml.token_type': tokens.map((_, id) => (id === tokens.length - 1 ? 3 : 1)),
    'tokenizer.ggml.eos_token_id': tokens.length - 1,
    ...more,
  };
}

describe('A tokenizer with merges', () => {
  it.each(Object.keys(preTokenizers))('cut as %s gives every text back', (pre) => {
    const text = load(byteLevel(pre, ['a b', 'ab c', 'Ġ a', '1 2', '12 3']));
    for (const sample of ["I'm 12345 ABC's  abc\r\n\n  x\t世界 🦙 a_b+c=/d\n", '  ', "WE'LL", 'éÀ ÑandŠ']) {
      expect(text.decode(text.encode(sample))).toBe(sample);
    }
    expect(text.dropsFirstSpace).toBe(false);
  });

  const merges = ['1 2', '12 3', '2 3', '23 4', '123 4', "' S", 'Ġ a', 'Ġ Ġ', '! Ċ', 'A b', 'Ab B'];
  it.each<[pre: string, text: string, tokens: string[]]>([
    // Digits: three at most, one, or all.
    ['llama-bpe', '1234', ['123', '4']],
    ['qwen2', '1234', ['1', '2', '3', '4']],
    ['smollm', '123', ['1', '2', '3']],
    ['gpt-2', '1234', ['1234']],
    // Contractions in capitals are seen by the newer ones.
    ['llama-bpe', "X'S", ['X', "'S"]],
    ['gpt-2', "X'S", ['X', "'", 'S']],
    // Line breaks stay with symbols, or do not.
    ['qwen2', '!\n', ['!Ċ']],
    ['gpt-2', '!\n', ['!', 'Ċ']],
    // A capital within a word begins a new one.
    ['tekken', 'AbB', ['Ab', 'B']],
    ['qwen2', 'AbB', ['AbB']],
    // The last space belongs to the word behind it.
    ['llama-bpe', '   a', ['ĠĠ', 'Ġa']],
  ])('cut as %s turns %j into %j', (pre, sample, expected) => {
    const meta = byteLevel(pre, merges);
    const tokens = meta['tokenizer.ggml.tokens'] as string[];
    expect(
      load(meta)
        .encode(sample)
        .map((id) => tokens[id]),
    ).toEqual(expected);
  });

  it('takes a whole word that is a token, where the family does so', () => {
    const whole = 256;
    expect(load(byteLevel('llama-bpe', [])).encode('whole')).toEqual([whole]);
    expect(load(byteLevel('qwen2', [])).encode('whole')).toHaveLength(5);
  });

  it('ends answers at the ids and the names of ends', () => {
    const meta = byteLevel('qwen2', ['a b'], { 'tokenizer.ggml.eos_token_id': 0xffffffff });
    expect([...load(meta).eosTokenIds]).toEqual([258]);
    const both = byteLevel('qwen2', ['a b'], { 'tokenizer.ggml.eos_token_id': 3, 'tokenizer.ggml.eot_token_id': 4 });
    expect([...load(both).eosTokenIds].sort((a, b) => a - b)).toEqual([3, 4, 258]);
  });
});
