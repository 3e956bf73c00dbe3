// One chat without its DOM: the session, the turns as shown, and what one can do with them. chat-view.ts draws it and
// hears of changes through `onChange`. What must stay true: at most one turn runs, and it is the last one.
import { ConnectionLostError } from '../index.ts';
import type { ChatMessage, Client, ResponseStream, SendOptions, Session, SessionOrigin } from '../index.ts';
import { defaultSampling } from '../../protocol/sampling.ts';
import type { ModelInfo, SamplingParams } from '../index.ts';
import { noSettings } from './store.ts';
import type { ChatSettings, StoredChat } from './store.ts';

export interface Turn {
  question: string;
  /** The answer so far. */
  answer: string;
  state: 'running' | 'done' | 'cancelled' | 'failed';
  response: ResponseStream | null;
  /** Speed and waiting time of an answer made on this page; null for one that came from the history. */
  stats: TurnStats | null;
  /** Said below the answer: why it ended early. */
  notice: string | null;
  /** Part of the conversation on the server. */
  isKept: boolean;
}

export interface TurnStats {
  firstTextMs: number | null;
  numTokens: number;
  tokensPerSecond: number | null;
}

/** What changed: the list of turns, one turn (text or state), or only title, settings and the like. */
export type ChatChange = { kind: 'turns' } | { kind: 'turn'; turn: Turn } | { kind: 'about' };

const TITLE_CHARS = 60;
const LOST = 'The server no longer has the rest of this answer.';
const WAITING = 'The connection was lost. The answer goes on when it is back.';

export class Chat {
  readonly turns: Turn[] = [];
  onChange: (change: ChatChange) => void = () => {};
  /** Called when something worth storing changed. */
  onStore: () => void = () => {};
  /** Called with how far the model has loaded, and with null when it is ready. */
  onLoading: (message: string | null) => void = () => {};
  #settings: ChatSettings;
  #session: Session;
  readonly #client: Client;

  constructor(client: Client, stored?: StoredChat) {
    this.#client = client;
    this.#settings = { ...noSettings, ...stored?.settings };
    this.#session = this.#open(stored?.session ?? null, stored?.messages ?? []);
    if (stored !== undefined) {
      this.#show(stored.messages);
      void this.#restore(stored);
    }
  }

  get settings(): ChatSettings {
    return this.#settings;
  }

  get running(): Turn | null {
    const last = this.turns.at(-1);
    return last?.state === 'running' ? last : null;
  }

  get title(): string {
    const first = this.turns[0]?.question.replace(/\s+/g, ' ').trim() ?? '';
    return first.length > TITLE_CHARS ? `${first.slice(0, TITLE_CHARS)}…` : first || 'New chat';
  }

