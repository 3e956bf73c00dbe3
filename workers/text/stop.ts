// Stop strings in a stream of text pieces. Used by answer-stream.ts between detokeniser and tool calls. What must
// stay true: no character of a stop string is let through, wherever the pieces are cut, and no more is held back
// than the longest end that could become a stop.

export interface StopState {
  /** Text not let through yet: the beginning of a stop string. */
  held: string;
  isStopped: boolean;
}

export class StopMatcher {
  readonly #stops: readonly string[];
  #held: string;
  #isStopped: boolean;

  constructor(stops: readonly string[], state?: StopState) {
    this.#stops = stops.filter((stop) => stop !== '');
    this.#held = state?.held ?? '';
    this.#isStopped = state?.isStopped ?? false;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Text that can be shown now. After a stop string was completed, isStopped is true and all further text is ''. */
  push(piece: string): string {
    if (this.#isStopped) return '';
    if (this.#stops.length === 0 || piece === '') return piece;
    const text = this.#held + piece;
    const start = this.#find(text);
    if (start >= 0) {
      this.#isStopped = true;
      this.#held = '';
      return text.slice(0, start);
    }
    const end = text.length - this.#heldLength(text);
    this.#held = text.slice(end);
    return text.slice(0, end);
  }

  /** Text held back when the answer ended without a stop string. */
  finish(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }

  snapshot(): StopState {
    return { held: this.#held, isStopped: this.#isStopped };
  }

  /**
   * Where the text ends: at the stop string that is complete first, and of those the longest. By its end and not its
   * beginning, since that is the one a stream cut into single characters would meet.
   */
  #find(text: string): number {
    let bestEnd = Infinity;
    let bestStart = -1;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (end < bestEnd || (end === bestEnd && start < bestStart)) {
        bestEnd = end;
        bestStart = start;
      }
    }
    return bestStart;
  }

  #heldLength(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) longest = Math.max(longest, partialEnd(text, stop));
    return longest;
  }
}

/** Length of the longest end of `text` that is a beginning of `word`, but not all of it. */
export function partialEnd(text: string, word: string): number {
  const first = word[0];
  if (first === undefined) return 0;
  let at = text.indexOf(first, Math.max(0, text.length - word.length + 1));
  while (at >= 0) {
    if (word.startsWith(text.slice(at))) return text.length - at;
    at = text.indexOf(first, at + 1);
  }
  return 0;
}
