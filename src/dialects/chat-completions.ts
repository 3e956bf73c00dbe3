// POST /v1/chat/completions: OpenAI's Chat Completions, streamed and not. chat-request.ts reads the request; here it
// becomes a response, and the response's log is rendered in OpenAI's objects. Shapes: every chunk but the last has
// finish_reason null, the first carries the role, the finishing one an empty delta, `[DONE]` ends a complete stream.
import { createHash } from 'node:crypto';
import packageJson from '../../package.json' with { type: 'json' };
import type { FinishReason, Usage } from '../../protocol/messages.ts';
import { readJson } from '../http/body.ts';
import { errorBody } from '../http/errors.ts';
import type { Exchange } from '../http/exchange.ts';
import { cancelIfUnwatched, LogWriter } from '../http/log-writer.ts';
import { dataEvent, DONE_EVENT } from '../http/sse.ts';
import { observeWrite } from '../metrics.ts';
import type { EndEvent, LogEntry } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { shuttingDown, type Services } from '../services.ts';
import { parseChatRequest } from './chat-request.ts';

/** From this many answers at once small events are collected; below, every step is written. */
const BUSY_RESPONSES = 4;

export async function chatCompletions(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  if (services.isDraining) throw shuttingDown();
  const request = parseChatRequest(await readJson(exchange));
  if (exchange.isOver) return;
  const response = services.responses.create(services.engines.find(request.model), caller, {
    session: null,
    class: caller.class,
    tools: request.tools,
    sampling: request.sampling,
    prompt: {
      kind: 'chat',
      messages: request.messages,
      tools: request.tools,
      history: null,
      truncation: 'error',
    },
  });
  if (request.stream) stream(exchange, services, response, request.includeUsage);
  else await answer(exchange, response);
}

async function answer(exchange: Exchange, response: Response): Promise<void> {
  const watcher = { notify: () => {} };
  response.subscribe(watcher);
  exchange.onGone(() => {
    response.unsubscribe(watcher);
    cancelIfUnwatched(response);
  });
  const end = await response.ended;
  response.unsubscribe(watcher);
  if (end.error) throw end.error;
  exchange.sendJson(200, completionObject(response, end));
}

function stream(exchange: Exchange, services: Services, response: Response, includeUsage: boolean): void {
  const renderer = new ChunkRenderer(response, includeUsage);
  void new LogWriter({
    exchange,
    response,
    opening: renderer.opening(),
    render: (entry) => renderer.render(entry),
    isBusy: () => services.responses.active >= BUSY_RESPONSES,
    onWritten: () => observeWrite(services.metrics, response),
  });
}

/** Log entries → `chat.completion.chunk` events. Keeps only the constant fields; order is the log's. */
export class ChunkRenderer {
  readonly #head: ReturnType<typeof commonFields> & { object: 'chat.completion.chunk' };
  readonly #includeUsage: boolean;

  constructor(response: Pick<Response, 'id' | 'model' | 'createdAtMs'>, includeUsage: boolean) {
    this.#head = { ...commonFields(response), object: 'chat.completion.chunk' };
    this.#includeUsage = includeUsage;
  }

  opening(): string {
    return this.#chunk({ role: 'assistant', content: '', refusal: null });
  }

  render({ event }: LogEntry): string {
    switch (event.kind) {
      case 'text':
        return this.#chunk({ content: event.text });
      case 'toolBegin': {
        const call = { id: event.callId, type: 'function', function: { name: event.name, arguments: '' } };
        return this.#chunk({ tool_calls: [{ index: event.index, ...call }] });
      }
      case 'toolDelta':
        return this.#chunk({ tool_calls: [{ index: event.index, function: { arguments: event.text } }] });
      case 'toolEnd':
        return '';
      case 'end':
        return this.#end(event);
    }
  }

  #end(end: EndEvent): string {
    // No [DONE] after an error: that is how clients tell a broken answer from a complete one.
    if (end.error) return dataEvent(errorBody(end.error));
    const finish = this.#chunk({}, finishReason(end.reason));
    const usage = this.#includeUsage ? dataEvent({ ...this.#head, choices: [], usage: usageObject(end.usage) }) : '';
    return finish + usage + DONE_EVENT;
  }

  #chunk(delta: Record<string, unknown>, reason: string | null = null): string {
    return dataEvent({
      ...this.#head,
      choices: [{ index: 0, delta, logprobs: null, finish_reason: reason }],
      ...(this.#includeUsage ? { usage: null } : {}),
    });
  }
}

function completionObject(response: Response, end: EndEvent) {
  const calls = response.toolCalls.map(({ id, name, arguments: text }) => ({
    id,
    type: 'function',
    function: { name, arguments: text },
  }));
  return {
    ...commonFields(response),
    object: 'chat.completion',
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: calls.length > 0 && response.text === '' ? null : response.text,
          refusal: null,
          annotations: [],
          ...(calls.length > 0 ? { tool_calls: calls } : {}),
        },
        logprobs: null,
        finish_reason: finishReason(end.reason),
      },
    ],
    usage: usageObject(end.usage),
  };
}

function commonFields({ id, model, createdAtMs }: Pick<Response, 'id' | 'model' | 'createdAtMs'>) {
  return {
    id: id.replace(/^resp_/, 'chatcmpl-'),
    created: Math.floor(createdAtMs / 1000),
    model,
    service_tier: 'default',
    system_fingerprint: fingerprintOf(model),
  };
}

/** By model. The same seed gives the same text while it stays: another version may compute differently. */
const fingerprints = new Map<string, string>();

function fingerprintOf(model: string): string {
  let known = fingerprints.get(model);
  if (known === undefined) {
    known = `fp_${createHash('sha256').update(`${packageJson.version} ${model}`).digest('hex').slice(0, 10)}`;
    fingerprints.set(model, known);
  }
  return known;
}

/** OpenAI has no word for an answer that somebody else stopped. */
function finishReason(reason: FinishReason): string {
  return reason === 'cancelled' || reason === 'error' ? 'stop' : reason;
}

function usageObject({ promptTokens, cachedTokens, completionTokens }: Usage) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens, audio_tokens: 0 },
    completion_tokens_details: {
      reasoning_tokens: 0,
      audio_tokens: 0,
      accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0,
    },
  };
}
