// Text → the ids an encoder reads: those of the text between its first and last special token. The CPU pool's worker
// holds one per model. What must stay true: text never becomes a special token.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PlainTokenizer, specialTokensOf, type TokenizerJson } from './plain-tokenizer.ts';

/** BERT's names of the tokens around every text. */
const BEGIN = '[CLS]';
const END = '[SEP]';
/** More characters than this per token that fits are refused unread: words have at most 100 characters per token. */
const MAX_CHARS_PER_TOKEN = 128;

export class EmbeddingText {
  readonly #plain: PlainTokenizer;
  readonly #begin: number;
  readonly #end: number;

  /** Throws an Error naming the file when tokenizer.json is missing or lacks the special tokens. */
  constructor(directory: string) {
    const file = join(directory, 'tokenizer.json');
    const json = JSON.parse(readFileSync(file, 'utf8')) as TokenizerJson;
    const id = (token: string): number => {
      const found = json.added_tokens?.find(({ content }) => content === token)?.id;
      if (found === undefined) throw new Error(`${file}: there is no token ${token}`);
      return found;
    };
    this.#begin = id(BEGIN);
    this.#end = id(END);
    this.#plain = new PlainTokenizer(json, {}, specialTokensOf(json), ['WordPiece']);
  }

  /** The ids with both special tokens, or how much too long the text is. */
  encode(text: string, maxTokens: number): Int32Array | { tooLong: string } {
    const maxChars = maxTokens * MAX_CHARS_PER_TOKEN;
    if (text.length > maxChars) return { tooLong: `has ${text.length} characters` };
    const ids = this.#plain.encode(text, 'first');
    if (ids.length + 2 > maxTokens) return { tooLong: `has ${ids.length + 2} tokens` };
    return Int32Array.of(this.#begin, ...ids, this.#end);
  }

  /** Ids from a client as `encode` would give them; those that already have both special tokens stay as they are. */
  complete(ids: readonly number[], maxTokens: number): Int32Array | { tooLong: string } {
    const isComplete = ids.length >= 2 && ids[0] === this.#begin && ids.at(-1) === this.#end;
    const length = ids.length + (isComplete ? 0 : 2);
    if (length > maxTokens) return { tooLong: `has ${length} tokens` };
    return isComplete ? Int32Array.from(ids) : Int32Array.of(this.#begin, ...ids, this.#end);
  }
}
