// The page: the bar above, up to four chats beside each other or behind tabs, one client for all of them.
import type { Client, ConnectionState } from '../index.ts';
import { Chat } from './chat.ts';
import { ChatView } from './chat-view.ts';
import { showAbout, showSettings } from './dialogs.ts';
import { element, iconButton } from './dom.ts';
import { isBuiltIn } from './empty-view.ts';
import { icon } from './icons.ts';
import { readChats, writeChats } from './store.ts';
import { themeButton } from './theme.ts';

const MOST_CHATS = 4;
const stateNames = { connecting: 'Connecting', open: 'Connected', waiting: 'Not connected', closed: 'Refused' };

export class App {
  readonly root: HTMLElement;
  /** Called with how far a model has loaded, and with null when it is ready. */
  onLoading: (message: string | null) => void = () => {};
  readonly #client: Client;
  readonly #views: ChatView[] = [];
  readonly #panes = element('main', { class: 'panes' });
  readonly #tabs = element('nav', { class: 'tabs', attributes: { 'aria-label': 'Chats' } });
  readonly #model = element('button', {
    class: 'model-line',
    attributes: { type: 'button', title: 'About the model, the server and the keys' },
    on: { click: () => this.#about() },
  });
  readonly #dot = element('span', { class: 'dot', attributes: { role: 'img' } });
  readonly #newChat: HTMLButtonElement;
  #active = 0;
  #isLeaving = false;

  constructor(client: Client) {
    this.#client = client;
    this.#newChat = iconButton(icon('plus'), 'New chat (Alt+N)', () => this.#add(), 'new-chat');
    this.#newChat.append(element('span', { class: 'label' }, 'New chat'));
    const mark = icon('mark');
    const bar = element(
      'header',
      { class: 'bar' },
      element('h1', { class: 'brand' }, mark, element('span', {}, 'Tokenwire')),
      this.#model,
      this.#dot,
      themeButton(),
      this.#newChat,
    );
    this.root = element('div', { class: 'app' }, bar, this.#tabs, this.#panes);
    const stored = readChats().slice(0, MOST_CHATS);
    for (const chat of stored) this.#addView(new Chat(client, chat));
    if (stored.length === 0) this.#addView(new Chat(client));
    this.#layOut();
    document.addEventListener('keydown', (event) => this.#keyPressed(event));
    // The last chances to note how far an answer is: the next visit goes on from there. A hidden page may be discarded.
    addEventListener('pagehide', () => {
      this.#store();
      // What happens now (answers cut off by leaving) must not overwrite it.
      this.#isLeaving = true;
    });
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'hidden') this.#store();
    });
    this.stateChanged(client.state);
  }

  /** Puts the cursor where people want to write. */
  focus(): void {
    this.#views[this.#active]?.focus();
  }

  stateChanged(state: ConnectionState): void {
    this.#dot.dataset['state'] = state.state;
    this.#dot.setAttribute('aria-label', stateNames[state.state]);
    this.#dot.title = stateNames[state.state];
  }

  /** The server told its models: at the welcome, and later when they changed. */
  modelsChanged(): void {
    const model = this.#client.models[0];
    const context =
      model === undefined || model.contextLength === 0 ? '' : `context ${model.contextLength.toLocaleString('en')}`;
    const kind = model !== undefined && isBuiltIn(model) ? 'tiny, built in' : '';
    const more = [context, kind].filter((part) => part !== '').join(' · ');
    this.#model.replaceChildren(
      element('strong', {}, model?.id ?? 'no model'),
      ...(more === '' ? [] : [element('span', { class: 'model-more' }, more)]),
      icon('info'),
    );
    for (const view of this.#views) view.modelChanged();
  }

  #add(): void {
    if (this.#views.length >= MOST_CHATS) return;
    this.#addView(new Chat(this.#client));
    this.#active = this.#views.length - 1;
    this.#layOut();
    this.focus();
  }

  #addView(chat: Chat): void {
    const view: ChatView = new ChatView(chat, {
      settings: () => showSettings(chat, this.#client),
      close: () => this.#remove(view),
      sendToAll: (text) => {
        for (const { chat: other } of this.#views) other.send(text);
      },
      changed: () => this.#drawTabs(),
    });
    chat.onStore = () => this.#store();
    chat.onLoading = (message) => this.onLoading(message);
    view.root.addEventListener('focusin', () => this.#activate(this.#views.indexOf(view)));
    this.#views.push(view);
    this.#panes.append(view.root);
  }

  #remove(view: ChatView): void {
    const index = this.#views.indexOf(view);
    if (index === -1) return;
    this.#views.splice(index, 1);
    view.chat.onStore = () => {};
    view.chat.close();
    view.root.remove();
    if (this.#views.length === 0) this.#addView(new Chat(this.#client));
    this.#active = Math.max(0, Math.min(this.#active - (index < this.#active ? 1 : 0), this.#views.length - 1));
    this.#layOut();
    this.focus();
    this.#store();
  }

  #activate(index: number): void {
    if (index === -1 || index === this.#active) return;
    this.#active = index;
    this.#layOut();
  }

  #layOut(): void {
    this.#panes.dataset['count'] = String(this.#views.length);
    for (const [index, view] of this.#views.entries()) view.root.classList.toggle('is-active', index === this.#active);
    const isFull = this.#views.length >= MOST_CHATS;
    this.#newChat.disabled = isFull;
    this.#newChat.title = isFull ? `${MOST_CHATS} chats are open: close one first` : 'New chat (Alt+N)';
    this.#drawTabs();
    for (const view of this.#views) view.shown();
  }

  #drawTabs(): void {
    while (this.#tabs.children.length > this.#views.length) this.#tabs.lastElementChild?.remove();
    for (const [index, { chat }] of this.#views.entries()) {
      let tab = this.#tabs.children[index] as HTMLButtonElement | undefined;
      if (tab === undefined) {
        tab = element(
          'button',
          { class: 'tab', attributes: { type: 'button' }, on: { click: () => this.#switchTo(index) } },
          element('span', { class: 'tab-title' }),
          element('span', { class: 'activity', attributes: { 'aria-hidden': true } }),
        );
        this.#tabs.append(tab);
      }
      const title = tab.firstElementChild as HTMLElement;
      if (title.textContent !== chat.title) title.textContent = chat.title;
      tab.dataset['running'] = String(chat.running !== null);
      tab.setAttribute('aria-current', String(index === this.#active));
    }
  }

  #switchTo(index: number): void {
    if (index >= this.#views.length) return;
    this.#activate(index);
    this.focus();
  }

  #keyPressed(event: KeyboardEvent): void {
    if (document.querySelector('dialog[open]') !== null) return;
    if (event.key === 'Escape') {
      this.#views[this.#active]?.chat.stop();
      return;
    }
    if (!event.altKey || event.ctrlKey || event.metaKey) return;
    // By place on the keyboard: with Alt, some systems report another character.
    if (event.code === 'KeyN') this.#add();
    else if (/^Digit[1-4]$/.test(event.code)) this.#switchTo(Number(event.code.slice(5)) - 1);
    else return;
    event.preventDefault();
  }

  #store(): void {
    if (this.#isLeaving) return;
    writeChats(this.#views.map((view) => view.chat.stored()));
  }

  #about(): void {
    showAbout(this.#client);
  }
}
