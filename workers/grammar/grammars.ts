// The grammars of one thread: compiled ones by what they ask for, and the state of each sequence that follows one. Asked
// for a mask before each draw. What must stay true: a sequence's state is a function of its ids alone, so that any
// state may be dropped at any time, and a sequence that moves between workers takes nothing along.
import { ServiceError } from '../../protocol/errors.ts';
import type { GrammarSpec } from '../messages.ts';
import type { TextModel } from '../text/text-model.ts';
import { compileSpec } from './grammar-source.ts';
import { loadXgrammar, type Compiler, type Handle, type Matcher, type Xgrammar } from './xgrammar.ts';

/** Compiled grammars kept, and states of sequences; the least recently used go. */
const MAX_COMPILED = 64;
const MAX_MATCHERS = 1024;
/** Beyond this much wasm memory nothing is kept that is not in use. */
const HEAP_BYTES = 512 << 20;

/** So many masks in a row that each took so long end their request: some patterns cost more with every token. */
const SLOW_MS = 10;
const MAX_SLOW = 8;

/** What a grammar needs of a text model. */
export type Vocabulary = Pick<TextModel, 'vocabSize' | 'eosTokenIds' | 'tokenBytes'>;

interface State {
  numSlow: number;
  matcher: Matcher;
  /** Tokens of the answer it has seen. */
  numSeen: number;
  isStuck: boolean;
}

export class Grammars {
  readonly #xgrammar: Xgrammar;
  readonly #compiler: Compiler;
  readonly #vocabSize: number;
  readonly #hasEnd: boolean;
  readonly #compiled = new Map<string, Handle>();
  readonly #states = new Map<number, State>();
  readonly #mask: Int32Array;

  private constructor(xgrammar: Xgrammar, text: Vocabulary, vocabSize: number) {
    this.#xgrammar = xgrammar;
    this.#vocabSize = vocabSize;
    this.#hasEnd = text.eosTokenIds.size > 0;
    this.#compiler = openCompiler(xgrammar, text, vocabSize);
    this.#mask = new Int32Array(Math.ceil(vocabSize / 32));
  }

  /** vocabSize: width of a row of logits. */
  static async load(text: Vocabulary, vocabSize: number): Promise<Grammars> {
    return new Grammars(await loadXgrammar(), text, vocabSize);
  }

  /** Compiles what is not compiled yet, and returns the grammar's name for `mask`. Throws ServiceError `internal`. */
  open(spec: GrammarSpec): string {
    const key = JSON.stringify(spec);
    const known = this.#compiled.get(key);
    this.#compiled.delete(key);
    if (this.#compiled.size >= MAX_COMPILED || this.#xgrammar.HEAPU8.byteLength > HEAP_BYTES) this.#dropOldest();
    this.#compiled.set(key, known ?? this.#compile(spec));
    return key;
  }

  /**
   * Which tokens may follow: bit id % 32 of word id / 32. Null: none may, or telling takes too long. The answer is ids from numPrompt on; `id` names
   * the sequence in this thread. Valid until the next call.
   */
  mask(id: number, spec: GrammarSpec, key: string, ids: readonly number[], numPrompt: number): Int32Array | null {
    const started = performance.now();
    const state = this.#follow(id, spec, key, ids, numPrompt);
    if (state.isStuck || state.matcher.IsTerminated()) return null;
    const vector = state.matcher.GetNextTokenBitmask(this.#vocabSize);
    this.#mask.set(this.#xgrammar.vecIntToView(vector));
    vector.delete();
    state.numSlow = performance.now() - started < SLOW_MS ? 0 : state.numSlow + 1;
    state.isStuck ||= state.numSlow >= MAX_SLOW;
    return this.#mask.every((word) => word === 0) ? null : this.#mask;
  }

  /** The grammar is complete: nothing may follow. Only where a model has no token for the end. */
  isOver(id: number, spec: GrammarSpec, key: string, ids: readonly number[], numPrompt: number): boolean {
    return !this.#hasEnd && this.#follow(id, spec, key, ids, numPrompt).matcher.IsTerminated();
  }

  /** The sequence has ended, as far as this thread knows. */
  release(id: number): void {
    this.#states.get(id)?.matcher.delete();
    this.#states.delete(id);
  }

  /** The sequence's state after all its ids; made anew when it is not here. */
  #follow(id: number, spec: GrammarSpec, key: string, ids: readonly number[], numPrompt: number): State {
    let state = this.#states.get(id);
    this.#states.delete(id);
    if (state === undefined) {
      for (const oldest of this.#states.keys()) {
        if (this.#states.size < MAX_MATCHERS) break;
        this.release(oldest);
      }
      const compiled = this.#compiled.get(key) ?? this.#compiled.get(this.open(spec))!;
      const matcher = new this.#xgrammar.GrammarMatcher(compiled, undefined, !this.#hasEnd, -1);
      state = { matcher, numSeen: 0, isStuck: false, numSlow: 0 };
    }
    this.#states.set(id, state);
    for (; numPrompt + state.numSeen < ids.length; state.numSeen++) {
      state.isStuck ||= !state.matcher.AcceptToken(ids[numPrompt + state.numSeen]!, false);
    }
    return state;
  }

  #compile(spec: GrammarSpec): Handle {
    try {
      return compileSpec(this.#xgrammar, this.#compiler, spec);
    } catch (error) {
      throw new ServiceError('internal', 'the grammar could not be compiled', { cause: error });
    }
  }

  /** Sequences that follow it keep what they need. */
  #dropOldest(): void {
    for (const [key, compiled] of this.#compiled) {
      compiled.delete();
      this.#compiled.delete(key);
      if (this.#compiled.size < MAX_COMPILED / 2) return;
    }
  }
}

/** A compiler for the model's tokens. Special tokens have no bytes and are never allowed, but for those that end. */
export function openCompiler(xgrammar: Xgrammar, text: Vocabulary, vocabSize: number): Compiler {
  const nothing = new Uint8Array(0);
  const bytes = Array.from({ length: vocabSize }, (_, id) =>
    id < text.vocabSize && !text.eosTokenIds.has(id) ? text.tokenBytes(id) : nothing,
  );
  const vocabulary = xgrammar.vecStringFromJSArray(bytes);
  const stops = xgrammar.vecIntFromJSArray([...text.eosTokenIds].filter((id) => id < vocabSize));
  const tokenizer = new xgrammar.TokenizerInfo(vocabulary, 'RAW', vocabSize, stops, false);
  vocabulary.delete();
  stops.delete();
  const compiler = new xgrammar.GrammarCompiler(tokenizer, 1, false);
  tokenizer.delete();
  return compiler;
}
