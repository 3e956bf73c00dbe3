// A response's log as the events of the Responses API. What must stay true: an event and its sequence_number are a
// function of the log alone. Every event of the log becomes the same events with the same numbers in every rendering,
// text is never merged, and numbers have no gaps; so `starting_after` works for any reader at any time.
import type { StreamRenderer } from '../http/log-writer.ts';
import type { TokenLogprob } from '../../protocol/messages.ts';
import type { EndEvent, LogEvent } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { callItem, itemId, messageItem, openingObject, responseObject, restStatus } from './response-object.ts';
import { tokenObjects, type TokenObject } from './logprobs.ts';
import { outputText, type ItemStatus } from './response-items.ts';
import { records } from './response-record.ts';

/** From this wait on, in milliseconds, a response counts as queued and says so; shorter ones go unmentioned. */
export const QUEUED_AFTER_MS = 250;

/**
 * Whether the response tells of its time in the queue; null while that is open. It follows from when it was created
 * and admitted, so it never changes. Background responses always do, since they are answered before they start.
 */
export function tellsQueued(response: Response): boolean | null {
  if (records.get(response)?.request.background || response.timings.queuedMs >= QUEUED_AFTER_MS) return true;
  return response.wasAdmitted || response.isEnded ? false : null;
}

/** Milliseconds after which `tellsQueued` is decided at the latest; 0 when it is now. */
export function undecidedMs(response: Response): number {
  // Timers may fire a millisecond early.
  return tellsQueued(response) === null ? Math.ceil(QUEUED_AFTER_MS - response.timings.queuedMs) + 2 : 0;
}

/** The message being written: its place in the output, and the log's event before its first. */
interface OpenMessage {
  index: number;
  fromSeq: number;
}

export class ResponseEventRenderer implements StreamRenderer {
  readonly #response: Response;
  /** Events up to this number are counted, not written. */
  readonly #after: number;
  #number = 0;
  #seq = 0;
  #isDone = false;
  #opening: 'created' | 'queued' | 'in_progress' | 'over' = 'created';
  #numItems = 0;
  #message: OpenMessage | null = null;
  /** Index of the call → its place in the output. */
  readonly #calls = new Map<number, number>();
  #out = '';

  constructor(response: Response, startingAfter = -1) {
    this.#response = response;
    this.#after = startingAfter;
  }

