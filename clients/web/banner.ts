// Tells how the connection is, over the page and not in its flow, so that nothing moves when it comes and goes. A key
// that the server asks for is typed here.
import type { ConnectionState } from '../index.ts';
import { ServiceError } from '../index.ts';
import { element, uniqueId } from './dom.ts';

export interface BannerActions {
  retryNow(): void;
  useKey(key: string): void;
}

/** Short interruptions (a reload of the server, a moment without network) need no words. */
const SHOW_AFTER_MS = 400;
const BACK_MS = 2000;

export class Banner {
  readonly root = element('div', { class: 'banner', attributes: { role: 'status', 'aria-live': 'polite' } });
  readonly #actions: BannerActions;
  #wasShown = false;
  #isLoading = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #clock: ReturnType<typeof setInterval> | undefined;

  constructor(actions: BannerActions) {
    this.#actions = actions;
    this.root.hidden = true;
  }

  show(state: ConnectionState): void {
    clearTimeout(this.#timer);
    clearInterval(this.#clock);
    switch (state.state) {
      case 'open':
        if (!this.#wasShown) return;
        this.#wasShown = false;
        this.#say('good', 'Connected again');
        this.#timer = setTimeout(() => this.#hide(), BACK_MS);
        return;
      case 'connecting':
        if (this.#wasShown) this.#say('bad', 'Connection lost. Trying again…');
        else this.#timer = setTimeout(() => this.#lost('Connecting…'), SHOW_AFTER_MS * 2);
        return;
      case 'waiting':
        if (this.#wasShown) this.#countDown(state.retryInMs);
        else this.#timer = setTimeout(() => this.#countDown(state.retryInMs - SHOW_AFTER_MS), SHOW_AFTER_MS);
        return;
      case 'closed':
        if (state.error !== null) this.#refused(state.error);
        return;
    }
  }

  /** A model that loads is no fault; null: it is ready. */
  loading(message: string | null): void {
    if (message !== null) {
      // "Connected again" may still be shown, and would take this away with it.
      clearTimeout(this.#timer);
      this.#isLoading = true;
      this.#say('plain', `Please wait: ${message}`);
    } else if (this.#isLoading) {
      this.#isLoading = false;
      this.#say('good', 'The model is ready');
      this.#timer = setTimeout(() => this.#hide(), BACK_MS);
    }
  }

  #countDown(inMs: number): void {
    const atMs = performance.now() + inMs;
    const retry = element(
      'button',
      { class: 'text-button', attributes: { type: 'button' }, on: { click: () => this.#actions.retryNow() } },
      'Try now',
    );
    const when = document.createTextNode('');
    // Counting aloud would drown everything else a screen reader has to say.
    const seconds = element('span', { attributes: { 'aria-hidden': true } }, when);
    const tick = (): void => {
      const left = Math.ceil((atMs - performance.now()) / 1000);
      when.data = left > 1 ? `Trying again in ${left} s` : 'Trying again…';
    };
    tick();
    this.#clock = setInterval(tick, 500);
    this.#lost('Connection lost. ', seconds, retry);
  }

  #lost(...content: (Node | string)[]): void {
    this.#wasShown = true;
    this.#say('bad', ...content);
  }

  #refused(error: Error): void {
    this.#wasShown = true;
    const needsKey = error instanceof ServiceError && (error.code === 'unauthorized' || error.code === 'expired_token');
    if (!needsKey) {
      this.#say('bad', `The server refused this page: ${error.message}`);
      return;
    }
    const id = uniqueId('key');
    const input = element('input', { attributes: { id, type: 'password', autocomplete: 'off', required: true } });
    const form = element(
      'form',
      {
        class: 'key-form',
        on: {
          submit: (event) => {
            event.preventDefault();
            this.#actions.useKey(input.value);
          },
        },
      },
      element('label', { attributes: { for: id } }, 'This server asks for a key'),
      input,
      element('button', { class: 'button button-primary', attributes: { type: 'submit' } }, 'Connect'),
    );
    this.#say('plain', form);
    input.focus();
  }

  #say(tone: 'good' | 'bad' | 'plain', ...content: (Node | string)[]): void {
    this.root.dataset['tone'] = tone;
    this.root.replaceChildren(...content);
    this.root.hidden = false;
  }

  #hide(): void {
    this.root.hidden = true;
  }
}
