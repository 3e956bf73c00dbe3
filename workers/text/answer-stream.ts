// From sampled token ids to what a reader may see, for one sequence: detokenise → stop strings → tool calls. The
// engine pushes every token here. What must stay true: snapshot() is plain data and a stream made from it goes on as
// if nothing had happened, since sequences move between threads; without stops and tools a token costs a table lookup.
import { Detokenizer, type DetokenizerState } from './detokenizer.ts';
import { StopMatcher, type StopState } from './stop.ts';
import type { TextModel } from './text-model.ts';
import { ToolCallParser, type AnswerSink, type ToolCallState } from './tool-calls.ts';

export type { AnswerSink } from './tool-calls.ts';

export interface AnswerOptions {
  /** The answer ends before the first of these. */
  stop: readonly string[];
  parseTools: boolean;
  /** Functions of the request; calls of others stay text. Absent: all names are accepted. */
  toolNames?: readonly string[];
}

/** Plain data (structured clone): everything a stream remembers between tokens. */
export interface AnswerState {
  detokenizer: DetokenizerState;
  stop: StopState | null;
  tools: ToolCallState | null;
}

export class AnswerStream {
  readonly #detokenizer: Detokenizer;
  readonly #stop: StopMatcher | null;
  readonly #tools: ToolCallParser | null;

  constructor(text: TextModel, options: AnswerOptions, state?: AnswerState) {
    this.#detokenizer = new Detokenizer(text, state?.detokenizer);
    this.#stop = options.stop.length === 0 ? null : new StopMatcher(options.stop, state?.stop ?? undefined);
    this.#tools = options.parseTools ? new ToolCallParser(options.toolNames ?? null, state?.tools ?? undefined) : null;
  }

  /** Takes a sampled token (end tokens too: they have no text). True: a stop string is complete, the answer is over. */
  push(tokenId: number, out: AnswerSink): boolean {
    const text = this.#detokenizer.push(tokenId);
    if (text !== '') this.#pass(text, out);
    return this.#stop !== null && this.#stop.isStopped;
  }

  /**
   * Passes on what was held back. Call once, when the answer is over for whatever reason. Cut off from outside, it may
   * end within a character: the rest of that was never asked for, so its first bytes are left out.
   */
  finish(out: AnswerSink, isCutOff = false): void {
    const text = isCutOff ? '' : this.#detokenizer.finish();
    if (text !== '') this.#pass(text, out);
    const held = this.#stop?.finish() ?? '';
    if (this.#tools === null) {
      if (held !== '') out.text(held);
      return;
    }
    if (held !== '') this.#tools.push(held, out);
    this.#tools.finish(out);
  }

  /** Complete tool calls so far. */
  get numToolCalls(): number {
    return this.#tools?.numCalls ?? 0;
  }

  snapshot(): AnswerState {
    return {
      detokenizer: this.#detokenizer.snapshot(),
      stop: this.#stop?.snapshot() ?? null,
      tools: this.#tools?.snapshot() ?? null,
    };
  }

  #pass(text: string, out: AnswerSink): void {
    const shown = this.#stop === null ? text : this.#stop.push(text);
    if (shown === '') return;
    if (this.#tools === null) out.text(shown);
    else this.#tools.push(shown, out);
  }
}
