// A response as the Responses API shows it: the `response` object and the items of its output, made from the log
// alone, so that reading later and having watched agree. Also for responses that other dialects began.
import type { Usage } from '../../protocol/messages.ts';
import type { ServiceError } from '../../protocol/errors.ts';
import type { EndEvent } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { tokenObjects, type TokenObject } from './logprobs.ts';
import { outputText, type CallItem, type ItemStatus, type MessageItem, type OutputText } from './response-items.ts';
import { records } from './response-record.ts';

export type ResponseStatus = 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled';

export type OutputItem = MessageItem | CallItem;

/** Ids of items follow from the response's, so that every rendering gives the same. */
export function itemId(kind: 'msg' | 'fc', response: Response, outputIndex: number): string {
  return `${kind}_${response.id.replace(/^resp_/, '')}_${outputIndex}`;
}

export function messageItem(
  response: Response,
  index: number,
  text: string | null,
  status: ItemStatus,
  logprobs: TokenObject[] = [],
): MessageItem {
  const content = text === null ? [] : [outputText(text, logprobs)];
  return { id: itemId('msg', response, index), type: 'message', status, role: 'assistant', content };
}

export function callItem(
  response: Response,
  index: number,
  call: { callId: string; name: string; arguments: string },
  status: ItemStatus,
): CallItem {
  return {
    id: itemId('fc', response, index),
    type: 'function_call',
    status,
    call_id: call.callId,
    name: call.name,
    arguments: call.arguments,
  };
}

/** Output so far. What is still being written is in_progress; what was cut off by the end is incomplete. */
export function outputItems(response: Response): OutputItem[] {
  const items: OutputItem[] = [];
  const calls = new Map<number, CallItem>();
  let message: MessageItem | null = null;
  let end: EndEvent | null = null;
  for (const { event } of response.log.read(0)) {
    switch (event.kind) {
      case 'text': {
        if (message === null) items.push((message = messageItem(response, items.length, '', 'in_progress')));
        const part = message.content[0]! as OutputText;
        part.text += event.text;
        if (event.logprobs !== undefined) part.logprobs.push(...tokenObjects(event.logprobs));
        break;
      }
      case 'toolBegin': {
        if (message !== null) message.status = 'completed';
        message = null;
        const item = callItem(response, items.length, { ...event, arguments: '' }, 'in_progress');
        calls.set(event.index, item);
        items.push(item);
        break;
      }
      case 'toolDelta':
        calls.get(event.index)!.arguments += event.text;
        break;
      case 'toolEnd':
        calls.get(event.index)!.status = 'completed';
        break;
      case 'end':
        end = event;
    }
  }
  if (end !== null) {
    const rest = restStatus(end);
    for (const item of items) if (item.status === 'in_progress') item.status = rest;
  }
  return items;
}

/** How items end that were open when the response ended. */
export function restStatus({ reason }: EndEvent): ItemStatus {
  return reason === 'stop' || reason === 'tool_calls' ? 'completed' : 'incomplete';
}

export function statusOf(response: Response): ResponseStatus {
  const { state } = response;
  if (state.kind !== 'ended') return response.wasAdmitted ? 'in_progress' : 'queued';
  switch (state.end.reason) {
    case 'stop':
    case 'tool_calls':
      return 'completed';
    case 'length':
    case 'content_filter':
      return 'incomplete';
    case 'cancelled':
      return 'cancelled';
    case 'error':
      return 'failed';
  }
}

/** The object as it is now. */
export function responseObject(response: Response) {
  return objectWith(response, statusOf(response), outputItems(response));
}

/** The object as it was when it began, the same whenever it is rendered. */
export function openingObject(response: Response, status: 'queued' | 'in_progress') {
  return objectWith(response, status, []);
}

function objectWith(response: Response, status: ResponseStatus, output: OutputItem[]) {
  const isOver = status !== 'queued' && status !== 'in_progress';
  const end = isOver && response.state.kind === 'ended' ? response.state.end : null;
  const endedAt = response.state.kind === 'ended' ? response.state.sinceMs : 0;
  const request = records.get(response)?.request;
  const { sampling } = response;
  return {
    id: response.id,
    object: 'response',
    created_at: Math.floor(response.createdAtMs / 1000),
    completed_at: status === 'completed' ? Math.floor(endedAt / 1000) : null,
    status,
    background: request?.background ?? false,
    error: end?.error ? { code: errorCode(end.error), message: end.error.message } : null,
    incomplete_details: incompleteDetails(status, end),
    instructions: request?.instructions ?? null,
    max_output_tokens: sampling.maxTokens,
    max_tool_calls: null,
    model: response.model,
    output,
    parallel_tool_calls: request?.isParallel ?? true,
    previous_response_id: request?.previousResponseId ?? null,
    prompt_cache_key: request?.promptCacheKey ?? null,
    reasoning: { effort: null, summary: null },
    safety_identifier: request?.safetyIdentifier ?? null,
    service_tier: 'default',
    store: request?.store ?? true,
    temperature: sampling.temperature,
    text: { format: request?.text.given ?? { type: 'text' }, verbosity: 'medium' },
    tool_choice: request?.toolChoice.given ?? 'auto',
    tools: (request?.tools ?? []).map(({ name, description, parameters }) => ({
      type: 'function',
      name,
      description: description ?? null,
      parameters: parameters ?? null,
      strict: request?.strict.has(name) ?? false,
    })),
    top_logprobs: response.topLogprobs ?? 0,
    top_p: sampling.topP,
    truncation: request?.truncation ?? 'disabled',
    usage: end === null ? null : usageObject(end.usage),
    user: request?.user ?? null,
    metadata: request?.metadata ?? {},
  };
}

function incompleteDetails(status: ResponseStatus, end: EndEvent | null): { reason: string } | null {
  if (status !== 'incomplete') return null;
  return { reason: end?.reason === 'content_filter' ? 'content_filter' : 'max_output_tokens' };
}

/** OpenAI has three codes for what can go wrong here. */
function errorCode({ code, row }: ServiceError): string {
  if (code === 'rate_limited') return 'rate_limit_exceeded';
  return row.status < 500 && !row.retryable ? 'invalid_prompt' : 'server_error';
}

function usageObject({ promptTokens, cachedTokens, completionTokens }: Usage) {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: promptTokens + completionTokens,
  };
}
