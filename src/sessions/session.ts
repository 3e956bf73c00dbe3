// A conversation: its turns, the response now running and the ones waiting behind it. The registry owns sessions and
// checks who may use them; this file knows what a turn leaves in the history. One response at a time: a queued one
// gets its prompt only when its turn comes, because the prompt contains the answer before it.
import { randomBytes } from 'node:crypto';
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import type { ChatMessage, SessionInfo, ToolDefinition } from '../../protocol/messages.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { PromptInput } from '../../workers/messages/requests.ts';
import type { Engine } from '../engine/types.ts';
import type { EndEvent } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import { cutTurn, isSilent, messageBytes, tokensOf, turnBytes, turnTokens } from './turn.ts';
import type { Turn } from './turn.ts';

export interface SessionSetup {
  tenant: string;
  engine: Engine;
  createdAtMs: number;
  tools: readonly ToolDefinition[];
  sampling: Partial<SamplingParams>;
  truncation: 'auto' | 'error';
  /** Messages before the first turn, kept whatever is rolled back. */
  head: readonly ChatMessage[];
  turns: readonly Turn[];
  /** What it is found by when the request that made it is repeated. */
  requestKey?: string | undefined;
}

/** A request of this session: what it adds, and how to begin once its prompt is known. */
export interface TurnRequest {
  messages: readonly ChatMessage[];
  tools: ToolDefinition[];
  truncation: 'auto' | 'error';
}

export class Session {
  readonly id = `sess_${randomBytes(16).toString('hex')}`;
  readonly tenant: string;
  readonly engine: Engine;
  readonly createdAtMs: number;
  readonly tools: readonly ToolDefinition[];
  readonly sampling: Partial<SamplingParams>;
  readonly truncation: 'auto' | 'error';
  /** Epoch milliseconds; kept by the registry. */
  lastUsedMs: number;
  readonly requestKey: string | undefined;
  readonly #head: readonly ChatMessage[];
  #turns: Turn[];
  #bytes: number;
  #active: Response | null = null;
  /** Superseded while they ran: they leave no turn. */
  readonly #replaced = new WeakSet<Response>();
  /** The newest turn when it began; null: there was none. Turns never change, so it also says what came before. */
  readonly #begunAfter = new WeakMap<Response, Turn | null>();
  readonly #waiting: { response: Response; request: TurnRequest }[] = [];
  readonly #onChanged: (session: Session, addedBytes: number) => void;
  #isClosed = false;

