// One request inside the engine: its growing token list, its text pipeline and its sampler. It lives in exactly one
// worker at a time and moves between workers as plain data (`SequenceState`).
import { ServiceError } from '../protocol/errors.ts';
import { isUrgent } from '../protocol/messages.ts';
import type { TokenAlternative, TokenLogprob } from '../protocol/messages.ts';
import type { Grammars } from './grammar/grammars.ts';
import { Haste } from './messages/events.ts';
import type { GrammarSpec } from './messages/grammar.ts';
import type { EngineRequest } from './messages/requests.ts';
import type { Outputs } from './outputs.ts';
import { likeliest, logSumExp } from './sampling/logprobs.ts';
import { Sampler } from './sampling/sampler.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { AnswerStream } from './text/answer-stream.ts';
import type { AnswerState } from './text/answer-stream.ts';
import type { TextModel } from './text/text-model.ts';

export type RequestMeta = Omit<EngineRequest, 'prompt' | 'others'>;

/** A sequence on its way between workers. */
export interface SequenceState {
  meta: RequestMeta;
  /** Prompt and answer so far; the KV of the last id is not computed yet while it decodes. */
  ids: number[];
  numPrompt: number;
  seed: number;
  answer: AnswerState;
  /** Home slot that goes along with it. */
  home: number;
  /** Leading ids whose KV the home holds. */
  homeLength: number;
}

/** What every sequence of one engine has in common. */
export interface SequenceContext {
  text: TextModel;
  /** Null where no answer can be held to a form. */
  grammars: Grammars | null;
  /** Width of a row of logits; at least the tokenizer's. */
  vocabSize: number;
  /** Positions of a slot. */
  maxLen: number;
  /** EngineShared.generated */
  generated: SharedArrayBuffer;
}

/** Why a sequence stops; null goes on. `stuck`: its grammar cannot be followed further, and nothing was sampled. */
export type StopCause = 'stop' | 'length' | 'tool_calls' | 'stuck' | null;

export class Sequence {
  readonly meta: RequestMeta;
  readonly ids: number[];
  readonly numPrompt: number;
  home: number;
  homeLength: number;
  /** Other choices of its prompt, which wait with it until that is computed; they have no home yet. */
  forks: Sequence[] = [];
  readonly #context: SequenceContext;
  readonly #seed: number;
  readonly #answer: AnswerStream;
  readonly #sampler: Sampler;
  /** What it is held to, and its name in this thread's grammars. */
  readonly #grammar: { spec: GrammarSpec; key: string; grammars: Grammars } | null;
  readonly #eos: ReadonlySet<number>;
  readonly #maxTokens: number;
  readonly #isUrgent: boolean;
  readonly #generated: Int32Array;

  /** A new sequence has no `answer` state yet. Throws ServiceError where its grammar cannot be compiled. */
  constructor(state: Omit<SequenceState, 'answer'> & { answer?: AnswerState }, context: SequenceContext) {
    const { text, vocabSize, maxLen } = context;
    this.#context = context;
    const { meta, ids, numPrompt, seed } = state;
    this.meta = meta;
    this.#isUrgent = isUrgent(meta.class);
    this.ids = ids;
    this.numPrompt = numPrompt;
    this.home = state.home;
    this.homeLength = state.homeLength;
    this.#seed = seed;
    const parseTools = meta.toolNames.length > 0;
    const withLogprobs = meta.logprobs !== null;
    const isForced = meta.grammar !== null && meta.grammar.calls.length > 0;
    const options = { stop: meta.sampling.stop, parseTools, isForced, toolNames: meta.toolNames, withLogprobs };
    this.#answer = new AnswerStream(text, options, state.answer);
    this.#sampler = new Sampler(meta.sampling, seed, vocabSize, ids.slice(0, numPrompt), ids.slice(numPrompt));
    this.#grammar = meta.grammar === null ? null : openGrammar(meta.grammar, context.grammars);
    this.#eos = text.eosTokenIds;
    this.#generated = new Int32Array(context.generated);
    this.#maxTokens = Math.min(meta.sampling.maxTokens ?? Infinity, maxLen - numPrompt);
  }

