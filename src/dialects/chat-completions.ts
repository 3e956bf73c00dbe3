// POST /v1/chat/completions: OpenAI's Chat Completions, streamed and not. chat-request.ts reads the request; here it
// becomes a response, and the response's log is rendered in OpenAI's objects. Shapes: every chunk but the last has
// finish_reason null, the first carries the role, the finishing one an empty delta, `[DONE]` ends a complete stream.
import { createHash } from 'node:crypto';
import packageJson from '../../package.json' with { type: 'json' };
import type { FinishReason, Usage } from '../../protocol/messages.ts';
import { parseJsonObject, readBody } from '../http/body.ts';
import { errorBody } from '../http/errors.ts';
import type { Exchange } from '../http/exchange.ts';
import { createOnce } from '../http/idempotency.ts';
import { HEAD_WAIT_MS, LogWriter, type StreamRenderer } from '../http/log-writer.ts';
import { dataEvent, DONE_EVENT } from '../http/sse.ts';
import { observeWrite } from '../metrics.ts';
import type { EndEvent, LogEntry } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { shuttingDown, type Services } from '../services.ts';
import { parseChatRequest } from './chat-request.ts';
import { BUSY_RESPONSES, watchToEnd } from './watch.ts';

export async function chatCompletions(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  if (services.isDraining) throw shuttingDown();
  const body = await readBody(exchange);
  const request = parseChatRequest(parseJsonObject(body));
  if (exchange.isOver) return;
  const { messages, tools, sampling } = request;
  const response = createOnce(exchange, services.responses, caller, body, (requestKey) =>
    services.responses.create(services.engines.find(request.model), caller, {
      requestKey,
      session: null,
      class: caller.class,
      tools,
      sampling,
      cancelsUnwatched: true,
      prompt: { kind: 'chat', messages, tools, history: null, truncation: 'error' },
    }),
  );
  if (request.stream) stream(exchange, services, response, request.includeUsage);
  else await answer(exchange, response);
}

async function answer(exchange: Exchange, response: Response): Promise<void> {
  const end = await watchToEnd(exchange, response);
  if (end.error) throw end.error;
  exchange.sendJson(200, completionObject(response, end));
}

function stream(exchange: Exchange, services: Services, response: Response, includeUsage: boolean): void {
  void new LogWriter({
    exchange,
    response,
    renderer: new ChunkRenderer(response, includeUsage),
    headWaitMs: HEAD_WAIT_MS,
    failsWithStatus: true,
    isBusy: () => services.responses.active >= BUSY_RESPONSES,
    onWritten: () => observeWrite(services.metrics, response),
  });
}

/** The log → `chat.completion.chunk` events, text merged as far as the reader is behind. */
export class ChunkRenderer implements StreamRenderer {
  readonly #log: Response['log'];
  readonly #head: ReturnType<typeof commonFields> & { object: 'chat.completion.chunk' };
  readonly #includeUsage: boolean;
  #seq = 0;
  #isOpened = false;
  #isDone = false;

  constructor(response: Pick<Response, 'id' | 'model' | 'createdAtMs' | 'log'>, includeUsage: boolean) {
    this.#log = response.log;
    this.#head = { ...commonFields(response), object: 'chat.completion.chunk' };
    this.#includeUsage = includeUsage;
  }

  get seq(): number {
    return this.#seq;
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  next(limit: number): string {
    const opening = this.#isOpened ? '' : this.#chunk({ role: 'assistant', content: '', refusal: null });
    this.#isOpened = true;
    const entries = this.#log.read(this.#seq, limit);
    this.#seq = entries.at(-1)?.seq ?? this.#seq;
    return opening + entries.map((entry) => this.#render(entry)).join('');
  }

  #render({ event }: LogEntry): string {
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
    this.#isDone = true;
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
