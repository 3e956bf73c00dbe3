// The box to write in, with the button that sends, or stops while an answer runs.
import { element, iconButton, setIconButton, uniqueId } from './dom.ts';
import { icon } from './icons.ts';

export interface ComposerActions {
  send(text: string): void;
  /** Send to every chat. */
  sendToAll(text: string): void;
  stop(): void;
}

export class Composer {
  readonly root: HTMLElement;
  readonly #area: HTMLTextAreaElement;
  readonly #button: HTMLButtonElement;
  readonly #actions: ComposerActions;
  #isRunning = false;

  constructor(actions: ComposerActions) {
    this.#actions = actions;
    const id = uniqueId('message');
    this.#area = element('textarea', {
      class: 'composer-area',
      attributes: { id, rows: 1, placeholder: 'Message', dir: 'auto', enterkeyhint: 'send', autocomplete: 'off' },
      on: { keydown: (event) => this.#keyPressed(event), input: () => this.#resize() },
    });
    this.#button = iconButton(icon('send'), 'Send', () => this.#press(), 'composer-button');
    this.root = element(
      'form',
      {
        class: 'composer',
        on: {
          submit: (event) => {
            event.preventDefault();
            this.#submit(false);
          },
        },
      },
      element('label', { class: 'off-screen', attributes: { for: id } }, 'Message'),
      this.#area,
      this.#button,
    );
    this.#update();
  }

  set isRunning(isRunning: boolean) {
    if (this.#isRunning === isRunning) return;
    this.#isRunning = isRunning;
    this.#update();
  }

  focus(): void {
    this.#area.focus({ preventScroll: true });
  }

  #press(): void {
    if (this.#isRunning) this.#actions.stop();
    else this.#submit(false);
    this.focus();
  }

  #keyPressed(event: KeyboardEvent): void {
    // While an input method composes (Chinese, Japanese), Enter belongs to it.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit(event.ctrlKey || event.metaKey);
  }

  #submit(toAll: boolean): void {
    const text = this.#area.value.trim();
    if (text === '' || this.#isRunning) return;
    this.#area.value = '';
    this.#resize();
    if (toAll) this.#actions.sendToAll(text);
    else this.#actions.send(text);
  }

  #update(): void {
    const { root } = this;
    root.dataset['running'] = String(this.#isRunning);
    if (this.#isRunning) setIconButton(this.#button, icon('stop'), 'Stop (Escape)');
    else setIconButton(this.#button, icon('send'), 'Send (Enter)');
    this.#resize();
  }

  #resize(): void {
    this.#button.disabled = !this.#isRunning && this.#area.value.trim() === '';
    // Browsers without field-sizing need their height set by hand; the style sheet limits both.
    if (CSS.supports('field-sizing', 'content')) return;
    this.#area.style.height = 'auto';
    this.#area.style.height = `${this.#area.scrollHeight}px`;
  }
}