  get id(): number {
    return this.meta.id;
  }

  get numGenerated(): number {
    return this.ids.length - this.numPrompt;
  }

  /** Tokens it may still generate. */
  get numRemaining(): number {
    return this.#maxTokens - this.numGenerated;
  }

  /** Tokens whose KV is in memory while it decodes: all but the last. */
  get past(): number {
    return this.ids.length - 1;
  }

  /**
   * Samples the next token from a row of logits, appends it and says whether the answer is over. `top`: the likeliest
   * tokens of the same rows, where the model hands them out (Model.top).
   */
  accept(logits: Float32Array, offset: number, out: Outputs, top: TopRows | null = null): StopCause {
    const mask = this.#mask();
    if (mask === 'stuck') {
      this.finish(out);
      return this.#stop('stuck');
    }
    const token = this.#sampler.sample(logits, offset, top, mask);
    this.ids.push(token);
    if (this.home >= 0) Atomics.store(this.#generated, this.home, this.numGenerated);
    // The first one is waited for.
    const haste = this.#isUrgent ? Haste.urgent : this.numGenerated === 1 ? Haste.now : Haste.later;
    out.beginToken(this.id, token, haste);
    // A grammar allows the end where nothing may follow it.
    if (this.#eos.has(token) && (!this.meta.sampling.ignoreEos || this.#grammar !== null)) return this.#complete(out);
    const logprob = this.meta.logprobs === null ? undefined : this.#logprobOf(token, logits, offset);
    const stopped = this.#answer.push(token, out, logprob);
    out.endToken();
    if (stopped) {
      this.#answer.finish(out);
      return this.#stop('stop');
    }
    if (this.#isOver()) return this.#complete(out);
    if (this.numGenerated < this.#maxTokens) return null;
    this.#answer.finish(out, true);
    return this.#stop(this.#answer.numToolCalls > 0 && !this.#answer.isCallOpen ? 'tool_calls' : 'length');
  }

  /** The answer is as long as the model made it. */
  #complete(out: Outputs): StopCause {
    out.endToken();
    this.#answer.finish(out);
    return this.#stop(this.#answer.numToolCalls > 0 ? 'tool_calls' : 'stop');
  }

  #stop(cause: StopCause): StopCause {
    this.#grammar?.grammars.release(this.id);
    return cause;
  }

  /** What its grammar allows now; null without one. */
  #mask(): Int32Array | 'stuck' | null {
    if (this.#grammar === null) return null;
    const { spec, key, grammars } = this.#grammar;
    return grammars.mask(this.id, spec, key, this.ids, this.numPrompt) ?? 'stuck';
  }

  #isOver(): boolean {
    if (this.#grammar === null) return false;
    const { spec, key, grammars } = this.#grammar;
    return grammars.isOver(this.id, spec, key, this.ids, this.numPrompt);
  }

  #logprobOf(token: number, logits: Float32Array, offset: number): TokenLogprob {
    const { text, vocabSize } = this.#context;
    const lse = logSumExp(logits, offset, vocabSize);
    const { logprob, ids, logprobs } = likeliest(logits, offset, vocabSize, lse, token, this.meta.logprobs ?? 0);
    const top = ids.map((id, index): TokenAlternative => {
      const [name, bytes] = text.tokenName(id);
      return [name, logprobs[index]!, bytes];
    });
    const [name, bytes] = text.tokenName(token);
    return [name, logprob, bytes, top];
  }

  /** Releases text still held back, for an end that no token brought about. */
  finish(out: Outputs): void {
    out.beginTail(this.id);
    this.#answer.finish(out, true);
  }

  state(): SequenceState {
    const { meta, ids, numPrompt, home, homeLength } = this;
    return { meta, ids, numPrompt, seed: this.#seed, answer: this.#answer.snapshot(), home, homeLength };
  }
}

function openGrammar(
  spec: GrammarSpec,
  grammars: Grammars | null,
): { spec: GrammarSpec; key: string; grammars: Grammars } {
  if (grammars === null) throw new ServiceError('unsupported', 'this server cannot hold answers to a grammar');
  return { spec, key: grammars.open(spec), grammars };
}
