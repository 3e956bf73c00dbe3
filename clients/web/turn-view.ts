// One question with its answer. The line above the answer carries speed and buttons, so that nothing below growing
// text ever moves; the text is a single text node that only grows.
import type { Turn } from './chat.ts';
import { element, iconButton, setIconButton } from './dom.ts';
import { icon } from './icons.ts';

const COPIED_MS = 1500;
/** Stands where a figure is not known yet. */
const UNKNOWN = '–';

export interface TurnActions {
  regenerate(): void;
}

export class TurnView {
  readonly root: HTMLElement;
  readonly #turn: Turn;
  readonly #text = document.createTextNode('');
  readonly #answer: HTMLElement;
  readonly #stats = element('span', { class: 'turn-stats' });
  /** One element per figure: in a narrow chat those that do not fit are left out whole. */
  readonly #figures: HTMLElement[] = [];
  readonly #notice = element('p', { class: 'turn-notice', attributes: { role: 'status' } });
  readonly #copy: HTMLButtonElement;
  readonly #again: HTMLButtonElement;
  readonly #retry: HTMLButtonElement;
  #isLast = false;

  constructor(turn: Turn, modelName: string, actions: TurnActions) {
    this.#turn = turn;
    this.#copy = iconButton(icon('copy'), 'Copy answer', () => void this.#copyAnswer());
    this.#again = iconButton(icon('again'), 'Answer again', () => actions.regenerate());
    this.#retry = element(
      'button',
      { class: 'text-button', attributes: { type: 'button' }, on: { click: () => actions.regenerate() } },
      'Try again',
    );
    this.#answer = element(
      'div',
      { class: 'answer-text', attributes: { 'aria-live': 'polite', dir: 'auto', 'data-role': 'answer' } },
      this.#text,
    );
    const byline = element(
      'div',
      { class: 'turn-line' },
      element('span', { class: 'turn-model' }, modelName),
      this.#stats,
      element('span', { class: 'turn-buttons' }, this.#copy, this.#again),
    );
    const question = element(
      'div',
      { class: 'question', attributes: { dir: 'auto', 'data-role': 'question' } },
      turn.question,
    );
    this.root = element('section', { class: 'turn' }, question, byline, this.#answer, this.#notice);
    this.update();
  }

  /** Only the last answer can be made again. */
  set isLast(isLast: boolean) {
    if (this.#isLast === isLast) return;
    this.#isLast = isLast;
    this.#updateNotice();
    this.#updateButtons();
  }

  /** Brings the DOM up to the turn's state: call once per frame. */
  update(): void {
    const { answer, state, stats } = this.#turn;
    const shown = this.#text.data;
    if (answer.length >= shown.length && answer.startsWith(shown)) {
      if (answer.length > shown.length) this.#text.appendData(answer.slice(shown.length));
    } else {
      this.#text.data = answer;
    }
    const isRunning = state === 'running';
    // Screen readers hear an answer when it is complete, not each of its words.
    this.#answer.setAttribute('aria-busy', String(isRunning));
    this.root.dataset['state'] = state;
    this.#updateStats();
    this.#stats.title =
      stats === null
        ? ''
        : 'Tokens per second after the first; time from sending to the first text; tokens of the answer';
    this.#updateNotice();
    this.#updateButtons();
  }

  #updateNotice(): void {
    const { state, notice } = this.#turn;
    if (notice === null) this.#notice.replaceChildren();
    else if (state === 'failed') this.#notice.replaceChildren(`${notice} `, ...(this.#isLast ? [this.#retry] : []));
    else this.#notice.textContent = notice;
  }

  #updateStats(): void {
    const figures = figuresOf(this.#turn);
    while (this.#figures.length < figures.length) this.#figures.push(element('span', {}));
    figures.forEach((figure, index) => {
      const text = index === 0 ? figure : ` ${figure}`;
      const shown = this.#figures[index]!;
      if (shown.textContent !== text) shown.textContent = text;
    });
    if (this.#stats.childElementCount === figures.length) return;
    this.#stats.replaceChildren(...this.#figures.slice(0, figures.length));
  }

  #updateButtons(): void {
    const isRunning = this.#turn.state === 'running';
    this.#copy.disabled = isRunning || this.#turn.answer === '';
    this.#again.disabled = isRunning || !this.#isLast;
    this.#again.hidden = !this.#isLast;
  }

  async #copyAnswer(): Promise<void> {
    const hasCopied = await copyText(this.#turn.answer);
    setIconButton(
      this.#copy,
      icon(hasCopied ? 'check' : 'close'),
      hasCopied ? 'Copied' : 'Copying is not allowed here',
    );
    setTimeout(() => setIconButton(this.#copy, icon('copy'), 'Copy answer'), COPIED_MS);
  }
}

/** What is told of an answer, the most telling first; each has its place from the first text on, known yet or not. */
function figuresOf(turn: Turn): string[] {
  const { stats, state, answer } = turn;
  // Stopped before anything came: there is nothing to tell.
  if (state !== 'running' && stats?.numTokens === 0) return [];
  if (stats === null) return state === 'running' && answer === '' ? ['waiting for the first token'] : [];
  const { tokensPerSecond: rate, firstTextMs, numTokens } = stats;
  return [
    `${rate === null ? UNKNOWN : formatRate(rate)} tok/s`,
    `TTFT ${firstTextMs === null ? UNKNOWN : Math.round(firstTextMs)} ms`,
    `${numTokens} ${numTokens === 1 ? 'token' : 'tokens'}`,
  ];
}

function formatRate(rate: number): string {
  return rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1);
}

/** The clipboard API exists only on https and localhost; elsewhere a selection has to do. */
async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element('textarea', { class: 'off-screen' });
    area.value = text;
    document.body.append(area);
    const focused = document.activeElement;
    area.select();
    const hasCopied = document.execCommand('copy');
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return hasCopied;
  }
}
