// One finished turn of a session and its tokens. Turns never change once recorded, so forks share them. The tokens
// of a turn (whole prompt and answer) nearly always continue those of the turn before; only the new ones are stored.
import type { ChatMessage } from '../../protocol/messages.ts';

export interface Turn {
  /** Id of the response that made it; '' in a turn that was given. */
  readonly response: string;
  /** What the user (or the tools) said. */
  readonly messages: readonly ChatMessage[];
  readonly answer: ChatMessage;
  /** The first `shared` tokens are those of the turn before, `own` follows. Null: not known (a given message). */
  readonly tokens: { readonly shared: number; readonly own: Int32Array } | null;
}

/** Appends the answer's tokens to the prompt's and stores what the turns before do not have. */
export function turnTokens(before: readonly Turn[], prompt: Int32Array, answer: readonly number[]): Turn['tokens'] {
  const previous = tokensOf(before);
  let shared = 0;
  while (shared < previous.length && shared < prompt.length && previous[shared] === prompt[shared]) shared++;
  const own = new Int32Array(prompt.length - shared + answer.length);
  own.set(prompt.subarray(shared));
  own.set(answer, prompt.length - shared);
  return { shared, own };
}

/** All tokens of the last turn: prompt and answer. Empty when they are not known. */
export function tokensOf(turns: readonly Turn[]): Int32Array {
  const last = turns.at(-1)?.tokens;
  if (last === null || last === undefined) return new Int32Array(0);
  const tokens = new Int32Array(last.shared + last.own.length);
  // Backwards: each turn owns what lies behind its shared part, as far as the turns after it kept it.
  let end = tokens.length;
  for (let index = turns.length - 1; index >= 0 && end > 0; index--) {
    const part = turns[index]!.tokens;
    if (part === null) break;
    if (end > part.shared) {
      tokens.set(part.own.subarray(0, end - part.shared), part.shared);
      end = part.shared;
    }
  }
  return tokens;
}

/** Estimated memory of messages, in bytes. */
export function messageBytes(messages: readonly ChatMessage[]): number {
  let bytes = 0;
  for (const message of messages) {
    bytes += 128 + 2 * message.content.length;
    for (const call of message.toolCalls ?? []) bytes += 128 + 2 * (call.name.length + call.arguments.length);
  }
  return bytes;
}

/** Estimated memory of a turn, in bytes. */
export function turnBytes(turn: Turn): number {
  return messageBytes(turn.messages) + messageBytes([turn.answer]) + 4 * (turn.tokens?.own.length ?? 0);
}

/** An answer without text and without calls. */
export function isSilent(answer: ChatMessage): boolean {
  return answer.content === '' && answer.toolCalls === undefined;
}

/** The text up to `offset` (UTF-16 units), never through a pair. */
export function cutText(text: string, offset: number): string {
  const isInPair = /[\uD800-\uDBFF]/.test(text.charAt(offset - 1)) && /[\uDC00-\uDFFF]/.test(text.charAt(offset));
  return text.slice(0, Math.max(0, isInPair ? offset - 1 : offset));
}

/**
 * The turn with its answer's text up to `offset` (as `cutText` cuts): the same turn when that is all of it, null when nothing is left. The tokens of a cut answer are not known: the next prompt is rendered anew.
 */
export function cutTurn(turn: Turn, offset: number): Turn | null {
  const { content } = turn.answer;
  if (offset >= content.length) return turn;
  const answer = { ...turn.answer, content: cutText(content, offset) };
  return isSilent(answer) ? null : { ...turn, answer, tokens: null };
}
