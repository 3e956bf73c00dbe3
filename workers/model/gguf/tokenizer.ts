// From GGUF metadata to the files that workers/text reads: tokenizer.json, tokenizer_config.json with the chat template,
// and the ids that end an answer. Called by text-folder.ts.
import { byteLevelParts, findPreTokenizer } from './byte-level.ts';
import type { GgufMeta } from './model.ts';
import { sentencepieceParts } from './sentencepiece.ts';

/** Kinds of tokens, by their number in the file. */
const Kind = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Control tokens of these names end a turn, whether the file says so or not: many files name only one end. */
const ends: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|end_of_text|>',
]);

export interface TextFiles {
  tokenizer: Record<string, unknown>;
  tokenizerConfig: Record<string, unknown>;
  generationConfig: Record<string, unknown>;
}

/** Throws an Error naming the file and the entry when the tokenizer is of a kind, or in a state, that cannot be read. */
export function textFiles(meta: GgufMeta): TextFiles {
  const model = meta.text('tokenizer.ggml.model');
  if (model !== 'gpt2' && model !== 'llama') {
    meta.fail('tokenizer.ggml.model', `is ${JSON.stringify(model)}; "gpt2" and "llama" can be read`);
  }
  const tokens = meta.texts('tokenizer.ggml.tokens');
  const kinds = meta.numbersOrNull('tokenizer.ggml.token_type') ?? tokens.map(() => Kind.normal);
  if (kinds.length !== tokens.length) {
    meta.fail('tokenizer.ggml.token_type', `has ${kinds.length} entries for ${tokens.length} tokens`);
  }
  const id = (name: string): number | null => tokenIdOf(meta, name, tokens.length);
  const vocab = vocabularyOf(tokens);
  const isMergeable = (token: number): boolean => kinds[token] === Kind.normal || kinds[token] === Kind.userDefined;
  const parts = model === 'gpt2' ? byteLevelParts(meta, vocab) : sentencepieceParts(meta, tokens, vocab, isMergeable);
  const [bos, eos] = [id('bos'), id('eos')];
  const addsBegin = meta.flag('tokenizer.ggml.add_bos_token', model === 'llama' || findPreTokenizer(meta).addsBegin);
  const template = meta.textOrNull('tokenizer.chat_template');
  const beginText = addsBegin && bos !== null ? tokens[bos]! : null;
  const named = { bos_token: bos, eos_token: eos, unk_token: id('unknown'), pad_token: id('padding') };
  const tokenizerConfig: Record<string, unknown> = { clean_up_tokenization_spaces: false };
  for (const [name, token] of Object.entries(named)) if (token !== null) tokenizerConfig[name] = tokens[token];
  if (template !== null) tokenizerConfig['chat_template'] = withBegin(template, beginText);
  const isEnd = (token: number): boolean => kinds[token] === Kind.control && ends.has(tokens[token]!);
  const endIds = [eos, id('eot'), id('eom'), ...[...tokens.keys()].filter(isEnd)].filter((end) => end !== null);
  return {
    tokenizer: { version: '1.0', added_tokens: addedTokens(tokens, kinds, [bos, eos]), post_processor: null, ...parts },
    tokenizerConfig,
    generationConfig: { eos_token_id: [...new Set(endIds)].sort((a, b) => a - b) },
  };
}

/** Without a prototype: a token may be called `__proto__`. The first of two equal ones is the one text becomes. */
function vocabularyOf(tokens: readonly string[]): Record<string, number> {
  const vocab = Object.create(null) as Record<string, number>;
  for (const [id, token] of tokens.entries()) vocab[token] ??= id;
  return vocab;
}

function tokenIdOf(meta: GgufMeta, name: string, numTokens: number): number | null {
  const key = `tokenizer.ggml.${name}_token_id`;
  const id = meta.naturalOrNull(key);
  // Some files write the largest 32-bit number for "none".
  if (id === null || id === 0xffffffff) return null;
  return id < numTokens ? id : meta.fail(key, `is ${id}, but there are ${numTokens} tokens`);
}

/** Control tokens are hidden and callers cannot write them; user-defined ones are shown. Unused ones are neither. */
function addedTokens(
  tokens: readonly string[],
  kinds: readonly number[],
  always: readonly (number | null)[],
): object[] {
  const added: object[] = [];
  for (const [id, content] of tokens.entries()) {
    const kind = kinds[id];
    const isSpecial = kind === Kind.control || kind === Kind.unknown || always.includes(id);
    if (!isSpecial && kind !== Kind.userDefined) continue;
    if (content === '') continue;
    added.push({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: isSpecial,
    });
  }
  return added;
}

/** Such files leave the token that begins a prompt to the reader, where the template does not write it. */
function withBegin(template: string, begin: string | null): string {
  if (begin === null || template.includes('bos_token') || template.includes(begin)) return template;
  return `{{ bos_token }}${template}`;
}
