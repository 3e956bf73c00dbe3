// A whole history from its pages. Used by session.ts, for whoever asks and when a session opens again.
import { ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type { ChatMessage, ServerMessage } from '../protocol/messages.ts';

/**
 * Asks `page` for one page after the other, each from a number of a message on. A session that was made again under
 * another id meanwhile is read from its beginning. Rejects with what `page` rejects with.
 */
export async function readHistory(page: (start: number) => Promise<ServerMessage>): Promise<ChatMessage[]> {
  let messages: ChatMessage[] = [];
  let session: string | null = null;
  let start = 0;
  for (;;) {
    const answer = await page(start);
    if (answer[0] !== Op.SessionHistory) {
      throw new ServiceError('internal', `the server answered with op ${answer[0]}`);
    }
    const [, , , from, part, next] = answer;
    const isAnother = session !== null && session !== from && start > 0;
    session = from;
    if (isAnother) {
      messages = [];
      start = 0;
      continue;
    }
    messages = messages.concat(part);
    // A page that does not lead on is the last one, whatever it says.
    if (typeof next !== 'number' || next <= start) return messages;
    start = next;
  }
}
