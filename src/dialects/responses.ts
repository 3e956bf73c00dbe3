// POST /v1/responses: a request becomes a response, alone or as the continuation of an earlier one, and is answered as a
// stream, in one piece, or at once (background). Reading, cancelling and deleting are in response-reads.ts.
import { ServiceError } from '../../protocol/errors.ts';
import type { Caller } from '../auth/caller.ts';
import type { Engine } from '../engine/types.ts';
import { parseJsonObject, readBody } from '../http/body.ts';
import type { Exchange } from '../http/exchange.ts';
import { createOnce } from '../http/idempotency.ts';
import { requestHints, type RequestHints } from '../http/request-hints.ts';
import { HEAD_WAIT_MS, LogWriter } from '../http/log-writer.ts';
import { observeWrite } from '../metrics.ts';
import type { Response } from '../responses/response.ts';
import { shuttingDown, type Services } from '../services.ts';
import { cutText } from '../sessions/turn.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import { ResponseEventRenderer } from './response-events.ts';
import { itemBytes, joinItems, outputText, toMessages, type Item } from './response-items.ts';
import { outputItems, responseObject } from './response-object.ts';
import { Conversation, inputItems, records } from './response-record.ts';
import { parseResponseRequest, type ResponseRequest } from './response-request.ts';
import { grammarOf } from './structure.ts';
import { collects, watchToEnd } from './watch.ts';

export async function createResponse(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  const hints = requestHints(exchange, caller);
  if (services.isDraining) throw shuttingDown();
  const body = await readBody(exchange);
  const request = parseResponseRequest(parseJsonObject(body));
  if (exchange.isOver) return;
  const response = createOnce(exchange, services.responses, caller, body, (requestKey) =>
    start(services, caller, request, hints, requestKey),
  );
  if (request.stream) {
    // Whoever may come back for a background response needs its id, whatever becomes of it.
    const headWaitMs = request.background ? 0 : HEAD_WAIT_MS;
    streamEvents(exchange, services, response, { startingAfter: -1, headWaitMs, failsWithStatus: headWaitMs > 0 });
  } else if (request.background) {
    exchange.sendJson(200, responseObject(response));
  } else {
    const end = await watchToEnd(exchange, response);
    if (end.error) throw end.error;
    exchange.sendJson(200, responseObject(response));
  }
}

/** Follows the response from the event after `startingAfter` (-1: from the first). */
export function streamEvents(
  exchange: Exchange,
  services: Services,
  response: Response,
  options: { startingAfter: number; headWaitMs: number; failsWithStatus: boolean },
): void {
  const { startingAfter, headWaitMs, failsWithStatus } = options;
  void new LogWriter({
    exchange,
    tracks: [{ response, renderer: new ResponseEventRenderer(response, startingAfter) }],
    headWaitMs,
    failsWithStatus,
    isBusy: () => collects(services.responses),
    onWritten: (written) => observeWrite(services.metrics, written),
  });
}

/** What a request asks of which engine, and what it continues. */
export interface Plan {
  engine: Engine;
  items: Item[];
  prompt: PromptInput & { kind: 'chat' };
  parent: Response | null;
}

/** Throws `previous_response_not_found`, `session_busy` (it still runs), `invalid_request` and what `find` throws. */
export function plan(services: Services, caller: Caller, request: ResponseRequest): Plan {
  const { previousResponseId: id } = request;
  const parent = id === null ? null : continuable(services, caller, id);
  const engine = services.engines.find(request.model ?? parent?.response.model);
  const earlier = parent === null ? [] : [...parent.items, ...answered(parent.response)];
  const items = joinItems(earlier, request.input);
  return {
    engine,
    items,
    parent: parent?.response ?? null,
    prompt: {
      kind: 'chat',
      messages: toMessages(request.instructions, items),
      tools: request.toolChoice.mode === 'none' ? [] : request.tools,
      history: parent?.response.model === engine.model.id ? historyOf(parent.response) : null,
      truncation: request.truncation === 'auto' ? 'auto' : 'error',
    },
  };
}

function start(
  services: Services,
  caller: Caller,
  request: ResponseRequest,
  hints: RequestHints,
  requestKey: string | undefined,
): Response {
  const { engine, items, prompt, parent } = plan(services, caller, request);
  const { text, tools, strict, toolChoice: choice, isParallel } = request;
  const grammar = grammarOf({ text, tools, strict, choice, isParallel }, 'responses');
  const conversation = request.store ? conversationAfter(parent, engine) : null;
  const response = services.responses.create(engine, caller, {
    requestKey,
    session: null,
    conversation: conversation?.name,
    ...hints,
    tools: prompt.tools,
    grammar,
    sampling: request.sampling,
    logprobs: request.logprobs,
    cancelsUnwatched: !request.background,
    isKept: request.store,
    onForgotten: () => conversation?.release(),
    extraBytes: itemBytes(items),
    prompt,
  });
  if (conversation !== null) {
    conversation.hold();
    conversation.newest = response;
  }
  const { input: _input, ...kept } = request;
  records.set(response, { request: kept, items, conversation });
  return response;
}

/** The first continuation goes on in the place of its parent; later ones are forks and get a place of their own. */
function conversationAfter(parent: Response | null, engine: Engine): Conversation {
  const known = parent === null ? null : (records.get(parent)?.conversation ?? null);
  return known !== null && known.newest === parent && parent?.model === engine.model.id
    ? known
    : new Conversation(engine);
}

/** The response to go on from and what it was made from. One of a session is left as it is: this is a fork of it. */
function continuable(services: Services, caller: Caller, id: string): { response: Response; items: readonly Item[] } {
  const param = 'previous_response_id';
  const response = services.responses.get(id.replace(/^chatcmpl-/, 'resp_'), caller);
  if (response === undefined || records.get(response)?.conversation === null) {
    throw new ServiceError('previous_response_not_found', `Previous response with id '${id}' not found.`, { param });
  }
  if (response.state.kind !== 'ended') {
    throw new ServiceError('session_busy', `Response ${id} is still running; wait for its end or cancel it.`, {
      param,
    });
  }
  if (response.state.end.reason === 'error') {
    throw new ServiceError('invalid_request', `Response ${id} failed; continue from the one before it.`, { param });
  }
  try {
    return { response, items: inputItems(services.sessions, response) };
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    throw new ServiceError('previous_response_not_found', error.message, { param });
  }
}

/**
 * The answer as the conversation goes on from it: calls that were cut off are left out, their arguments are no JSON,
 * and so are its logprobs and the text that the user did not hear.
 */
function answered(response: Response): Item[] {
  const items = outputItems(response).filter((item) => item.type === 'message' || item.status === 'completed');
  let left = response.heardTo ?? Infinity;
  return items.flatMap((item) => {
    if (item.type !== 'message') return item;
    const text = item.content[0]?.text ?? '';
    const heard = cutText(text, left);
    left -= text.length;
    return heard === '' ? [] : { ...item, content: [outputText(heard)] };
  });
}

/** Ids of prompt and answer: the engine reuses their KV memory as far as the new prompt agrees. */
function historyOf(response: Response): number[] | null {
  const prompt = response.promptTokenIds;
  return prompt === null || response.heardTo !== null ? null : [...prompt, ...response.tokenIds];
}
