// Text of an answer as its tokens come, for libraries that only turn lists of ids into text. Used by the wrappers.

/** A token may end inside a character; what would be shown as this is held back until the rest has come. */
const BROKEN = '\ufffd';
/** Tokens that are decoded again for context; a character never needs as many. */
const MAX_HELD = 8;

export class IncrementalText<Id> {
  readonly #decode: (ids: Id[]) => string;
  #held: Id[] = [];

  constructor(decode: (ids: Id[]) => string) {
    this.#decode = decode;
  }

  /** New text, '' while a character is incomplete. */
  push(id: Id): string {
    this.#held.push(id);
    const text = this.#decode(this.#held);
    if (text.endsWith(BROKEN) && this.#held.length < MAX_HELD) return '';
    this.#held = [];
    return text;
  }
}
