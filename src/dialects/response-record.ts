// What the Responses API keeps of a request beside its response's log: the fields it gives back, and the conversation
// to continue from. Lives exactly as long as the response can be read, and its memory is counted there. Responses made
// by other dialects have no record: their conversation is that of their session, or their request's own.
import { randomBytes } from 'node:crypto';
import type { Engine } from '../engine/types.ts';
import type { Response } from '../responses/response.ts';
import type { Sessions } from '../sessions/registry.ts';
import { toItems, type Item } from './response-items.ts';
import type { ResponseRequest } from './response-request.ts';

/** The KV memory of a chain of responses, known to the engine by name as long as one of them can be continued. */
export class Conversation {
  readonly name = `conv_${randomBytes(12).toString('hex')}`;
  readonly #engine: Engine;
  #numHolders = 0;
  /** The newest response of the chain has a continuation; further ones from there are forks with a name of their own. */
  newest: Response | null = null;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  hold(): void {
    this.#numHolders++;
  }

  /** The last to let go makes the engine forget. */
  release(): void {
    if (--this.#numHolders === 0) this.#engine.forget(this.name);
  }
}

export interface ResponseRecord {
  request: Omit<ResponseRequest, 'input'>;
  /** Everything the answer was made from, oldest first: earlier turns, then this request's input. */
  items: readonly Item[];
  /** Null when it is not stored, and so cannot be continued. */
  conversation: Conversation | null;
}

export const records = new WeakMap<Response, ResponseRecord>();

/** Everything the response was made from, whoever made it, oldest first. Throws what `Sessions.inputOf` throws. */
export function inputItems(sessions: Sessions, response: Response): readonly Item[] {
  return records.get(response)?.items ?? toItems(sessions.inputOf(response), response.id.replace(/^resp_/, ''));
}
