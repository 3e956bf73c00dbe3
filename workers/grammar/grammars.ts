// The grammars of one thread: compiled ones by what they ask for, and the state of each sequence that follows one. Asked
// for a mask before each draw. What must stay true: a sequence's state is a function of its ids alone, so that any
// state may be dropped at any time, and a sequence that moves between workers takes nothing along.
import { ServiceError } from '../../protocol/errors.ts';
import type { GrammarSpec } from '../messages/grammar.ts';
import { compileSpec } from './grammar-source.ts';
import { GrammarInstance, type Vocabulary } from './instance.ts';
import type { Handle, Matcher } from './xgrammar.ts';

/** Grammars compiled here that are kept, and states of sequences; the least recently used go. */
const MAX_COMPILED = 64;
const MAX_MATCHERS = 1024;

/** So many masks in a row that each took so long end their request: some patterns cost more with every token. */
const SLOW_MS = 10;
const MAX_SLOW = 8;

interface Compiled {
  handle: Handle;
  /** Bytes of the heap that an image fills; both 0 for what was compiled here. */
  start: number;
  end: number;
}

interface State {
  /** Name of its grammar. */
  key: string;
  numSlow: number;
  matcher: Matcher;
  /** Tokens of the answer it has seen. */
  numSeen: number;
  isStuck: boolean;
}

export class Grammars {
  readonly #instance: GrammarInstance;
  readonly #hasEnd: boolean;
  readonly #compiled = new Map<string, Compiled>();
  readonly #states = new Map<number, State>();
  readonly #mask: Int32Array;

  private constructor(instance: GrammarInstance, hasEnd: boolean) {
    this.#instance = instance;
    this.#hasEnd = hasEnd;
    this.#mask = new Int32Array(Math.ceil(instance.vocabSize / 32));
    instance.keepImageSpace();
  }

  /** vocabSize: width of a row of logits. */
  static async load(text: Vocabulary, vocabSize: number): Promise<Grammars> {
    return new Grammars(await GrammarInstance.open(text, vocabSize), text.eosTokenIds.size > 0);
  }

  /**
   * Takes the grammar's image, or compiles what comes without one, and returns the grammar's name for `mask`. Throws
   * ServiceError `internal`.
   */
  open(spec: GrammarSpec): string {
    const key = spec.image?.name ?? JSON.stringify(spec);
    const known = this.#compiled.get(key);
    this.#compiled.delete(key);
    this.#compiled.set(key, known ?? this.#receive(spec) ?? this.#compile(spec));
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
    const vector = state.matcher.GetNextTokenBitmask(this.#instance.vocabSize);
    this.#mask.set(this.#instance.xgrammar.vecIntToView(vector));
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
      const { handle } = this.#compiled.get(key) ?? this.#compiled.get(this.open(spec))!;
      const matcher = new this.#instance.xgrammar.GrammarMatcher(handle, undefined, !this.#hasEnd, -1);
      state = { key, matcher, numSeen: 0, isStuck: false, numSlow: 0 };
    }
    this.#states.set(id, state);
    for (; numPrompt + state.numSeen < ids.length; state.numSeen++) {
      state.isStuck ||= !state.matcher.AcceptToken(ids[numPrompt + state.numSeen]!, false);
    }
    return state;
  }

  /** Null without an image for this vocabulary. What was in its place goes, with the states that follow it. */
  #receive({ image }: GrammarSpec): Compiled | null {
    if (image === undefined) return null;
    const { address: start, bytes } = image;
    const end = start + bytes.length;
    for (const [key, other] of this.#compiled) {
      if (other.end <= start || other.start >= end) continue;
      for (const [id, state] of this.#states) if (state.key === key) this.release(id);
      this.#compiled.delete(key);
    }
    const handle = this.#instance.receive(image);
    return handle && { handle, start, end };
  }

  #compile(spec: GrammarSpec): Compiled {
    this.#dropOldest();
    try {
      const { xgrammar, compiler } = this.#instance;
      return { handle: compileSpec(xgrammar, compiler, spec, this.#instance.callSyntax), start: 0, end: 0 };
    } catch (error) {
      throw new ServiceError('internal', 'the grammar could not be compiled', { cause: error });
    }
  }

  /** Half of what was compiled here, when it is too much. Sequences that follow it keep what they need. */
  #dropOldest(): void {
    const own = [...this.#compiled].filter(([, { end }]) => end === 0);
    if (own.length < MAX_COMPILED) return;
    for (const [key, { handle }] of own.slice(0, MAX_COMPILED / 2)) {
      handle.delete();
      this.#compiled.delete(key);
    }
  }
}
