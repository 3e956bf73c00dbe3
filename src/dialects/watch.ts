// What the HTTP dialects share in following a response: waiting for its end in one piece, and when small events may be
// collected.
import type { Exchange } from '../http/exchange.ts';
import type { EndEvent } from '../responses/response-log.ts';
import type { Responses } from '../responses/registry.ts';
import type { Response } from '../responses/response.ts';

/** From this many answers at once small events are collected; below, every step is written. */
const BUSY_RESPONSES = 4;

/** Small events may be collected now: the cores are short, and the engine has not collected them already. */
export function collects(responses: Responses): boolean {
  return responses.active >= BUSY_RESPONSES && !responses.isCollected;
}

/** The end of the response, read by this client until then; when it leaves, it counts as a reader no more. */
export async function watchToEnd(exchange: Exchange, response: Response): Promise<EndEvent> {
  const watcher = { notify: () => {} };
  response.subscribe(watcher);
  exchange.onGone(() => response.unsubscribe(watcher));
  const end = await response.ended;
  response.unsubscribe(watcher);
  return end;
}
