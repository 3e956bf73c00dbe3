// From GGUF's `gpt2` tokenizers to tokenizer.json: byte pairs in GPT-2's alphabet, merged by rank. Called by tokenizer.ts.
import type { GgufMeta } from './model.ts';
import { preTokenizers, type PreTokenizer } from './pre-tokenizers.ts';

/** Throws an Error naming the entry when the text would be cut in a way that is not known here. */
export function findPreTokenizer(meta: GgufMeta): PreTokenizer {
  const name = meta.text('tokenizer.ggml.pre');
  const found = Object.hasOwn(preTokenizers, name) ? preTokenizers[name] : undefined;
  if (found !== undefined) return found;
  const known = Object.keys(preTokenizers).join(', ');
  return meta.fail('tokenizer.ggml.pre', `is ${JSON.stringify(name)}; supported: ${known}`);
}

/** The parts of tokenizer.json that say how plain text becomes tokens. */
export function byteLevelParts(meta: GgufMeta, vocab: Record<string, number>): Record<string, unknown> {
  const { splits, isGpt2, ignoresMerges } = findPreTokenizer(meta);
  const merges = meta.texts('tokenizer.ggml.merges');
  const broken = merges.find((merge) => !/^\S+ \S+$/u.test(merge));
  if (broken !== undefined) meta.fail('tokenizer.ggml.merges', `has ${JSON.stringify(broken)}, which is no pair`);
  const pretokenizers = [
    ...splits.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })),
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: isGpt2 },
  ];
  return {
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', unk_token: null, byte_fallback: false, ignore_merges: ignoresMerges, vocab, merges },
  };
}
