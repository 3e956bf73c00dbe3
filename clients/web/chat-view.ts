// One chat's pane: head, transcript, composer. Draws at most once per frame, whatever the server sends.
import type { Chat, ChatChange, Turn } from './chat.ts';
import { Composer } from './composer.ts';
import { element, iconButton } from './dom.ts';
import { emptyView, noModelView } from './empty-view.ts';
import { inNextFrame } from './frames.ts';
import { icon } from './icons.ts';
import { Transcript } from './transcript.ts';
import { TurnView } from './turn-view.ts';

export interface ChatViewActions {
  settings(): void;
  close(): void;
  sendToAll(text: string): void;
  /** The title or the activity changed. */
  changed(): void;
}

export class ChatView {
  readonly root: HTMLElement;
  readonly chat: Chat;
  readonly #transcript = new Transcript();
  readonly #composer: Composer;
  readonly #title = element('h2', { class: 'pane-title' });
  readonly #turns = new Map<Turn, TurnView>();
  readonly #dirty = new Set<Turn>();
  readonly #actions: ChatViewActions;
  #hasNewTurns = true;
  readonly #draw = (): void => this.#drawNow();

  constructor(chat: Chat, actions: ChatViewActions) {
    this.chat = chat;
    this.#actions = actions;
    this.#composer = new Composer({
      send: (text) => chat.send(text),
      sendToAll: (text) => actions.sendToAll(text),
      stop: () => chat.stop(),
    });
    const head = element(
      'header',
      { class: 'pane-head' },
      this.#title,
      element('span', { class: 'activity', attributes: { 'aria-hidden': true } }),
      iconButton(icon('tune'), 'Chat settings', () => actions.settings()),
      iconButton(icon('close'), 'Close chat', () => actions.close()),
    );
    this.root = element('article', { class: 'pane' }, head, this.#transcript.root, this.#composer.root);
    chat.onChange = (change) => this.#changed(change);
    this.#drawNow();
  }

  focus(): void {
    this.#composer.focus();
  }

  /** The pane was hidden and is visible again. */
  shown(): void {
    this.#transcript.settle();
  }

  /** The model became known or changed: the empty view names it. */
  modelChanged(): void {
    if (this.#turns.size === 0) this.#changed({ kind: 'turns' });
  }

  #changed(change: ChatChange): void {
    if (change.kind === 'turn') this.#dirty.add(change.turn);
    if (change.kind === 'turns') this.#hasNewTurns = true;
    inNextFrame(this.#draw);
  }

  #drawNow(): void {
    const { chat } = this;
    if (this.#hasNewTurns) {
      this.#hasNewTurns = false;
      this.#drawTurns();
      if (chat.running !== null) this.#transcript.follow();
    }
    for (const turn of this.#dirty) this.#turns.get(turn)?.update();
    this.#dirty.clear();
    this.#transcript.settle();
    const isRunning = chat.running !== null;
    if (this.#title.textContent !== chat.title) this.#title.textContent = chat.title;
    this.root.setAttribute('aria-label', chat.title);
    this.root.dataset['running'] = String(isRunning);
    this.#composer.isRunning = isRunning;
    this.#actions.changed();
  }

  #drawTurns(): void {
    const { chat } = this;
    const { content } = this.#transcript;
    if (chat.turns.length === 0) {
      this.#turns.clear();
      content.replaceChildren(chat.lacksModel ? noModelView() : emptyView(chat.model, (text) => chat.send(text)));
      return;
    }
    if (this.#turns.size === 0) content.replaceChildren();
    for (const [turn, view] of this.#turns) {
      if (chat.turns.includes(turn)) continue;
      view.root.remove();
      this.#turns.delete(turn);
    }
    for (const turn of chat.turns) {
      let view = this.#turns.get(turn);
      if (view === undefined) {
        const actions = { regenerate: (): void => void chat.regenerate() };
        view = new TurnView(turn, chat.model?.id ?? 'Answer', actions);
        this.#turns.set(turn, view);
        content.append(view.root);
      }
      view.isLast = turn === chat.turns.at(-1);
    }
  }
}
