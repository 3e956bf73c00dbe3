// A history in pieces that fit a frame: a connection that had to take a long conversation in one would be cut off as a
// slow reader. Used by the registry for History.
import { Limits } from '../../protocol/constants.ts';
import type { ChatMessage } from '../../protocol/messages.ts';

export interface HistoryPage {
  messages: ChatMessage[];
  /** Number of the first message behind the page; null at the end. */
  next: number | null;
}

/**
 * The messages from number `start` on: at most `count`, and no more than the limits of a page allow, but at least one
 * while there are any. A start behind the last one gives an empty page.
 */
export function historyPage(messages: readonly ChatMessage[], start = 0, count = Infinity): HistoryPage {
  const most = Math.min(messages.length, start + Math.min(count, Limits.historyPageMessages));
  let end = start;
  let bytes = 0;
  while (end < most) {
    bytes += textBytes(messages[end]!);
    if (bytes > Limits.historyPageBytes && end > start) break;
    end++;
  }
  return { messages: messages.slice(start, end), next: end < messages.length ? end : null };
}

function textBytes({ content, name = '', toolCalls = [] }: ChatMessage): number {
  const calls = toolCalls.reduce((sum, call) => sum + Buffer.byteLength(call.name + call.arguments), 0);
  return Buffer.byteLength(content) + Buffer.byteLength(name) + calls;
}
