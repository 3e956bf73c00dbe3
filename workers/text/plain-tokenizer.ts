// Text → token ids without special tokens: the one door to @huggingface/tokenizers. prompt.ts calls it for the
// pieces between special tokens, TextModel.encode for caller text. What must stay true: the ids of added tokens never
// come out, and the time is linear in the length of the text.
import { Tokenizer } from '@huggingface/tokenizers';
import { SpecialTokens, type SpecialToken } from './special-tokens.ts';

/** Where a piece of text stands: some tokenizers put a space before the first piece, some before every piece. */
export type Place = 'first' | 'section' | 'inner';

/** What is used of the library's Tokenizer; its own type declarations do not resolve under nodenext. */
interface LibraryTokenizer {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  readonly model: { readonly unk_token?: string | null } | null;
}

function open(json: object, config: object): LibraryTokenizer {
  return new Tokenizer(json, config) as LibraryTokenizer;
}

/** Text → ids, with no way to a special id. */
export interface PlainEncoder {
  encode(text: string, place: Place): number[];
  /** True when the tokenizer adds a space in front of a piece at this place. */
  addsPrefixSpace(place: Place): boolean;
}

/** The parts of tokenizer.json that are read here; the rest passes through to the library. */
export interface TokenizerJson {
  added_tokens?: {
    id: number;
    content: string;
    special?: boolean;
    lstrip?: boolean;
    rstrip?: boolean;
    normalized?: boolean;
  }[];
  normalizer?: Component | null;
  pre_tokenizer?: Component | null;
  decoder?: Component | null;
  post_processor?: unknown;
  model: { type?: string; vocab: Record<string, number> | [string, number][]; unk_token?: string | null };
}

/** A normalizer, pre-tokenizer or decoder; sequences nest. */
export interface Component {
  type: string;
  normalizers?: Component[];
  pretokenizers?: Component[];
  decoders?: Component[];
  add_prefix_space?: boolean;
  prepend_scheme?: string;
  [option: string]: unknown;
}

/** Kinds of tokenizer models whose ids can be turned back into the bytes of a text. */
const GENERATIVE_TYPES = ['BPE', 'Unigram'];
/** Pieces longer than this are cut, at a space if there is one; see the README for what that costs. */
const PIECE_CHARS = 8192;
/** How far back from the cut a good place is looked for. */
const SEARCH_CHARS = 2048;

/** Added tokens of white space only are spelling, not control: callers' text may become them. */
function isSpelling(token: { content: string; special?: boolean }): boolean {
  return token.special !== true && /^[\s\u2581]+$/u.test(token.content);
}

/** The tokens that callers must not be able to write. */
export function specialTokensOf(json: TokenizerJson): SpecialTokens {
  const guarded = (json.added_tokens ?? []).filter((token) => !isSpelling(token));
  return new SpecialTokens(
    guarded.map((token): SpecialToken => ({
      id: token.id,
      content: token.content,
      isSpecial: token.special === true,
      lstrip: token.lstrip === true,
      rstrip: token.rstrip === true,
    })),
  );
}

function withoutPrefix(component: Component | null | undefined): Component | null {
  if (component === null || component === undefined || component.type === 'Prepend') return null;
  const inner = (list: Component[] | undefined): Component[] | undefined =>
    list?.map(withoutPrefix).filter((one): one is Component => one !== null);
  const copy: Component = { ...component };
  if (copy.normalizers !== undefined) copy.normalizers = inner(copy.normalizers) ?? [];
  if (copy.pretokenizers !== undefined) copy.pretokenizers = inner(copy.pretokenizers) ?? [];
  if (copy.type === 'Metaspace') copy.prepend_scheme = 'never';
  if (copy.add_prefix_space === true) copy.add_prefix_space = false;
  return copy;
}

export class PlainTokenizer implements PlainEncoder {
  /** Encodes a piece as the tokenizer's file says, prefix space included. */
  readonly #whole: LibraryTokenizer;
  /** Encodes a continuation; the same object where the file adds no prefix. */
  readonly #inner: LibraryTokenizer;
  readonly #specials: SpecialTokens;
  readonly #prefix: 'never' | 'first' | 'always';

