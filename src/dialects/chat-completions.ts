// POST /v1/chat/completions: OpenAI's Chat Completions, streamed and not. chat-request.ts reads the request; here it
// becomes a response, and the response's log is rendered in OpenAI's objects. Shapes: every chunk but the last has
// finish_reason null, the first carries the role, the finishing one an empty delta, `[DONE]` ends a complete stream.
import { createHash } from 'node:crypto';
import packageJson from '../../package.json' with { type: 'json' };
import type { FinishReason, TokenLogprob } from '../../protocol/messages.ts';
import { parseJsonObject, readBody } from '../http/body.ts';
import { errorBody } from '../http/errors.ts';
import type { Exchange } from '../http/exchange.ts';
import { createOnce } from '../http/idempotency.ts';
import { requestHints } from '../http/request-hints.ts';
import { HEAD_WAIT_MS, LogWriter, type StreamRenderer } from '../http/log-writer.ts';
import { dataEvent, DONE_EVENT } from '../http/sse.ts';
import { observeWrite } from '../metrics.ts';
import type { EndEvent, LogEntry } from '../responses/response-log.ts';
import type { Responses } from '../responses/registry.ts';
import type { Response } from '../responses/response.ts';
import { shuttingDown, type Services } from '../services.ts';
import { messageBytes } from '../sessions/turn.ts';
import { parseChatRequest } from './chat-request.ts';
import { tokenObjects } from './logprobs.ts';
import { collects, watchToEnd } from './watch.ts';

export async function chatCompletions(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  const hints = requestHints(exchange, caller);
  if (services.isDraining) throw shuttingDown();
  const body = await readBody(exchange);
  const request = parseChatRequest(parseJsonObject(body));
  if (exchange.isOver) return;
  const { messages, tools, grammar, sampling } = request;
  const { choices } = createOnce(exchange, services.responses, caller, body, (requestKey) => {
    const options: Parameters<Responses['createChoices']>[2] = {
      requestKey,
      session: null,
      ...hints,
      tools,
      grammar,
      sampling,
      logprobs: request.logprobs,
      cancelsUnwatched: true,
      input: messages,
      extraBytes: messageBytes(messages),
      prompt: { kind: 'chat', messages, tools, history: null, truncation: 'error' },
    };
    return services.responses.createChoices(services.engines.find(request.model), caller, options, request.n);
  });
  if (request.stream) stream(exchange, services, choices, request.includeUsage);
  else await answer(exchange, choices);
}

/** A choice that failed is left out, as long as another one did not. */
async function answer(exchange: Exchange, choices: readonly Response[]): Promise<void> {
  const ends = await Promise.all(choices.map((response) => watchToEnd(exchange, response)));
  if (ends.every((end) => end.error !== null)) throw ends[0]!.error!;
  exchange.sendJson(200, completionObject(choices, ends));
}

function stream(exchange: Exchange, services: Services, choices: readonly Response[], includeUsage: boolean): void {
  const head = { ...commonFields(choices[0]!), object: 'chat.completion.chunk' } as const;
  void new LogWriter({
    exchange,
    tracks: choices.map((response, index) => ({
      response,
      renderer: new ChunkRenderer(response.log, head, index, includeUsage),
    })),
    ending: () => ending(choices, head, includeUsage),
    headWaitMs: HEAD_WAIT_MS,
    failsWithStatus: true,
    isBusy: () => collects(services.responses),
    onWritten: (response) => observeWrite(services.metrics, response),
  });
}

type ChunkHead = ReturnType<typeof commonFields> & { object: 'chat.completion.chunk' };

/** What follows the choices. No [DONE] after an error: that is how clients tell a broken answer from a complete one. */
function ending(choices: readonly Response[], head: ChunkHead, includeUsage: boolean): string {
  const ends = choices.flatMap(({ state }) => (state.kind === 'ended' ? state.end : []));
  const failed = ends.find((end) => end.error !== null);
  if (failed) return dataEvent(errorBody(failed.error!));
  const usage = includeUsage ? dataEvent({ ...head, choices: [], usage: usageObject(ends) }) : '';
  return usage + DONE_EVENT;
}

/** The log of one choice → `chat.completion.chunk` events, text merged as far as the reader is behind. */
class ChunkRenderer implements StreamRenderer {
  readonly #log: Response['log'];
  readonly #head: ChunkHead;
  readonly #index: number;
  readonly #includeUsage: boolean;
  #seq = 0;
  #isOpened = false;
  #isDone = false;

  constructor(log: Response['log'], head: ChunkHead, index: number, includeUsage: boolean) {
    this.#log = log;
    this.#head = head;
    this.#index = index;
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
        return this.#chunk({ content: event.text }, null, event.logprobs);
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
    return end.error ? '' : this.#chunk({}, finishReason(end.reason));
  }

  #chunk(delta: Record<string, unknown>, reason: string | null = null, tokens?: TokenLogprob[]): string {
    const logprobs = tokens === undefined ? null : logprobsObject(tokens);
    return dataEvent({
      ...this.#head,
      choices: [{ index: this.#index, delta, logprobs, finish_reason: reason }],
      ...(this.#includeUsage ? { usage: null } : {}),
    });
  }
}

function completionObject(choices: readonly Response[], ends: readonly EndEvent[]) {
  return {
    ...commonFields(choices[0]!),
    object: 'chat.completion',
    choices: choices.flatMap((response, index) => {
      const end = ends[index]!;
      return end.error === null ? choiceObject(response, index, end) : [];
    }),
    usage: usageObject(ends),
  };
}

function choiceObject(response: Response, index: number, end: EndEvent) {
  const calls = response.toolCalls.map(({ id, name, arguments: text }) => ({
    id,
    type: 'function',
    function: { name, arguments: text },
  }));
  return {
    index,
    message: {
      role: 'assistant',
      content: calls.length > 0 && response.text === '' ? null : response.text,
      refusal: null,
      annotations: [],
      ...(calls.length > 0 ? { tool_calls: calls } : {}),
    },
    logprobs: response.topLogprobs === null ? null : logprobsObject(response.log.logprobsBetween(0, response.log.head)),
    finish_reason: finishReason(end.reason),
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

function logprobsObject(tokens: readonly TokenLogprob[]) {
  return { content: tokenObjects(tokens), refusal: null };
}

/** The prompt counts once, whatever the number of choices. */
function usageObject(ends: readonly EndEvent[]) {
  const promptTokens = Math.max(...ends.map(({ usage }) => usage.promptTokens));
  const cachedTokens = ends[0]!.usage.cachedTokens;
  const completionTokens = ends.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
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