  /** `onChanged` hears every change of `bytes` and the end of every response. */
  constructor(setup: SessionSetup, onChanged: (session: Session, addedBytes: number) => void) {
    this.tenant = setup.tenant;
    this.engine = setup.engine;
    this.createdAtMs = setup.createdAtMs;
    this.lastUsedMs = setup.createdAtMs;
    this.tools = setup.tools;
    this.sampling = setup.sampling;
    this.truncation = setup.truncation;
    this.requestKey = setup.requestKey;
    this.#head = setup.head;
    this.#turns = [...setup.turns];
    this.#onChanged = onChanged;
    this.#bytes = 1024 + JSON.stringify(setup.tools).length * 2 + messageBytes(setup.head);
    for (const turn of this.#turns) this.#bytes += turnBytes(turn);
  }

  /** Estimated memory of messages and token ids. */
  get bytes(): number {
    return this.#bytes;
  }

  get isBusy(): boolean {
    return this.#active !== null;
  }

  get info(): SessionInfo {
    const active = this.#active === null ? [] : [this.#active, ...this.#waiting.map((entry) => entry.response)];
    return {
      session: this.id,
      model: this.engine.model.id,
      createdAtMs: this.createdAtMs,
      numTurns: this.#turns.length,
      title: this.#title(),
      active: active.map((response) => response.id),
    };
  }

  /** Everything said so far: what the session began with, then the turns. */
  get messages(): ChatMessage[] {
    return [...this.#head, ...messagesOf(this.#turns)];
  }

  /**
   * Everything that a response of this session was made from. Throws `session_busy` while it waits for its turn, and
   * `unknown_session` when that is no longer known: rolled back, or cancelled before its turn came.
   */
  inputOf(response: Response): ChatMessage[] {
    const after = this.#begunAfter.get(response);
    if (after === undefined && !response.isEnded) {
      const message = `Response ${response.id} waits for the answer before it, which is a part of its input.`;
      throw new ServiceError('session_busy', message);
    }
    const numBefore = after === null ? 0 : this.#turns.findIndex((turn) => turn === after) + 1;
    if (after === undefined || (after !== null && numBefore === 0)) {
      const message = `The session of response ${response.id} no longer holds the conversation it was made from.`;
      throw new ServiceError('unknown_session', message);
    }
    return [...this.#head, ...messagesOf(this.#turns.slice(0, numBefore)), ...(response.input ?? [])];
  }

  /** Throws `session_busy` when the queue is full, not counting responses that are about to be replaced. */
  assertRoom(replaced: readonly Response[] = []): void {
    let numAhead = this.#active === null || this.#isLeaving(this.#active, replaced) ? 0 : 1;
    for (const { response } of this.#waiting) if (!this.#isLeaving(response, replaced)) numAhead++;
    if (numAhead <= Limits.queuedPerSession) return;
    throw new ServiceError(
      'session_busy',
      `This session already has one response running and ${Limits.queuedPerSession} waiting.`,
    );
  }

  /**
   * Starts the response, or queues it behind the running one. Throws what `Response.start` throws when it starts at
   * once; a queued response that cannot start later ends with that error instead.
   */
  run(response: Response, request: TurnRequest): void {
    if (this.#active === null) {
      response.start(this.#prompt(request));
      this.#watch(response, request);
      return;
    }
    const entry = { response, request };
    this.#waiting.push(entry);
    void response.ended.then(() => {
      // Cancelled while it waited: its place is free at once, and history never hears of it.
      const index = this.#waiting.indexOf(entry);
      if (index !== -1) this.#waiting.splice(index, 1);
    });
  }

  /** Keeps the first `numTurns` turns. Throws `invalid_request` out of range and `session_busy` while running. */
  rollback(numTurns: number): void {
    this.#assertTurns(numTurns);
    if (this.#active !== null) {
      throw new ServiceError('session_busy', 'A response of this session is still running; cancel it first.');
    }
    let freed = 0;
    for (const turn of this.#turns.slice(numTurns)) freed += turnBytes(turn);
    this.#turns.length = numTurns;
    this.#changed(-freed);
  }

  /** What a fork with the first `numTurns` turns starts from. Throws `invalid_request` out of range. */
  forkSetup(numTurns: number, createdAtMs: number): SessionSetup {
    this.#assertTurns(numTurns);
    const { tenant, engine, tools, sampling, truncation } = this;
    const turns = this.#turns.slice(0, numTurns);
    return { tenant, engine, createdAtMs, tools, sampling, truncation, head: this.#head, turns };
  }

  /** Throws `invalid_request` for a turn that cannot be taken back, because others were built on it. */
  assertReplaceable(response: Response, replaced: readonly Response[]): void {
    const index = this.#turns.findIndex((turn) => turn.response === response.id);
    if (index === -1) return;
    const isBuiltOn = this.#active !== null && !this.#isLeaving(this.#active, replaced);
    if (index === this.#turns.length - 1 && !isBuiltOn) return;
    const message = 'Only the newest turn of a session can be superseded; roll back instead.';
    throw new ServiceError('invalid_request', message, { param: 'supersede' });
  }

  /** Cancels the response, and history forgets its turn, also when it had just ended by itself. */
  replace(response: Response): void {
    this.#replaced.add(response);
    const index = this.#waiting.findIndex((entry) => entry.response === response);
    if (index !== -1) this.#waiting.splice(index, 1);
    response.cancel();
    if (this.#turns.at(-1)?.response === response.id) this.#changed(-turnBytes(this.#turns.pop()!));
  }

  /**
   * The user took in the response's text only up to `offset`: history keeps no more of it. Throws `invalid_request`
   * when a later turn was already built on the whole answer.
   */
  hear(response: Response, offset: number): void {
    response.limitHeard(offset);
    const index = this.#turns.findIndex((turn) => turn.response === response.id);
    const turn = this.#turns[index];
    if (turn === undefined) return;
    const cut = cutTurn(turn, offset);
    if (cut === turn) return;
    if (index < this.#turns.length - 1 || this.#active !== null) {
      const message = 'A later turn was built on this answer already.';
      throw new ServiceError('invalid_request', message, { param: 'heard' });
    }
    this.#turns.splice(index, 1, ...(cut === null ? [] : [cut]));
    this.#changed((cut === null ? 0 : turnBytes(cut)) - turnBytes(turn));
  }

  /** Cancels everything and drops the kept KV memory. */
  close(): void {
    this.#isClosed = true;
    for (const { response } of this.#waiting.splice(0)) response.cancel();
    this.#active?.cancel();
    this.engine.forget(this.id);
  }

  #prompt(request: TurnRequest): PromptInput {
    const history = tokensOf(this.#turns);
    return {
      kind: 'chat',
      messages: [...this.messages, ...request.messages],
      tools: request.tools,
      history: history.length === 0 ? null : Array.from(history),
      truncation: request.truncation,
    };
  }

  #watch(response: Response, request: TurnRequest): void {
    this.#active = response;
    this.#begunAfter.set(response, this.#turns.at(-1) ?? null);
    void response.ended.then((end) => {
      this.#active = null;
      if (this.#isClosed) {
        // The engine may have kept the KV memory of an answer that ended after close.
        this.engine.forget(this.id);
        return;
      }
      this.#record(response, request, end);
      this.#startNext();
    });
  }

  #startNext(): void {
    while (this.#active === null) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      if (next.response.isEnded) continue;
      try {
        next.response.start(this.#prompt(next.request));
        this.#watch(next.response, next.request);
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        next.response.fail(error);
      }
    }
  }

  /** Failed and superseded answers leave the history as it was; so do cancelled ones that had said nothing yet. */
  #record(response: Response, request: TurnRequest, end: EndEvent): void {
    const answer = answerOf(response);
    const isKept = end.reason !== 'error' && !this.#replaced.has(response);
    const prompt = response.promptTokenIds;
    const tokens = prompt === null || !isKept ? null : turnTokens(this.#turns, prompt, response.tokenIds);
    const whole: Turn = { response: response.id, messages: request.messages, answer, tokens };
    const turn = response.heardTo === null ? whole : cutTurn(whole, response.heardTo);
    if (!isKept || turn === null || (end.reason === 'cancelled' && isSilent(turn.answer))) {
      this.#changed(0);
      return;
    }
    this.#turns.push(turn);
    this.#changed(turnBytes(turn));
  }

  #isLeaving(response: Response, replaced: readonly Response[]): boolean {
    return this.#replaced.has(response) || replaced.includes(response);
  }

  #changed(addedBytes: number): void {
    this.#bytes += addedBytes;
    this.#onChanged(this, addedBytes);
  }

  #assertTurns(numTurns: number): void {
    if (Number.isInteger(numTurns) && numTurns >= 0 && numTurns <= this.#turns.length) return;
    const message = `numTurns must be a whole number from 0 to ${this.#turns.length}.`;
    throw new ServiceError('invalid_request', message, { param: 'numTurns' });
  }

  #title(): string {
    const first = this.messages.find((message) => message.role === 'user');
    const words = (first?.content ?? '').slice(0, 400).replace(/\s+/g, ' ').trim();
    if (words.length <= 80) return words;
    // Not through the middle of a character that takes two units.
    const cut = words.slice(0, 80).replace(/[\uD800-\uDBFF]$/, '');
    const space = cut.lastIndexOf(' ');
    return space > 40 ? cut.slice(0, space) : cut;
  }
}

function messagesOf(turns: readonly Turn[]): ChatMessage[] {
  return turns.flatMap((turn) => [...turn.messages, turn.answer]);
}

/** The answer as history keeps it. A tool call that was cut off is left out: its arguments are not JSON yet. */
function answerOf(response: Response): ChatMessage {
  const complete = new Set<number>();
  for (const { event } of response.log.read(0)) if (event.kind === 'toolEnd') complete.add(event.index);
  const toolCalls = response.toolCalls.filter((_, index) => complete.has(index));
  return { role: 'assistant', content: response.text, ...(toolCalls.length === 0 ? {} : { toolCalls }) };
}
