// The added tokens of a tokenizer and the rule that caller text never becomes one of them.
// chat-template.ts guards every caller string before rendering, prompt.ts cuts the rendered text at the tokens that
// are left. What must stay true: after guard(), no special token can be found inside a caller string, nor across
// the joint of a caller string with whatever a template puts beside it.

export interface SpecialToken {
  id: number;
  content: string;
  /** Hidden from answers; an added token that is not special (like `<think>`) is shown as its text. */
  isSpecial: boolean;
  /** Swallows white space before / after it, as the tokenizer's file orders. */
  lstrip: boolean;
  rstrip: boolean;
}

/** Where a special token stands in a text: [start, end) in UTF-16 units. */
export interface Mark {
  start: number;
  end: number;
  id: number;
}

/** Text with its special tokens spelled out, and their places. Free of guard characters. */
export interface MarkedText {
  text: string;
  marks: Mark[];
}

/** Breaks a special token up. Both are Unicode noncharacters, taken out of caller text beforehand. */
const BREAK = '\uFDD0';
/** Stands after a one-character special token in caller text, which cannot be broken up. */
const LITERAL = '\uFDD1';
const guardCharacters = /[\uFDD0\uFDD1]/g;

function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}

function classEscape(character: string): string {
  return character === '-' ? '\\-' : escapePattern(character);
}

export class SpecialTokens {
  readonly list: readonly SpecialToken[];
  readonly byId: ReadonlyMap<number, SpecialToken>;
  readonly #byContent = new Map<string, SpecialToken>();
  readonly #prefixes = new Set<string>();
  readonly #suffixes = new Set<string>();
  readonly #longest: number;
  /** Finds tokens in rendered text, the longest first. Null without tokens. */
  readonly #split: RegExp | null;
  /** Matches the first character of each occurrence in caller text, overlapping ones too. */
  readonly #occurrence: RegExp | null;

  constructor(list: readonly SpecialToken[]) {
    this.list = list.filter((token) => token.content !== '').sort((a, b) => b.content.length - a.content.length);
    this.byId = new Map(this.list.map((token) => [token.id, token]));
    for (const token of this.list) {
      if (!this.#byContent.has(token.content)) this.#byContent.set(token.content, token);
      for (let i = 1; i < token.content.length; i++) {
        this.#prefixes.add(token.content.slice(0, i));
        this.#suffixes.add(token.content.slice(i));
      }
    }
    this.#longest = this.list[0]?.content.length ?? 0;
    const patterns = this.list.map(({ content }) =>
      [...content].length === 1 ? `${escapePattern(content)}(?!${LITERAL})` : escapePattern(content),
    );
    this.#split = patterns.length === 0 ? null : new RegExp(patterns.join('|'), 'g');
    // A class of the first characters lets the regex skip ordinary text without trying hundreds of alternatives.
    const firsts = new Set(this.list.map(({ content }) => classEscape([...content][0] ?? '')));
    this.#occurrence =
      patterns.length === 0 ? null : new RegExp(`(?=[${[...firsts].join('')}])(?=${patterns.join('|')})[^]`, 'gu');
  }

  /** Makes a caller's text safe to be put into a template. Removes U+FDD0 and U+FDD1, which no text needs. */
  guard(caller: string): string {
    const text = caller.replace(guardCharacters, '');
    if (this.#occurrence === null || text === '') return text;
    const broken = text.replace(this.#occurrence, (first: string) =>
      this.#byContent.has(first) ? first + LITERAL + BREAK : first + BREAK,
    );
    return this.#guardEdges(broken);
  }

  /** Cuts rendered text at its special tokens and removes the guards. */
  mark(rendered: string): MarkedText {
    const marks: Mark[] = [];
    if (this.#split === null) return { text: rendered.replace(guardCharacters, ''), marks };
    let text = '';
    let from = 0;
    let isTrimming = false;
    const appendPlain = (end: number, trimEnd: boolean): void => {
      let piece = rendered.slice(from, end).replace(guardCharacters, '');
      if (isTrimming) piece = piece.trimStart();
      if (trimEnd) piece = piece.trimEnd();
      text += piece;
    };
    for (const match of rendered.matchAll(this.#split)) {
      const token = this.#byContent.get(match[0]);
      if (token === undefined) continue;
      appendPlain(match.index, token.lstrip);
      marks.push({ start: text.length, end: text.length + token.content.length, id: token.id });
      text += token.content;
      from = match.index + token.content.length;
      isTrimming = token.rstrip;
    }
    appendPlain(rendered.length, false);
    return { text, marks };
  }

  /**
   * A token could also grow across a joint: "<|im_" beside "end|>". A break goes wherever the text ends like the
   * beginning of a token, begins like the end of one, or is a piece out of the middle. White space at the edges is
   * looked through, since templates trim.
   */
  #guardEdges(text: string): string {
    const end = text.trimEnd().length;
    const start = text.length - text.trimStart().length;
    if (end <= start) return text;
    const core = text.slice(start, end);
    const isInner = core.length < this.#longest && this.list.some(({ content }) => content.includes(core));
    const breakEnd = isInner || this.#endsLikeToken(core) || this.#endsLikeToken(text);
    const breakStart = isInner || this.#startsLikeToken(core) || this.#startsLikeToken(text);
    if (!breakEnd && !breakStart) return text;
    const before = text.slice(0, start);
    const after = text.slice(end);
    const open = breakStart ? (before === '' ? BREAK : BREAK + before + BREAK) : before;
    const close = breakEnd ? (after === '' ? BREAK : BREAK + after + BREAK) : after;
    return open + core + close;
  }

  #endsLikeToken(text: string): boolean {
    for (let n = Math.min(this.#longest - 1, text.length); n > 0; n--) {
      if (this.#prefixes.has(text.slice(-n))) return true;
    }
    return false;
  }

  #startsLikeToken(text: string): boolean {
    for (let n = Math.min(this.#longest - 1, text.length); n > 0; n--) {
      if (this.#suffixes.has(text.slice(0, n))) return true;
    }
    return false;
  }
}
