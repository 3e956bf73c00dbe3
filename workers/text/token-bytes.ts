// Token id → the bytes it stands for, for all ids of a model in one buffer. Read by the detokeniser on every token.
// Knows the two ways vocabularies spell bytes: GPT-2's alphabet (byte-level BPE) and sentencepiece (▁ for a space,
// <0xAB> for a byte that has no token).
import type { Component, TokenizerJson } from './plain-tokenizer.ts';
import type { SpecialTokens } from './special-tokens.ts';

export class TokenBytes {
  readonly numIds: number;
  /** Bytes of the longest token. */
  readonly longest: number;
  readonly #bytes: Uint8Array;
  readonly #starts: Uint32Array;
  /** Text of an id whose bytes are whole characters, null for other ids, undefined while not asked for. */
  readonly #texts: (string | null | undefined)[];

  /** pieces[id]: bytes of a token; a missing entry stands for no bytes. */
  constructor(pieces: readonly (Uint8Array | undefined)[], numIds = pieces.length) {
    this.numIds = numIds;
    this.#starts = new Uint32Array(numIds + 1);
    let total = 0;
    let longest = 0;
    for (let id = 0; id < numIds; id++) {
      const length = pieces[id]?.length ?? 0;
      this.#starts[id] = total;
      total += length;
      longest = Math.max(longest, length);
    }
    this.longest = longest;
    this.#starts[numIds] = total;
    this.#bytes = new Uint8Array(total);
    for (let id = 0; id < numIds; id++) this.#bytes.set(pieces[id] ?? [], this.#starts[id]);
    this.#texts = Array.from<string | null | undefined>({ length: numIds });
  }

  /** Bytes of a token; empty for special tokens and ids outside the vocabulary. A view: do not write. */
  bytesOf(id: number): Uint8Array {
    if (!(id >= 0 && id < this.numIds)) return none;
    return this.#bytes.subarray(this.#starts[id], this.#starts[id + 1]);
  }

  /** Text of the ids [from, to); what is no character becomes U+FFFD. */
  decode(ids: ArrayLike<number>, from = 0, to = ids.length): string {
    let length = 0;
    for (let i = from; i < to; i++) length += this.#lengthOf(ids[i]!);
    const run = new Uint8Array(length);
    let at = 0;
    for (let i = from; i < to; i++) {
      const id = ids[i]!;
      const start = this.#starts[id]!;
      for (let k = 0; k < this.#lengthOf(id); k++) run[at++] = this.#bytes[start + k]!;
    }
    return lenient.decode(run);
  }

  #lengthOf(id: number): number {
    return id >= 0 && id < this.numIds ? this.#starts[id + 1]! - this.#starts[id]! : 0;
  }

  /** The token as text when its bytes are whole characters, else null. */
  textOf(id: number): string | null {
    const known = this.#texts[id];
    if (known !== undefined) return known;
    const bytes = this.bytesOf(id);
    let text: string | null = null;
    try {
      text = strict.decode(bytes);
    } catch {
      // Part of a character: only the detokeniser can tell what it means.
    }
    if (id >= 0 && id < this.numIds) this.#texts[id] = text;
    return text;
  }
}

const none = new Uint8Array(0);
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder('utf-8', { ignoreBOM: true });
const encoder = new TextEncoder();

/** GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order. */
const byteOfLetter: ReadonlyMap<string, number> = (() => {
  const letters = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    letters.set(String.fromCharCode(isPrintable ? byte : next++), byte);
  }
  return letters;
})();

function byteLevelBytes(piece: string): Uint8Array {
  const letters = [...piece];
  const bytes = letters.map((letter) => byteOfLetter.get(letter));
  // A piece outside the alphabet was added by hand and is spelled as it is.
  return bytes.includes(undefined) ? encoder.encode(piece) : Uint8Array.from(bytes as number[]);
}

function sentencepieceBytes(piece: string): Uint8Array {
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece)?.[1];
  return byte === undefined
    ? encoder.encode(piece.replaceAll('\u2581', ' '))
    : Uint8Array.of(Number.parseInt(byte, 16));
}

function hasType(component: Component | null | undefined, type: string): boolean {
  if (component === null || component === undefined) return false;
  const inner = [...(component.decoders ?? []), ...(component.pretokenizers ?? [])];
  return component.type === type || inner.some((one) => hasType(one, type));
}

/** True when a decoder drops the one space an answer begins with (sentencepiece writes it before every first word). */
export function dropsFirstSpace(json: TokenizerJson): boolean {
  return hasType(json.decoder, 'Strip') || hasType(json.decoder, 'Metaspace');
}

/** Reads the vocabulary of a tokenizer.json. shown: special tokens that answers show all the same. */
export function tokenBytesOf(json: TokenizerJson, specials: SpecialTokens, shown: readonly string[] = []): TokenBytes {
  const isByteLevel = hasType(json.decoder, 'ByteLevel') || hasType(json.pre_tokenizer, 'ByteLevel');
  const pieces: (Uint8Array | undefined)[] = [];
  const vocab = Array.isArray(json.model.vocab)
    ? json.model.vocab.map(([piece], id): [string, number] => [piece, id])
    : Object.entries(json.model.vocab);
  let numIds = 0;
  for (const [piece, id] of vocab) {
    pieces[id] = isByteLevel ? byteLevelBytes(piece) : sentencepieceBytes(piece);
    numIds = Math.max(numIds, id + 1);
  }
  for (const token of json.added_tokens ?? []) {
    const isHidden = specials.byId.get(token.id)?.isSpecial === true && !shown.includes(token.content);
    pieces[token.id] = isHidden ? undefined : encoder.encode(token.content.replaceAll('\u2581', ' '));
    numIds = Math.max(numIds, token.id + 1);
  }
  return new TokenBytes(pieces, numIds);
}