  /** Throws an Error for a model of a kind that is not among `types`. */
  constructor(
    json: TokenizerJson,
    config: Record<string, unknown>,
    specials: SpecialTokens,
    types: readonly string[] = GENERATIVE_TYPES,
  ) {
    const type = json.model.type ?? 'BPE';
    if (!types.includes(type)) throw new Error(`tokenizer model ${type} is not supported`);
    const plain = { ...json, added_tokens: (json.added_tokens ?? []).filter(isSpelling), post_processor: null };
    const bare = {
      ...plain,
      normalizer: withoutPrefix(json.normalizer),
      pre_tokenizer: withoutPrefix(json.pre_tokenizer),
    };
    this.#specials = specials;
    this.#whole = open(plain, config);
    const hasPrefix =
      JSON.stringify([bare.normalizer, bare.pre_tokenizer]) !==
      JSON.stringify([json.normalizer ?? null, json.pre_tokenizer ?? null]);
    const writesPrefix = hasPrefix && writesSpaceFirst(json);
    const isFirstOnly = JSON.stringify(json.pre_tokenizer ?? null).includes('"prepend_scheme":"first"');
    this.#prefix = !writesPrefix ? 'never' : isFirstOnly ? 'first' : 'always';
    this.#inner = this.#prefix === 'never' ? this.#whole : open(bare, config);
  }

  addsPrefixSpace(place: Place): boolean {
    return place === 'first' ? this.#prefix !== 'never' : place === 'section' && this.#prefix === 'always';
  }

  encode(text: string, place: Place): number[] {
    if (text === '') return [];
    if (text.length <= PIECE_CHARS) return this.#encodePiece(text, place);
    const ids: number[] = [];
    for (let from = 0; from < text.length;) {
      const end = pieceEnd(text, from);
      for (const id of this.#encodePiece(text.slice(from, end), from === 0 ? place : 'inner')) ids.push(id);
      from = end;
    }
    return ids;
  }

  #encodePiece(text: string, place: Place): number[] {
    const tokenizer = this.addsPrefixSpace(place) ? this.#whole : this.#inner;
    const ids = tokenizer.encode(text, { add_special_tokens: false }).ids;
    // A vocabulary may hold a special token as an ordinary piece too (Unigram models do). Spell such a token out.
    // An id is undefined where the vocabulary has neither the character nor an unknown-token.
    if (ids.every((id) => id !== undefined && !this.#isForbidden(id))) return ids as number[];
    return ids.flatMap((id) => (id === undefined ? [] : this.#isForbidden(id) ? this.#spellOut(id) : [id]));
  }

  #spellOut(id: number): number[] {
    const ids: number[] = [];
    for (const character of this.#specials.byId.get(id)?.content ?? '') {
      for (const one of this.#inner.encode(character, { add_special_tokens: false }).ids) {
        if (one !== undefined && !this.#isForbidden(one)) ids.push(one);
      }
    }
    return ids;
  }

  #isForbidden(id: number): boolean {
    const token = this.#specials.byId.get(id);
    // The unknown-token id stands for a character the vocabulary lacks: that is no control token.
    return token !== undefined && token.content !== this.#whole.model?.unk_token;
  }
}

function writesSpaceFirst(json: TokenizerJson): boolean {
  const text = JSON.stringify([json.normalizer ?? null, json.pre_tokenizer ?? null]);
  if (text.includes('"type":"Prepend"') || text.includes('"add_prefix_space":true')) return true;
  return text.includes('"type":"Metaspace"') && !text.includes('"prepend_scheme":"never"');
}

/** End of the piece that begins at `from`: before a lone space if possible, else at any whole character. */
function pieceEnd(text: string, from: number): number {
  const limit = from + PIECE_CHARS;
  if (limit >= text.length) return text.length;
  // Every known pre-tokenizer splits between a word and the single space before the next word, so a cut there
  // changes no id.
  for (let i = limit; i > limit - SEARCH_CHARS; i--) {
    if (text[i] === ' ' && isWordUnit(text.charCodeAt(i - 1)) && isWordUnit(text.charCodeAt(i + 1))) return i;
  }
  const unit = text.charCodeAt(limit);
  return unit >= 0xdc00 && unit <= 0xdfff ? limit - 1 : limit;
}

function isWordUnit(unit: number): boolean {
  return (unit >= 0x30 && unit <= 0x39) || (unit >= 0x41 && unit <= 0x5a) || (unit >= 0x61 && unit <= 0x7a);
}
