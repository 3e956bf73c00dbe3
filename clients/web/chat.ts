// One chat without its DOM: the session, the turns as shown, and what one can do with them. chat-view.ts draws it and
// hears of changes through `onChange`. What must stay true: at most one turn runs, and it is the last one.
import { ConnectionLostError } from '../index.ts';
import type { ChatMessage, Client, ResponseStream, SendOptions, Session, SessionOrigin } from '../index.ts';
import { defaultSampling } from '../../protocol/sampling.ts';
import type { ModelInfo, SamplingParams } from '../index.ts';
import { noSettings } from './store.ts';
import type { ChatSettings, StoredChat, Unfinished } from './store.ts';

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
const LEFT = 'Cut off when the page was left.';
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
  /** What was there of the running answer when its response was taken up: not in the response's own text. */
  #before = '';
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

  /** The model this chat uses, or will use when it goes on; null before the first welcome, and when there is none. */
  get model(): ModelInfo | null {
    const { models } = this.#client;
    const name = this.#session.info?.model ?? this.#settings.model;
    return models.find(({ id }) => id === name) ?? models[0] ?? null;
  }

  /** The server has been heard, and it has no model at all. */
  get lacksModel(): boolean {
    return this.#client.welcome !== null && this.#client.models.length === 0;
  }

  /** The server no longer has the model that the session was opened with. */
  get #isModelGone(): boolean {
    const name = this.#session.info?.model;
    return name !== undefined && !this.#client.models.some(({ id }) => id === name);
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
    const turn = newTurn(question);
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
    const model = settings.model ?? this.#client.models[0]?.id;
    const isOther = settings.system !== this.#settings.system || model !== this.model?.id || this.#isModelGone;
    this.#settings = settings;
    if (isOther) {
      this.stop();
      this.#reopen();
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
      unfinished: running === null ? null : this.#unfinished(running),
    };
  }

  /** Text and position of one moment: what comes after the position continues the text. */
  #unfinished({ question, answer, response }: Turn): Unfinished {
    if (response === null) return { question, answer, position: null };
    return { question, answer: this.#before + response.text, position: response.position };
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

  /** The same conversation in a session with the settings as they are now. */
  #reopen(): void {
    const messages = this.#session.messages.filter((message) => message.role !== 'system');
    void this.#session.close().catch(() => {});
    this.#session = this.#open(null, messages);
  }

  #open(session: string | null, messages: ChatMessage[]): Session {
    const { system, model } = this.#settings;
    return this.#client.session({
      ...(session === null ? {} : { session }),
      ...(system.trim() === '' ? {} : { system }),
      ...(model === null ? {} : { model }),
      messages,
      onOpened: (_, origin, numDropped) => this.#opened(origin, numDropped),
      onLoading: (message) => this.onLoading(message),
    });
  }

  /** After a lost connection only the server knows whether the answer that was cut off is part of the conversation. */
  #opened(origin: SessionOrigin, numDropped: number): void {
    this.onLoading(null);
    const last = this.turns.at(-1);
    if (last !== undefined && last.state === 'failed') {
      const numBefore = this.turns.filter((turn) => turn !== last && turn.isKept).length;
      last.isKept = numAnswers(this.#session.messages) > numBefore;
    }
    if (last !== undefined && numDropped > 0) {
      const forgot = 'The server had forgotten this chat, and it was too long to be sent again as a whole:';
      this.#notice(last, `${forgot} its oldest ${numDropped} messages are no longer part of it.`);
    }
    if (origin !== 'kept') this.onStore();
  }

  /** Goes on with an answer under way, then takes over what the server knows of the conversation. */
  async #restore({ session, messages, unfinished }: StoredChat): Promise<void> {
    const turn = unfinished === null ? null : this.#showUnfinished(unfinished);
    try {
      if (turn !== null && session !== null) await this.#goOn(turn, unfinished?.position ?? null);
      const history = session === null ? messages : await this.#session.refresh();
      const isShown = turn === null ? JSON.stringify(history) === JSON.stringify(messages) : turn.state !== 'failed';
      if (!isShown) this.#show(history, turn === null ? [] : [turn]);
    } catch {
      // The local copy stands; sending will say what is wrong.
    }
    if (turn?.state === 'running') this.#fail(turn, new Error(LEFT));
    this.onStore();
  }

  #showUnfinished({ question, answer }: Unfinished): Turn {
    const turn: Turn = { ...newTurn(question), answer };
    this.turns.push(turn);
    this.onChange({ kind: 'turns' });
    return turn;
  }

  /** Follows the answer from where the page left it, or from its beginning. It may have ended meanwhile. */
  async #goOn(turn: Turn, position: Unfinished['position']): Promise<void> {
    const from = position ?? (await this.#session.ready()).active.map((response) => ({ response })).at(-1);
    if (from === undefined) return this.#fail(turn, new Error(LEFT));
    await this.#take(turn, this.#client.watch(from), position === null ? '' : turn.answer);
    if (turn.state === 'failed') this.#notice(turn, LEFT);
  }

  /**
   * Replaces the turns by those of a history. Of an answer whose rest was `lost` here, the history has what the server
   * kept, or nothing: then what was shown stays.
   */
  #show(messages: readonly ChatMessage[], lost: readonly Turn[] = []): void {
    if (this.running !== null) return;
    this.turns.length = 0;
    for (const message of messages) {
      const last = this.turns.at(-1);
      if (message.role === 'user') {
        this.turns.push({ ...newTurn(message.content), state: 'done', isKept: true });
      } else if (message.role === 'assistant' && last !== undefined) {
        last.answer += message.content;
      }
    }
    for (const turn of lost) {
      const last = this.turns.at(-1);
      if (last?.question !== turn.question) this.turns.push(turn);
      else Object.assign(last, { state: 'cancelled', notice: LEFT });
    }
    this.onChange({ kind: 'turns' });
  }

  #run(turn: Turn): void {
    // Who never chose a model goes on with the one that is the default now.
    if (this.#settings.model === null && this.#isModelGone) this.#reopen();
    const options: SendOptions = { ...this.sampling };
    void this.#take(turn, this.#session.send(turn.question, options), '');
    this.onStore();
  }

  /** The response writes the rest of this turn's answer, behind the text that is there. Fulfils when it has ended. */
  #take(turn: Turn, response: ResponseStream, before: string): Promise<void> {
    turn.response = response;
    this.#before = before;
    response.onState(({ state }) => {
      if (state === 'waiting' && !response.isEnded) this.#notice(turn, WAITING);
      else if (turn.notice === WAITING) this.#notice(turn, null);
    });
    return this.#follow(turn, response, before);
  }

  async #follow(turn: Turn, response: ResponseStream, before: string): Promise<void> {
    // An answer taken up in its middle comes in one rush at first: that is no speed.
    const isLive = response.numEvents === 0 && turn.answer === '';
    try {
      for await (const _ of response) {
        turn.answer = before + response.text;
        turn.stats = liveStats(response, isLive);
        this.onChange({ kind: 'turn', turn });
      }
      const { reason, cancelledBy, usage, timings } = await response.finished;
      turn.notice = null;
      turn.state = reason === 'cancelled' ? 'cancelled' : 'done';
      turn.isKept = reason !== 'cancelled' || turn.answer !== '';
      const decodeMs = timings.totalMs - timings.ttftMs;
      const isMeasured = usage.completionTokens > 1 && decodeMs > 0;
      turn.stats = {
        firstTextMs: isLive ? response.firstTextMs : timings.ttftMs,
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
    turn.notice = isLost ? LOST : asSentence((error as Error).message || 'The answer failed');
    this.onChange({ kind: 'turn', turn });
  }

  #notice(turn: Turn, notice: string | null): void {
    turn.notice = notice;
    this.onChange({ kind: 'turn', turn });
  }
}

function newTurn(question: string): Turn {
  return { question, answer: '', state: 'running', response: null, stats: null, notice: null, isKept: false };
}

/** Messages of errors are written for the middle of a line as well. */
function asSentence(message: string): string {
  const sentence = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?…]$/.test(sentence) ? sentence : `${sentence}.`;
}

function numAnswers(messages: readonly ChatMessage[]): number {
  return messages.filter(({ role }) => role === 'assistant').length;
}

function liveStats(response: ResponseStream, isLive: boolean): TurnStats {
  const { numEvents } = response;
  const firstTextMs = isLive ? response.firstTextMs : null;
  const decodeMs = firstTextMs === null ? 0 : response.elapsedMs - firstTextMs;
  // Before that, one late frame would show as a wild number.
  const isSettled = decodeMs > 150 && numEvents > 3;
  return { firstTextMs, numTokens: numEvents, tokensPerSecond: isSettled ? ((numEvents - 1) * 1000) / decodeMs : null };
}
