// The terminal as the chat uses it: the prompt, dimmed remarks when someone looks, and Ctrl-C as an event. The only
// file that touches readline. Answers go to stdout, everything else to stderr, so that a pipe gets the answer alone.
import { createInterface } from 'node:readline';
import type { Interface } from 'node:readline';

const PROMPT = '> ';
/** What a terminal obeys instead of showing it. What a model or a server says may be written by anybody. */
const CONTROLS = /[^\P{Cc}\n\t]/gu;
const shown = (text: string): string => text.replace(CONTROLS, '\uFFFD');

export class Terminal {
  readonly isInteractive = process.stdin.isTTY === true && process.stdout.isTTY === true;
  readonly #isDimmable = process.stderr.isTTY === true && !process.env['NO_COLOR'];
  readonly #lines: Interface | null;
  #waiting: ((line: string | null) => void) | null = null;
  readonly #early: string[] = [];
  #hasEnded = false;

  /** `onInterrupt` hears Ctrl-C. */
  constructor(onInterrupt: () => void) {
    if (!this.isInteractive) {
      this.#lines = null;
      process.on('SIGINT', onInterrupt);
      return;
    }
    this.#lines = createInterface({ input: process.stdin, output: process.stdout, prompt: PROMPT });
    this.#lines.on('SIGINT', onInterrupt);
    this.#lines.on('line', (line) => {
      if (this.#waiting === null) this.#early.push(line);
      else this.#answer(line);
    });
    this.#lines.on('close', () => {
      this.#hasEnded = true;
      this.#answer(null);
    });
  }

  /** The next line, or null when the input has ended. */
  ask(): Promise<string | null> {
    const early = this.#early.shift();
    if (early !== undefined) return Promise.resolve(early);
    if (this.#hasEnded || this.#lines === null) return Promise.resolve(null);
    this.#lines.prompt();
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  /** All of a piped input. */
  async readAll(): Promise<string> {
    const decoder = new TextDecoder();
    let text = '';
    for await (const chunk of process.stdin as AsyncIterable<Uint8Array>)
      text += decoder.decode(chunk, { stream: true });
    return (text + decoder.decode()).trim();
  }

  /** Text of an answer: to a pipe as it is, to a terminal without what that would obey. */
  write(text: string): void {
    process.stdout.write(process.stdout.isTTY ? shown(text) : text);
  }

  /** A remark on a line of its own. */
  remark(text: string): void {
    process.stderr.write(this.#isDimmable ? `\u001b[2m${shown(text)}\u001b[22m\n` : `${shown(text)}\n`);
  }

  /** Clears a line half typed and shows the prompt again. */
  clearLine(): void {
    if (this.#lines === null) return;
    // Ctrl-U: readline keeps the line otherwise.
    this.#lines.write(null, { ctrl: true, name: 'e' });
    this.#lines.write(null, { ctrl: true, name: 'u' });
    process.stdout.write('\n');
    this.#lines.prompt();
  }

  get hasTypedText(): boolean {
    return (this.#lines?.line.length ?? 0) > 0;
  }

  close(): void {
    this.#lines?.close();
  }

  #answer(line: string | null): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.(line);
  }
}