  /** The model this chat uses; null before the first welcome. */
  get model(): ModelInfo | null {
    const { models } = this.#client;
    return models.find((model) => model.id === this.#settings.model) ?? models[0] ?? null;
  }

  /** Sampling of the next answer: the model's preset with this chat's choices over it. */
  get sampling(): Partial<SamplingParams> & Pick<SamplingParams, 'temperature' | 'maxTokens'> {
    const preset = this.model?.preset ?? {};
    return {
      ...preset,
      temperature: this.#settings.temperature ?? preset.temperature ?? defaultSampling.temperature,
      maxTokens: this.#settings.maxTokens ?? preset.maxTokens ?? defaultSampling.maxTokens,
    };
  }

  /** Sends a question. Ignored while an answer runs. */
  send(question: string): void {
    if (this.running !== null || question.trim() === '') return;
    const turn: Turn = {
      question,
      answer: '',
      state: 'running',
      response: null,
      stats: null,
      notice: null,
      isKept: false,
    };
    this.turns.push(turn);
    this.onChange({ kind: 'turns' });
    this.#run(turn);
  }

  stop(): void {
    const { running } = this;
    void running?.response?.cancel();
    // Without a connection the server hears of it later; until then the answer counts as running.
    if (running?.response?.state.state === 'waiting') this.#notice(running, 'Stops when the connection is back.');
  }

  /** Takes the last turn back and asks the same again. Ignored while an answer runs. */
  async regenerate(): Promise<void> {
    const turn = this.turns.at(-1);
    if (turn === undefined || turn.state === 'running') return;
    turn.state = 'running';
    turn.answer = '';
    turn.stats = null;
    turn.notice = null;
    this.onChange({ kind: 'turn', turn });
    const numBefore = this.turns.filter((other) => other !== turn && other.isKept).length;
    try {
      // What became of an answer that was cut off only the server knows.
      if (turn.isKept) await this.#session.ready();
      else await this.#session.history();
      if (numAnswers(this.#session.messages) > numBefore) await this.#takeBack();
    } catch (error) {
      this.#fail(turn, error);
      return;
    }
    turn.isKept = false;
    this.#run(turn);
  }

  /** New settings hold from the next answer on; another system prompt or model takes a new session. */
  change(settings: ChatSettings): void {
    const needsSession = settings.system !== this.#settings.system || settings.model !== this.#settings.model;
    this.#settings = settings;
    if (needsSession) {
      this.stop();
      const messages = this.#session.messages.filter((message) => message.role !== 'system');
      void this.#session.close().catch(() => {});
      this.#session = this.#open(null, messages);
    }
    this.onChange({ kind: 'about' });
    this.onStore();
  }

  /** Ends the chat here and on the server. */
  close(): void {
    this.stop();
    void this.#session.close().catch(() => {});
  }

  stored(): StoredChat {
    const { running } = this;
    return {
      session: this.turns.length === 0 ? null : this.#session.id,
      settings: this.#settings,
      messages: this.#session.messages.slice(),
      unfinished: running === null ? null : { question: running.question, answer: running.answer },
    };
  }

  /** Takes the last turn out of the conversation. What a session was made from cannot be rolled back: make another. */
  async #takeBack(): Promise<void> {
    const { numTurns, messages } = this.#session;
    if (numTurns > 0) {
      await this.#session.rollback(numTurns - 1);
      return;
    }
    const withoutAnswer = messages.slice(
      0,
      messages.findLastIndex(({ role }) => role === 'assistant'),
    );
    const rest = withoutAnswer.slice(0, withoutAnswer.findLastIndex(({ role }) => role === 'assistant') + 1);
    void this.#session.close().catch(() => {});
    this.#session = this.#open(null, rest);
  }

  #open(session: string | null, messages: ChatMessage[]): Session {
    const { system, model } = this.#settings;
    return this.#client.session({
      ...(session === null ? {} : { session }),
      ...(system.trim() === '' ? {} : { system }),
      ...(model === null ? {} : { model }),
      messages,
      onOpened: (_, origin) => this.#opened(origin),
      onLoading: (message) => this.onLoading(message),
    });
  }

  /** After a lost connection only the server knows whether the answer that was cut off is part of the conversation. */
  #opened(origin: SessionOrigin): void {
    this.onLoading(null);
    const last = this.turns.at(-1);
    if (last !== undefined && last.state === 'failed') {
      const numBefore = this.turns.filter((turn) => turn !== last && turn.isKept).length;
      last.isKept = numAnswers(this.#session.messages) > numBefore;
    }
    if (origin !== 'kept') this.onStore();
  }

  async #restore(stored: StoredChat): Promise<void> {
    if (stored.session === null) return;
    try {
      const { active } = await this.#session.ready();
      await Promise.all(active.map((response) => this.#endLeft(response)));
      const history = await this.#session.history();
      if (JSON.stringify(history) !== JSON.stringify(stored.messages)) this.#show(history);
    } catch {
      // The local copy stands; sending will say what is wrong.
    }
    if (stored.unfinished !== null) this.#showUnfinished(stored.unfinished);
    this.onStore();
  }

  /** An answer that still runs for the page as it was before: nobody reads it, and it keeps the session busy. */
  async #endLeft(response: string): Promise<void> {
    await this.#client.watch({ response }).cancel();
  }

  /** The answer under way when the page was left: the server kept the part it had delivered, or nothing. */
  #showUnfinished(unfinished: { question: string; answer: string }): void {
    if (this.running !== null) return;
    const notice = 'Cut off when the page was left.';
    const last = this.turns.at(-1);
    if (last?.question === unfinished.question) {
      last.state = 'cancelled';
      last.notice = notice;
      this.onChange({ kind: 'turn', turn: last });
      return;
    }
    this.turns.push({ ...unfinished, state: 'failed', response: null, stats: null, notice, isKept: false });
    this.onChange({ kind: 'turns' });
  }

  /** Replaces the turns by those of a history. */
  #show(messages: readonly ChatMessage[]): void {
    if (this.running !== null) return;
    this.turns.length = 0;
    for (const message of messages) {
      const last = this.turns.at(-1);
      if (message.role === 'user') {
        this.turns.push({
          question: message.content,
          answer: '',
          state: 'done',
          response: null,
          stats: null,
          notice: null,
          isKept: true,
        });
      } else if (message.role === 'assistant' && last !== undefined) {
        last.answer += message.content;
      }
    }
    this.onChange({ kind: 'turns' });
  }

  #run(turn: Turn): void {
    const { sampling } = this;
    const options: SendOptions = { ...sampling };
    const response = this.#session.send(turn.question, options);
    turn.response = response;
    response.onState(({ state }) => {
      if (state === 'waiting' && !response.isEnded) this.#notice(turn, WAITING);
      else if (turn.notice === WAITING) this.#notice(turn, null);
    });
    this.onStore();
    void this.#follow(turn, response);
  }

  async #follow(turn: Turn, response: ResponseStream): Promise<void> {
    try {
      for await (const piece of response) {
        turn.answer += piece;
        turn.stats = liveStats(response);
        this.onChange({ kind: 'turn', turn });
      }
      const { reason, cancelledBy, usage, timings } = await response.finished;
      turn.notice = null;
      turn.state = reason === 'cancelled' ? 'cancelled' : 'done';
      turn.isKept = reason !== 'cancelled' || turn.answer !== '';
      const decodeMs = timings.totalMs - timings.ttftMs;
      const isMeasured = usage.completionTokens > 1 && decodeMs > 0;
      turn.stats = {
        firstTextMs: response.firstTextMs,
        numTokens: usage.completionTokens,
        tokensPerSecond: isMeasured ? ((usage.completionTokens - 1) * 1000) / decodeMs : null,
      };
      if (reason === 'cancelled') turn.notice = cancelledBy === 'caller' ? 'Stopped.' : 'Stopped by the server.';
      if (reason === 'length') turn.notice = 'Ended at the token limit.';
      if (usage.droppedMessages > 0) {
        turn.notice =
          `${turn.notice ?? ''} The oldest ${usage.droppedMessages} messages no longer fit the context.`.trim();
      }
      turn.response = null;
      this.onChange({ kind: 'turn', turn });
    } catch (error) {
      this.#fail(turn, error);
    }
    this.onStore();
  }

  #fail(turn: Turn, error: unknown): void {
    turn.state = 'failed';
    turn.isKept = false;
    turn.response = null;
    const isLost = error instanceof ConnectionLostError;
    turn.notice = isLost ? LOST : (error as Error).message || 'The answer failed.';
    this.onChange({ kind: 'turn', turn });
  }

  #notice(turn: Turn, notice: string | null): void {
    turn.notice = notice;
    this.onChange({ kind: 'turn', turn });
  }
}

function numAnswers(messages: readonly ChatMessage[]): number {
  return messages.filter(({ role }) => role === 'assistant').length;
}

function liveStats(response: ResponseStream): TurnStats {
  const { firstTextMs, numEvents } = response;
  const decodeMs = firstTextMs === null ? 0 : response.elapsedMs - firstTextMs;
  // Before that, one late frame would show as a wild number.
  const isSettled = decodeMs > 150 && numEvents > 3;
  return { firstTextMs, numTokens: numEvents, tokensPerSecond: isSettled ? ((numEvents - 1) * 1000) / decodeMs : null };
}
