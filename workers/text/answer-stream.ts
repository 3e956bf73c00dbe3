// From sampled token ids to what a reader may see, for one sequence: detokenise → stop strings → tool calls. The
// engine pushes every token here. What must stay true: snapshot() is plain data and a stream made from it goes on as
// if nothing had happened, since sequences move between threads; without stops and tools a token costs a table lookup.
import type { TokenLogprob } from '../../protocol/messages.ts';
import { hermesCalls } from './call-syntax.ts';
import { Detokenizer, type DetokenizerState } from './detokenizer.ts';
import { ForcedCallParser, type ForcedCallState } from './forced-calls.ts';
import { LogprobStream, type LogprobState } from './logprob-stream.ts';
import { StopMatcher, type StopState } from './stop.ts';
import type { TextModel } from './text-model.ts';
import { TrailingCallParser, type TrailingCallState } from './trailing-calls.ts';
import { ToolCallParser, type AnswerSink, type CallParser, type ToolCallState } from './tool-calls.ts';

export type { AnswerSink } from './tool-calls.ts';

export interface AnswerOptions {
  /** The answer ends before the first of these. */
  stop: readonly string[];
  parseTools: boolean;
  /** A grammar holds calls to their form, so their arguments are passed on as they are made. */
  isForced?: boolean;
  /** Functions of the request; calls of others stay text. Absent: all names are accepted. */
  toolNames?: readonly string[];
  /** Tokens are pushed with their log-probabilities, which go to the sink along with the text they became. */
  withLogprobs?: boolean;
}

type CallState = ToolCallState | ForcedCallState | TrailingCallState;

/** Plain data (structured clone): everything a stream remembers between tokens. */
export interface AnswerState {
  detokenizer: DetokenizerState;
  stop: StopState | null;
  tools: CallState | null;
  logprobs: (LogprobState & { numPassed: number }) | null;
}

export class AnswerStream {
  readonly #detokenizer: Detokenizer;
  readonly #stop: StopMatcher | null;
  readonly #tools: CallParser | null;
  readonly #logprobs: LogprobStream | null;
  readonly #text: TextModel;
  /** Characters that came through the stop matcher; only counted with log-probabilities. */
  #numPassed: number;

  constructor(text: TextModel, options: AnswerOptions, state?: AnswerState) {
    this.#detokenizer = new Detokenizer(text, state?.detokenizer);
    this.#stop = options.stop.length === 0 ? null : new StopMatcher(options.stop, state?.stop ?? undefined);
    this.#tools = options.parseTools ? callParser(text, options, state?.tools ?? undefined) : null;
    this.#logprobs = options.withLogprobs ? new LogprobStream(state?.logprobs ?? undefined) : null;
    this.#text = text;
    this.#numPassed = state?.logprobs?.numPassed ?? 0;
  }

  /** Takes a sampled token (end tokens too: they have no text). True: a stop string is complete, the answer is over. */
  push(tokenId: number, out: AnswerSink, logprob?: TokenLogprob): boolean {
    const numBefore = this.#detokenizer.numPending;
    const text = this.#detokenizer.push(tokenId);
    if (this.#logprobs !== null && logprob !== undefined) {
      this.#logprobs.add(logprob);
      const numBytes = numBefore + this.#text.tokenBytes(tokenId).length - this.#detokenizer.numPending;
      this.#logprobs.append(text, numBytes);
    }
    if (text !== '') this.#pass(text, out);
    return this.#stop !== null && this.#stop.isStopped;
  }

  /**
   * Passes on what was held back. Call once, when the answer is over for whatever reason. Cut off from outside, it may
   * end within a character: the rest of that was never asked for, so its first bytes are left out.
   */
  finish(out: AnswerSink, isCutOff = false): void {
    const numBytes = this.#detokenizer.numPending;
    const text = isCutOff ? '' : this.#detokenizer.finish();
    if (text !== '') {
      this.#logprobs?.append(text, numBytes);
      this.#pass(text, out);
    }
    this.#show(this.#stop?.finish() ?? '', out);
    this.#tools?.finish(this.#sink(out));
    if (this.#logprobs !== null) out.logprobs?.(this.#logprobs.finish());
  }

  /** Tool calls so far. */
  get numToolCalls(): number {
    return this.#tools?.numCalls ?? 0;
  }

  /** The last of them is not complete. */
  get isCallOpen(): boolean {
    return this.#tools?.isCallOpen ?? false;
  }

  snapshot(): AnswerState {
    return {
      detokenizer: this.#detokenizer.snapshot(),
      stop: this.#stop?.snapshot() ?? null,
      tools: this.#tools?.snapshot() ?? null,
      logprobs: this.#logprobs && { ...this.#logprobs.snapshot(), numPassed: this.#numPassed },
    };
  }

  #pass(text: string, out: AnswerSink): void {
    this.#show(this.#stop === null ? text : this.#stop.push(text), out);
  }

  #show(text: string, out: AnswerSink): void {
    if (text === '') return;
    if (this.#logprobs !== null) this.#numPassed += text.length;
    const sink = this.#sink(out);
    if (this.#tools === null) sink.text(text);
    else this.#tools.push(text, sink);
    // What was held so far and is held no longer, nor was shown, became a call.
    if (this.#logprobs !== null) out.logprobs?.(this.#logprobs.hideTo(this.#numDecided));
  }

  /** Characters that are shown or hidden for certain. */
  get #numDecided(): number {
    return this.#numPassed - (this.#tools?.numHeld ?? 0);
  }

  /** Adds to each text the tokens that it decides. */
  #sink(out: AnswerSink): AnswerSink {
    const logprobs = this.#logprobs;
    if (logprobs === null) return out;
    return {
      text: (text) => {
        // Called before the tool parser lets go of the text, and by the matcher's text right behind the last.
        const offset = this.#tools === null ? logprobs.offset : this.#numDecided;
        out.logprobs?.(logprobs.show(offset, text));
        out.text(text);
      },
      toolBegin: (index, name) => {
        out.logprobs?.(logprobs.hideTo(this.#numDecided));
        out.toolBegin(index, name);
      },
      toolDelta: (index, text) => out.toolDelta(index, text),
      toolEnd: (index) => out.toolEnd(index),
    };
  }
}

function callParser(text: TextModel, options: AnswerOptions, state: CallState | undefined): CallParser {
  const syntax = text.callSyntax ?? hermesCalls;
  const names = options.toolNames ?? null;
  if (options.isForced === true) return new ForcedCallParser(state?.kind === 'forced' ? state : undefined, syntax);
  if (syntax.kind === 'hermes') return new ToolCallParser(names, state?.kind === 'found' ? state : undefined);
  return new TrailingCallParser(syntax, names, state?.kind === 'trailing' ? state : undefined);
}
