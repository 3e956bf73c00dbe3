// What can be done with a response by its id: GET (also as a stream from any event on), DELETE, cancel, its input items;
// and counting the tokens of a request. Works for responses of every dialect, since all are renderings of one log.
import { ServiceError } from '../../protocol/errors.ts';
import { oneOf, refuse } from '../../protocol/fields.ts';
import { parseJsonObject, readBody } from '../http/body.ts';
import type { Exchange } from '../http/exchange.ts';
import type { Response } from '../responses/response.ts';
import type { Services } from '../services.ts';
import { unsupported } from './fields.ts';
import { lastNumber, undecidedMs } from './response-events.ts';
import { responseObject } from './response-object.ts';
import { inputItems } from './response-record.ts';
import { parseCountRequest, parseQuery, queryBoolean, queryInteger } from './response-request.ts';
import { plan, streamEvents } from './responses.ts';

const PAGE_ITEMS = 20;
const MAX_PAGE_ITEMS = 100;

export function getResponse(exchange: Exchange, services: Services, id: string): void {
  const response = find(exchange, services, id);
  const query = parseQuery(exchange.query, {
    stream: queryBoolean,
    starting_after: queryInteger(0, Number.MAX_SAFE_INTEGER),
    include_obfuscation: (value, param) => {
      if (queryBoolean(value, param)) unsupported(param, 'supports only false');
    },
  });
  if (!query.stream && query.starting_after !== undefined) refuse('starting_after', 'absent unless stream is true');
  if (!query.stream || exchange.method === 'HEAD') {
    exchange.sendJson(200, responseObject(response));
    return;
  }
  const after = query.starting_after ?? -1;
  const last = lastNumber(response);
  if (after > last) refuse('starting_after', `at most ${last}, the number of the last event so far`);
  const headWaitMs = undecidedMs(response);
  streamEvents(exchange, services, response, { startingAfter: after, headWaitMs, failsWithStatus: false });
}

export function deleteResponse(exchange: Exchange, services: Services, id: string): void {
  const response = find(exchange, services, id);
  for (const choice of response.choices) services.responses.remove(choice);
  exchange.sendJson(200, { id: response.id, object: 'response', deleted: true });
}

/** Answers when the response has ended, which takes a step or a prefill chunk. Ended ones are answered as they are. */
export async function cancelResponse(exchange: Exchange, services: Services, id: string): Promise<void> {
  const response = find(exchange, services, id);
  for (const choice of response.choices) choice.cancel();
  await Promise.all(response.choices.map((choice) => choice.ended));
  exchange.sendJson(200, responseObject(response));
}

/** The items the answer was made from, in pages; newest first unless asked otherwise. */
export function listInputItems(exchange: Exchange, services: Services, id: string): void {
  const response = find(exchange, services, id);
  const query = parseQuery(exchange.query, {
    limit: queryInteger(1, MAX_PAGE_ITEMS),
    order: oneOf(['asc', 'desc'] as const),
    after: (value) => value,
  });
  const oldestFirst = inputItems(services.sessions, response);
  const items = query.order === 'asc' ? oldestFirst : oldestFirst.toReversed();
  let from = 0;
  if (query.after !== undefined) {
    from = items.findIndex((item) => item.id === query.after) + 1;
    if (from === 0) refuse('after', 'the id of an input item of this response');
  }
  const data = items.slice(from, from + (query.limit ?? PAGE_ITEMS));
  exchange.sendJson(200, {
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: from + data.length < items.length,
  });
}

export async function countInputTokens(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  const request = parseCountRequest(parseJsonObject(await readBody(exchange)));
  const { engine, prompt } = plan(services, caller, request);
  if (prompt.messages.length === 0) {
    throw new ServiceError('invalid_request', 'input is missing.', { param: 'input' });
  }
  const inputTokens = await engine.countTokens(prompt);
  exchange.sendJson(200, { object: 'response.input_tokens', input_tokens: inputTokens });
}

/** The response of this id; the id of a chat completion stands for its response. Throws `unknown_response`. */
function find(exchange: Exchange, services: Services, id: string): Response {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  const response = services.responses.get(id.replace(/^chatcmpl-/, 'resp_'), caller);
  if (response === undefined) {
    throw new ServiceError('unknown_response', `Response with id '${id.slice(0, 200)}' not found.`);
  }
  return response;
}