  get seq(): number {
    return this.#seq;
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  /** Number of the next event. */
  get nextNumber(): number {
    return this.#number;
  }

  next(limit: number): string {
    this.#open();
    const { log } = this.#response;
    const last = this.#opening === 'over' ? Math.min(log.head, this.#seq + limit) : this.#seq;
    while (this.#seq < last) {
      const { event } = log.read(this.#seq, 1)[0]!;
      this.#seq++;
      this.#render(event);
    }
    const out = this.#out;
    this.#out = '';
    return out;
  }

  /** The events before the log's first, as far as they are certain. */
  #open(): void {
    const response = this.#response;
    if (this.#opening === 'created') {
      const isQueued = tellsQueued(response);
      if (isQueued === null) return;
      this.#emit('response.created', () => ({
        response: openingObject(response, isQueued ? 'queued' : 'in_progress'),
      }));
      this.#opening = isQueued ? 'queued' : 'in_progress';
    }
    if (this.#opening === 'queued') {
      this.#emit('response.queued', () => ({ response: openingObject(response, 'queued') }));
      this.#opening = 'in_progress';
    }
    if (this.#opening === 'in_progress' && (response.wasAdmitted || response.isEnded)) {
      // What ended in the queue was never in progress.
      if (response.wasAdmitted) {
        this.#emit('response.in_progress', () => ({ response: openingObject(response, 'in_progress') }));
      }
      this.#opening = 'over';
    }
  }

  #render(event: LogEvent): void {
    switch (event.kind) {
      case 'text':
        return this.#text(event.text, event.logprobs);
      case 'toolBegin': {
        this.#closeMessage('completed', this.#seq - 1);
        const output_index = this.#numItems++;
        this.#calls.set(event.index, output_index);
        return this.#emit('response.output_item.added', () => ({
          output_index,
          item: callItem(this.#response, output_index, { ...event, arguments: '' }, 'in_progress'),
        }));
      }
      case 'toolDelta': {
        const output_index = this.#calls.get(event.index)!;
        const item_id = itemId('fc', this.#response, output_index);
        return this.#emit('response.function_call_arguments.delta', () => ({
          item_id,
          output_index,
          delta: event.text,
        }));
      }
      case 'toolEnd':
        return this.#closeCall(event.index, 'completed');
      case 'end':
        return this.#end(event);
    }
  }

  #text(delta: string, tokens: TokenLogprob[] = []): void {
    if (this.#message === null) {
      const output_index = this.#numItems++;
      this.#message = { index: output_index, fromSeq: this.#seq - 1 };
      const item = messageItem(this.#response, output_index, null, 'in_progress');
      this.#emit('response.output_item.added', () => ({ output_index, item }));
      this.#emit('response.content_part.added', () => ({ ...this.#place(output_index), part: outputText('') }));
    }
    const { index } = this.#message;
    this.#emit('response.output_text.delta', () => ({
      ...this.#place(index),
      delta,
      logprobs: tokenObjects(tokens),
    }));
  }

  /** `toSeq` is the last event of the log before the one that closes it. */
  #closeMessage(status: ItemStatus, toSeq: number): void {
    if (this.#message === null) return;
    const { index, fromSeq } = this.#message;
    this.#message = null;
    const text = this.#response.log.textBetween(fromSeq, toSeq);
    const logprobs = (): TokenObject[] => tokenObjects(this.#response.log.logprobsBetween(fromSeq, toSeq));
    this.#emit('response.output_text.done', () => ({ ...this.#place(index), text, logprobs: logprobs() }));
    this.#emit('response.content_part.done', () => ({ ...this.#place(index), part: outputText(text, logprobs()) }));
    this.#emit('response.output_item.done', () => ({
      output_index: index,
      item: messageItem(this.#response, index, text, status, logprobs()),
    }));
  }

  /** Arguments that were cut off are not said to be done: they are no JSON. */
  #closeCall(callIndex: number, status: ItemStatus): void {
    const output_index = this.#calls.get(callIndex)!;
    this.#calls.delete(callIndex);
    const call = this.#response.toolCalls[callIndex]!;
    const item = callItem(this.#response, output_index, { ...call, callId: call.id }, status);
    if (status === 'completed') {
      this.#emit('response.function_call_arguments.done', () => ({
        item_id: item.id,
        output_index,
        name: item.name,
        arguments: item.arguments,
      }));
    }
    this.#emit('response.output_item.done', () => ({ output_index, item }));
  }

  #end(end: EndEvent): void {
    const status = restStatus(end);
    this.#closeMessage(status, this.#seq - 1);
    for (const index of this.#calls.keys()) this.#closeCall(index, status);
    this.#emit(terminalEvent(end), () => ({ response: responseObject(this.#response) }));
    this.#isDone = true;
  }

  #place(output_index: number) {
    return { item_id: itemId('msg', this.#response, output_index), output_index, content_index: 0 };
  }

  #emit(type: string, fields: () => object): void {
    const sequence_number = this.#number++;
    if (sequence_number <= this.#after) return;
    this.#out += `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number, ...fields() })}\n\n`;
  }
}

/** There is no event for cancelled; `response.incomplete` ends streams in every client, and its status tells. */
function terminalEvent({ reason }: EndEvent): string {
  if (reason === 'error') return 'response.failed';
  return reason === 'stop' || reason === 'tool_calls' ? 'response.completed' : 'response.incomplete';
}

/** Number of the last event there is now; -1 when there is none. */
export function lastNumber(response: Response): number {
  const renderer = new ResponseEventRenderer(response, Infinity);
  renderer.next(Infinity);
  return renderer.nextNumber - 1;
}
