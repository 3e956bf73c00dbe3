// Token ids → text, character by character: bytes of an unfinished character wait for the next token. Used by
// answer-stream.ts, one per sequence. What must stay true: the texts joined are what TextDecoder makes of all the
// bytes (answer-stream.ts leaves out finish() where an answer is cut off), and the state is plain data, since a
// sequence moves between threads.
import type { TextModel } from './text-model.ts';

export interface DetokenizerState {
  /** Bytes of a character that is not complete: at most three. */
  pending: number[];
  /** No text was made yet. */
  isAtStart: boolean;
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

export class Detokenizer {
  readonly #text: TextModel;
  #pending: number[];
  #isAtStart: boolean;

  constructor(text: TextModel, state?: DetokenizerState) {
    this.#text = text;
    this.#pending = state === undefined ? [] : [...state.pending];
    this.#isAtStart = state?.isAtStart ?? true;
  }

  /** Text that became certain with this token; '' for special tokens and unfinished characters. */
  push(tokenId: number): string {
    if (this.#pending.length === 0) {
      // Nearly every token is whole characters: no bytes are touched.
      const text = this.#text.tokenText(tokenId);
      if (text !== null) return this.#isAtStart ? this.#begin(text) : text;
    }
    const own = this.#text.tokenBytes(tokenId);
    if (own.length === 0) return '';
    const bytes = new Uint8Array(this.#pending.length + own.length);
    bytes.set(this.#pending);
    bytes.set(own, this.#pending.length);
    const end = bytes.length - unfinishedBytes(bytes);
    this.#pending = Array.from(bytes.subarray(end));
    return this.#begin(decoder.decode(bytes.subarray(0, end)));
  }

  /** Bytes of the unfinished character. */
  get numPending(): number {
    return this.#pending.length;
  }

  /** What is left at the end of the answer: '' or U+FFFD for an unfinished character. */
  finish(): string {
    const text = decoder.decode(Uint8Array.from(this.#pending));
    this.#pending = [];
    return this.#begin(text);
  }

  snapshot(): DetokenizerState {
    return { pending: [...this.#pending], isAtStart: this.#isAtStart };
  }

  #begin(text: string): string {
    if (!this.#isAtStart || text === '') return text;
    this.#isAtStart = false;
    return this.#text.dropsFirstSpace && text.startsWith(' ') ? text.slice(1) : text;
  }
}

/**
 * Length of the unfinished but so far valid UTF-8 character at the end, 0 to 3. A lead byte bounds its second byte
 * (no overlong forms, no surrogates, nothing above U+10FFFF): bytes outside are wrong now, not unfinished.
 */
function unfinishedBytes(bytes: Uint8Array): number {
  const last = bytes.length - 1;
  for (let back = 0; back < 3 && back <= last; back++) {
    const byte = bytes[last - back] ?? 0;
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const needed = byte < 0xc2 || byte > 0xf4 ? 0 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    if (needed <= back + 1) return 0;
    if (back > 0) {
      const second = bytes[last - back + 1] ?? 0;
      const low = byte === 0xe0 ? 0xa0 : byte === 0xf0 ? 0x90 : 0x80;
      const high = byte === 0xed ? 0x9f : byte === 0xf4 ? 0x8f : 0xbf;
      if (second < low || second > high) return 0;
    }
    return back + 1;
  }
  return 0;
}
