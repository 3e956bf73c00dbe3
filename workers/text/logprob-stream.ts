// Which tokens' log-probabilities belong to which piece of an answer's text. answer-stream.ts tells it of every token, of
// the text that became certain, and of the text that is shown; what stop strings cut off and what became a tool call is
// passed over. What must stay true: the bytes of the tokens let out, joined, are the bytes of the text that was shown (as
// far as that is valid UTF-8); a token that was cut is let out with the bytes that are left of it. Only made on request.
import type { TokenLogprob } from '../../protocol/messages.ts';

/** A token some of whose bytes are not decided yet. */
interface Pending {
  entry: TokenLogprob;
  /** Bytes of shown or hidden text it stands for; more than its own where these are no valid UTF-8. */
  size: number;
  /** Leading bytes that are decided. */
  taken: number;
  /** Of these, the ones that were shown. */
  kept: number[];
}

/** Plain data, with the sequence on its way between threads. */
export interface LogprobState {
  pending: Pending[];
  text: string;
  start: number;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The token as text; bytes that are no whole characters as \xNN, as OpenAI writes them. */
export function tokenLabel(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
  }
}

export class LogprobStream {
  readonly #pending: Pending[];
  /** Certain text that is neither shown nor hidden yet, and its offset in all text. */
  #text: string;
  #start: number;

  constructor(state?: LogprobState) {
    this.#pending = state?.pending.map((pending) => ({ ...pending, kept: [...pending.kept] })) ?? [];
    this.#text = state?.text ?? '';
    this.#start = state?.start ?? 0;
  }

  /** A sampled token that stands for bytes; others have no part in the text. */
  add(entry: TokenLogprob): void {
    const size = entry[2]?.length ?? 0;
    if (size > 0) this.#pending.push({ entry, size, taken: 0, kept: [] });
  }

  /** Text became certain, decoded from `numBytes` bytes of the tokens so far. */
  append(text: string, numBytes: number): void {
    this.#text += text;
    const difference = Buffer.byteLength(text) - numBytes;
    // Less text than bytes: the answer's first space is not shown. More: U+FFFD stands for fewer bytes than its own.
    const last = this.#pending.at(-1);
    if (difference < 0) this.#take(-difference, false);
    else if (last) last.size += difference;
  }

  /** Text at this offset is shown; what was before it and not shown is hidden. Returns the tokens decided by that. */
  show(offset: number, text: string): TokenLogprob[] {
    this.#hideTo(offset);
    this.#take(Buffer.byteLength(text), true);
    this.#text = this.#text.slice(text.length);
    this.#start += text.length;
    return this.#decided();
  }

  /** Text before this offset that was not shown is hidden. */
  hideTo(offset: number): TokenLogprob[] {
    this.#hideTo(offset);
    return this.#decided();
  }

  /** Nothing more is shown. */
  finish(): TokenLogprob[] {
    this.#text = '';
    this.#take(Infinity, false);
    return this.#decided();
  }

  /** Offset behind the text shown or hidden so far. */
  get offset(): number {
    return this.#start;
  }

  snapshot(): LogprobState {
    return { pending: this.#pending, text: this.#text, start: this.#start };
  }

  #hideTo(offset: number): void {
    const length = offset - this.#start;
    if (length <= 0) return;
    this.#take(Buffer.byteLength(this.#text.slice(0, length)), false);
    this.#text = this.#text.slice(length);
    this.#start = offset;
  }

  #take(numBytes: number, isShown: boolean): void {
    let left = numBytes;
    for (const pending of this.#pending) {
      if (left <= 0) return;
      const count = Math.min(left, pending.size - pending.taken);
      if (isShown) pending.kept.push(...(pending.entry[2] ?? []).slice(pending.taken, pending.taken + count));
      pending.taken += count;
      left -= count;
    }
  }

  #decided(): TokenLogprob[] {
    const entries: TokenLogprob[] = [];
    while (this.#pending.length > 0 && this.#pending[0]!.taken === this.#pending[0]!.size) {
      const { entry, kept } = this.#pending.shift()!;
      const [, logprob, bytes, top] = entry;
      if (kept.length === bytes?.length) entries.push(entry);
      else if (kept.length > 0) entries.push([tokenLabel(Uint8Array.from(kept)), logprob, kept, top]);
    }
    return entries;
  }
}
