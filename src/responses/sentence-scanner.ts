// Where sentences end in a text that is still being written. Voice clients speak up to there, so an end is told only
// when no later text can move it, and what was told depends on the text alone, not on how it was cut into pieces:
// a client that resumes goes on with a new scanner fed with what it has. Used by the socket's subscriptions.

/** Marks that end a sentence without a space behind them. */
const FULL_MARKS = '。！？｡؟۔।॥';
/** Marks that end a sentence when white space follows. */
const SPACED_MARKS = '.!?…';
/** What may stand between the mark and the space, and belongs to the sentence. */
const CLOSERS = '"\'”’»)]}*_`」』）】》〉］｝';
/** Words that a full stop shortens; the sentence goes on behind them. Lower case, without their last stop. */
const ABBREVIATIONS = new Set(
  'mr mrs ms dr prof sr jr st mt rev hon gen col capt lt sgt gov sen rep vs e.g i.e cf al dept approx u.s u.k ca bzw z.b d.h p.ex mme mlle'.split(
    ' ',
  ),
);
/** The same, but only before a number: "no" and "fig" are words too. */
const NUMBERED = new Set(['no', 'nos', 'nr', 'fig', 'figs', 'vol', 'ch', 'sec', 'p', 'pp', 'art']);
const UNSPACED_SCRIPTS = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]/u;
/** Marks and brackets alone are no sentence. */
const CONTENT = /[\p{L}\p{N}\p{So}]/u;
/** Longer words are no abbreviations; only so much of the current word is kept. */
const WORD_CHARS = 12;

const isSpace = (character: string): boolean => /\s/u.test(character);

/** A sentence that may have ended. */
interface Pending {
  /** Behind the marks and closers. */
  end: number;
  /** The last mark. */
  mark: string;
  /** Closers stand behind the mark. */
  isClosed: boolean;
  /** White space stands behind that. */
  isSpaced: boolean;
}

export class SentenceScanner {
  /** UTF-16 code units seen. */
  #position = 0;
  /** The word before the current mark. */
  #word = '';
  /** Something to speak stands since the last end. */
  #hasContent = false;
  /** Only a number, or nothing, stands before `#word` on this line: "1." there numbers a list. */
  #isLineStart = true;
  #pending: Pending | null = null;

  /** Takes the next piece of the text; returns the offsets behind the sentences that are now certain to have ended. */
  push(text: string): number[] {
    const ends: number[] = [];
    for (const character of text) {
      const end = this.#decide(character);
      if (end !== null) ends.push(end);
      this.#take(character);
      this.#position += character.length;
    }
    return ends;
  }

  /** What `character` says about the text before it. */
  #decide(character: string): number | null {
    if (character === '\n') {
      const end = this.#pending?.end ?? this.#position;
      return this.#hasContent ? this.#end(end) : null;
    }
    const pending = this.#pending;
    if (pending === null) return null;
    const isMark = FULL_MARKS.includes(character) || SPACED_MARKS.includes(character);
    if (!pending.isSpaced && (isMark || CLOSERS.includes(character))) {
      pending.end = this.#position + character.length;
      if (isMark) pending.mark = character;
      else pending.isClosed = true;
      return null;
    }
    if (FULL_MARKS.includes(pending.mark)) return this.#end(pending.end);
    if (isSpace(character)) return this.#wait(pending);
    if (pending.isSpaced ? this.#goesOn(character, pending) : !this.#isUnspacedEnd(character, pending)) {
      // Without a space the mark stood inside a word or a number: 3.14, e.g, example.com.
      this.#word = pending.isSpaced ? '' : this.#word + pending.mark;
      if (pending.isSpaced) this.#isLineStart = false;
      this.#pending = null;
      return null;
    }
    return this.#end(pending.end);
  }

  /** White space behind the mark: the next character decides, or has nothing left to decide. */
  #wait(pending: Pending): number | null {
    if ('!?'.includes(pending.mark) && !pending.isClosed) return this.#end(pending.end);
    pending.isSpaced = true;
    return null;
  }

  /** Scripts that write no spaces use ! and ? of any width. */
  #isUnspacedEnd(character: string, { mark }: Pending): boolean {
    return '!?'.includes(mark) && UNSPACED_SCRIPTS.test(character);
  }

  /** After a mark and a space: does the sentence go on with `character`? */
  #goesOn(character: string, { mark, isClosed }: Pending): boolean {
    if (/\p{Ll}/u.test(character)) return true;
    if (mark !== '.' || isClosed) return false;
    const word = this.#word;
    const isInitial = /^\p{Lu}$/u.test(word);
    const isListNumber = this.#isLineStart && /^\d{1,3}$/.test(word);
    const isNumbered = NUMBERED.has(word.toLowerCase()) && /\d/.test(character);
    return isInitial || isListNumber || isNumbered || ABBREVIATIONS.has(word.toLowerCase());
  }

  #end(end: number): number {
    this.#pending = null;
    this.#hasContent = false;
    this.#word = '';
    this.#isLineStart = false;
    return end;
  }

  #take(character: string): void {
    if (character === '\n') {
      this.#word = '';
      this.#isLineStart = true;
      return;
    }
    if (isSpace(character)) {
      if (this.#pending === null) {
        if (this.#word !== '') this.#isLineStart = false;
        this.#word = '';
      }
      return;
    }
    const isMark = FULL_MARKS.includes(character) || SPACED_MARKS.includes(character);
    if (isMark && this.#pending === null && this.#hasContent) {
      const end = this.#position + character.length;
      this.#pending = { end, mark: character, isClosed: false, isSpaced: false };
    }
    if (CONTENT.test(character)) this.#hasContent = true;
    if (this.#pending !== null || CLOSERS.includes(character) || '([{«“‘'.includes(character)) return;
    this.#word = (this.#word + character).slice(-WORD_CHARS);
  }
}
