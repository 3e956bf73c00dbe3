// From GGUF's `llama` tokenizers to tokenizer.json: sentencepiece's byte pairs, merged by the score of what they make,
// with a token for every byte that no piece covers. Called by tokenizer.ts.
// tokenizer.json knows ranks of pairs instead: all pairs whose joint is a piece, the best score first, as transformers
// converts such files.
import type { GgufMeta } from './model.ts';

/** The parts of tokenizer.json that say how plain text becomes tokens. `isMergeable`: by id; control tokens are not. */
export function sentencepieceParts(
  meta: GgufMeta,
  tokens: readonly string[],
  vocab: Record<string, number>,
  isMergeable: (id: number) => boolean,
): Record<string, unknown> {
  const scores = meta.numbersOrNull('tokenizer.ggml.scores');
  if (scores?.length !== tokens.length) {
    return meta.fail('tokenizer.ggml.scores', `has ${scores?.length ?? 0} entries for ${tokens.length} tokens`);
  }
  const unknown = meta.natural('tokenizer.ggml.unknown_token_id', 0);
  const addsSpace = meta.flag('tokenizer.ggml.add_space_prefix', true);
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' };
  const normalizers = addsSpace ? [{ type: 'Prepend', prepend: '\u2581' }, replace] : [replace];
  const decoders: object[] = [
    { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  if (addsSpace) decoders.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return {
    normalizer: { type: 'Sequence', normalizers },
    pre_tokenizer: null,
    decoder: { type: 'Sequence', decoders },
    model: {
      type: 'BPE',
      unk_token: tokens[unknown] ?? null,
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges: mergesOf(tokens, scores, isMergeable),
    },
  };
}

/** Pairs of pieces whose joint is a piece, in the order in which sentencepiece would prefer them. */
export function mergesOf(
  tokens: readonly string[],
  scores: readonly number[],
  isMergeable: (id: number) => boolean,
): [string, string][] {
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) if (isMergeable(id) && !ids.has(token)) ids.set(token, id);
  const byScore = [...ids.values()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  return byScore.flatMap((id) => pairsOf(tokens[id]!, ids));
}

/** Cut between characters only, the pair with the earliest pieces first. */
function pairsOf(token: string, ids: ReadonlyMap<string, number>): [string, string][] {
  const pairs: { pair: [string, string]; left: number; right: number }[] = [];
  for (let at = 1; at < token.length; at++) {
    const unit = token.charCodeAt(at);
    if (unit >= 0xdc00 && unit <= 0xdfff) continue;
    const pair: [string, string] = [token.slice(0, at), token.slice(at)];
    const [left, right] = [ids.get(pair[0]), ids.get(pair[1])];
    if (left !== undefined && right !== undefined) pairs.push({ pair, left, right });
  }
  return pairs.sort((a, b) => a.left - b.left || a.right - b.right).map(({ pair }) => pair);
}
