// Collects the events of one step, and how soon they have to leave; the worker posts them. Also the AnswerSink through which a
// sequence's text pipeline speaks: `for(id)` aims it at a sequence.
import { Ev, Haste, endReasons } from './messages/events.ts';
import type { EndReason, Step, StepStats } from './messages/events.ts';
import type { ErrorCode } from '../protocol/errors.ts';
import type { TokenLogprob } from '../protocol/messages.ts';
import type { StopCause } from './sequence.ts';
import type { AnswerSink } from './text/answer-stream.ts';

/** Of a step that did nothing; a new one each time. */
export const noStats = (): StepStats => ({
  batchSize: 0,
  stepMs: 0,
  prefillTokens: 0,
  prefillMs: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
  movedTokens: 0,
  moveMs: 0,
});

export class Outputs implements AnswerSink {
  stats: StepStats = noStats();
  #events: (number | string)[] = [];
  #logprobs: TokenLogprob[][] = [];
  #sampledAtMs = 0;
  #haste: Haste = Haste.later;
  #id = 0;
  #token = -1;

  get isEmpty(): boolean {
    return this.#events.length === 0;
  }

  get numEvents(): number {
    return this.#events.length / 4;
  }

  encoded(id: number, promptTokens: number, droppedMessages: number): void {
    this.#hurry(Haste.now);
    if (droppedMessages > 0) this.#events.push(Ev.Dropped, id, droppedMessages, '');
    this.#events.push(Ev.Encoded, id, promptTokens, '');
  }

  prefill(id: number, cachedTokens: number): void {
    this.#hurry(Haste.now);
    this.#events.push(Ev.Prefill, id, cachedTokens, '');
  }

  /** Of all that came since the last `take`. */
  get haste(): Haste {
    return this.#haste;
  }

  /** Begins a token of this sequence: text that follows until `endToken` belongs to it. */
  beginToken(id: number, tokenId: number, haste: Haste): void {
    this.#hurry(haste);
    this.#id = id;
    this.#token = tokenId;
    this.#sampledAtMs = performance.timeOrigin + performance.now();
  }

  /** A token that made no text certain is still counted. */
  endToken(): void {
    if (this.#token >= 0) this.#events.push(Ev.Token, this.#id, this.#token, '');
    this.#token = -1;
  }

  /** Text held back until the end of this sequence has no token of its own. */
  beginTail(id: number): void {
    this.#id = id;
    this.#token = -1;
  }

  text(text: string): void {
    if (text === '') return;
    if (this.#token >= 0) {
      this.#events.push(Ev.Token, this.#id, this.#token, text);
      this.#token = -1;
    } else this.#events.push(Ev.Text, this.#id, 0, text);
  }

  logprobs(tokens: TokenLogprob[]): void {
    if (tokens.length === 0) return;
    this.#events.push(Ev.Logprobs, this.#id, this.#logprobs.push(tokens) - 1, '');
  }

  toolBegin(index: number, name: string): void {
    this.#hurry(Haste.now);
    this.endToken();
    this.#events.push(Ev.ToolBegin, this.#id, index, name);
  }

  toolDelta(index: number, text: string): void {
    this.#events.push(Ev.ToolDelta, this.#id, index, text);
  }

  toolEnd(index: number): void {
    this.#events.push(Ev.ToolEnd, this.#id, index, '');
  }

  end(id: number, reason: EndReason, code?: ErrorCode, message = ''): void {
    this.#hurry(Haste.now);
    this.#events.push(Ev.End, id, endReasons.indexOf(reason), code ? `${code}: ${message}` : '');
  }

  /** As `end`, for what `Sequence.accept` returned. */
  conclude(id: number, cause: NonNullable<StopCause>): void {
    if (cause === 'stuck')
      this.end(id, 'error', 'invalid_request', 'the form of the answer cannot be followed any further');
    else this.end(id, cause);
  }

  /** What there is so far, to be posted before the rest of the step, which will carry the statistics. */
  takePart(): Step {
    const step: Step = { events: this.#events, sampledAtMs: this.#sampledAtMs, stats: noStats() };
    if (this.#logprobs.length > 0) step.logprobs = this.#logprobs;
    this.#events = [];
    this.#logprobs = [];
    return step;
  }

  /** The step, or what is left of it; the collector is empty afterwards. */
  take(): Step {
    const step = { ...this.takePart(), stats: this.stats };
    this.#haste = Haste.later;
    this.stats = noStats();
    return step;
  }

  #hurry(haste: Haste): void {
    if (haste > this.#haste) this.#haste = haste;
  }
}
