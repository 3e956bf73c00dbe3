// The scrolling list of turns. It follows the newest text only while the reader is at the bottom; whoever scrolls up
// to read stays where they are and gets a button back down.
import { element, iconButton } from './dom.ts';
import { icon } from './icons.ts';

/** Closer to the end than this counts as being there, CSS pixels. */
const NEAR_PX = 32;

export class Transcript {
  readonly root: HTMLElement;
  readonly scroller: HTMLElement;
  readonly content = element('div', { class: 'transcript-content' });
  readonly #down: HTMLButtonElement;
  #isFollowing = true;
  #lastTop = 0;

  constructor() {
    this.scroller = element(
      'div',
      { class: 'transcript-scroller', attributes: { role: 'log', 'aria-label': 'Conversation', tabindex: 0 } },
      this.content,
    );
    this.#down = iconButton(icon('down'), 'To the newest text', () => this.follow(), 'to-bottom');
    this.#down.hidden = true;
    this.root = element('div', { class: 'transcript' }, this.scroller, this.#down);
    this.scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
  }

  /** Goes to the end and stays there. */
  follow(): void {
    this.#isFollowing = true;
    this.settle();
  }

  /** After content has grown or the view was shown again. */
  settle(): void {
    if (this.#isFollowing) {
      this.scroller.scrollTop = this.scroller.scrollHeight;
      this.#lastTop = this.scroller.scrollTop;
    }
    this.#down.hidden = this.#isFollowing;
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    // A hidden view has no height and reports the top.
    if (clientHeight === 0) return;
    const isAtEnd = scrollTop + clientHeight >= scrollHeight - NEAR_PX;
    // Growing content moves the end away from us without any scrolling up: only that counts as leaving.
    if (isAtEnd) this.#isFollowing = true;
    else if (scrollTop < this.#lastTop - 1) this.#isFollowing = false;
    this.#lastTop = scrollTop;
    this.#down.hidden = this.#isFollowing;
  }
}
