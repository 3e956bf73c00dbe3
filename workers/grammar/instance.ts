// One instance of web-xgrammar with a model's vocabulary, laid out so that a grammar which one instance compiled can be
// used by another: compiling takes up to a tenth of a second, and an engine worker's streams would stand still so long.
// The library cannot write a compiled grammar down, so its memory goes across as it is, to the same address. What must
// stay true: two instances of one vocabulary have the same bytes up to `#top` (both did the same), whatever is compiled
// at an address lies there as a whole, and nothing else of the instance that receives it ever does.
import { hash, randomUUID } from 'node:crypto';
import { ImageSpace, type GrammarBase, type GrammarImage } from '../messages/grammar.ts';
import { hermesCalls, type CallSyntax } from '../text/call-syntax.ts';
import type { TextModel } from '../text/text-model.ts';
import { loadXgrammar, type Compiler, type Handle, type Xgrammar } from './xgrammar.ts';

/** What a grammar needs of a text model. */
export type Vocabulary = Pick<TextModel, 'vocabSize' | 'eosTokenIds' | 'tokenBytes'> &
  Partial<Pick<TextModel, 'callSyntax'>>;

/** More than any hole among what is allocated: comes from the end of the heap. */
const PROBE_BYTES = 8 << 20;
/** Bookkeeping of the allocator before an allocation. */
const HEADER_BYTES = 16;

export class GrammarInstance {
  readonly xgrammar: Xgrammar;
  readonly compiler: Compiler;
  readonly vocabSize: number;
  /** How calls are written. */
  readonly callSyntax: CallSyntax;
  /** A compiled grammar, to make others like it from an address. */
  readonly #sample: Handle;
  /** The common part, where it was kept to go back to. */
  #base: GrammarBase | null;
  /** Of the common part: tells instances apart that cannot exchange images. */
  readonly #digest: string;
  readonly #top: number;

  private constructor(xgrammar: Xgrammar, vocabSize: number, text: Vocabulary | GrammarBase) {
    this.xgrammar = xgrammar;
    this.vocabSize = vocabSize;
    this.callSyntax = text.callSyntax ?? hermesCalls;
    const samples = makeSamples(xgrammar);
    this.#sample = samples.compiled;
    // All the memory at once, so that it is one piece.
    xgrammar._free(xgrammar._malloc(ImageSpace.end));
    if ('bytes' in text) {
      xgrammar.HEAPU8.set(text.bytes);
      this.compiler = handleLike(samples.compiler, text.compiler) as Compiler;
      this.#base = text;
      this.#digest = text.digest;
      this.#top = this.#end();
      return;
    }
    const bottom = this.#end();
    this.compiler = openCompiler(xgrammar, text, vocabSize);
    this.#top = this.#end();
    this.#fillHoles();
    this.#base = null;
    this.#digest = hash('sha1', xgrammar.HEAPU8.subarray(bottom, this.#top));
  }

  /**
   * vocabSize: width of a row of logits. A base instead of a text model saves reading the vocabulary. onMessage receives
   * what the library prints.
   */
  static async open(
    text: Vocabulary | GrammarBase,
    vocabSize: number,
    onMessage?: (message: string) => void,
  ): Promise<GrammarInstance> {
    return new GrammarInstance(await loadXgrammar(onMessage), vocabSize, text);
  }

  /** The common part, for another instance to be opened with. First called before anything is compiled. */
  base(): GrammarBase {
    this.#base ??= {
      bytes: shared(this.xgrammar.HEAPU8.subarray(0, this.#top + HEADER_BYTES)),
      compiler: rootOf(this.compiler),
      digest: this.#digest,
      callSyntax: this.callSyntax,
    };
    return this.#base;
  }

  /** Back to what it was when `base` was taken: all that was made since is gone. */
  restore(): void {
    this.xgrammar.HEAPU8.set(this.base().bytes);
  }

  /**
   * What `compile` makes, to be used at `address` of other instances, and in this one until it is restored. Null: it takes
   * more space than there is. The image belongs to the caller.
   */
  compileAt(address: number, compile: () => Handle): { compiled: Handle; image: GrammarImage } | null {
    this.restore();
    this.xgrammar._malloc(address - this.#end() + HEADER_BYTES);
    const start = this.#end() - HEADER_BYTES;
    const compiled = compile();
    const end = this.#end();
    if (start < address || end > Math.min(address + ImageSpace.largest, ImageSpace.end)) return null;
    const bytes = shared(this.xgrammar.HEAPU8.subarray(start, end));
    const image = { name: randomUUID(), address: start, bytes, root: rootOf(compiled), digest: this.#digest };
    return { compiled, image };
  }

  /** From now on nothing is allocated where images are put: they may be received. */
  keepImageSpace(): void {
    const before = ImageSpace.start - 2 * HEADER_BYTES;
    const below = this.xgrammar._malloc(before - this.#end());
    this.xgrammar._malloc(ImageSpace.end - before);
    this.xgrammar._free(below);
  }

  /**
   * The grammar of an image, or null when it is not for this vocabulary. Must not be deleted; valid until its place is
   * used again.
   */
  receive({ address, bytes, root, digest }: GrammarImage): Handle | null {
    if (digest !== this.#digest) return null;
    this.xgrammar.HEAPU8.set(bytes, address);
    return handleLike(this.#sample, root);
  }

  /** Where the heap ends: the next large allocation will be there. */
  #end(): number {
    const end = this.xgrammar._malloc(PROBE_BYTES);
    this.xgrammar._free(end);
    return end;
  }

  /** What is compiled must not be spread over holes in the common part. */
  #fillHoles(): void {
    for (let size = 1 << 20; size > 0; size = size > 256 ? size >> 1 : size - 8) {
      let hole: number;
      do hole = this.xgrammar._malloc(size);
      while (hole < this.#top);
      this.xgrammar._free(hole);
    }
  }
}

/** One object of each kind, to make others like them from an address. */
function makeSamples(xgrammar: Xgrammar): { compiler: Handle; compiled: Handle } {
  const nothing = { vocabSize: 1, eosTokenIds: new Set<number>(), tokenBytes: () => Uint8Array.of(0x61) };
  const compiler = openCompiler(xgrammar, nothing, 1);
  const grammar = xgrammar.Grammar.FromEBNF('root ::= "a"', 'root');
  const compiled = compiler.CompileGrammar(grammar);
  grammar.delete();
  return { compiler, compiled };
}

/** Address of the object of the library behind a handle. */
function rootOf(handle: Handle): number {
  return handle.$$.ptr;
}

function handleLike(sample: Handle, root: number): Handle {
  const record = { ...sample.$$, ptr: root, count: { value: 1 } };
  return Object.create(Object.getPrototypeOf(sample) as object, { $$: { value: record, writable: true } }) as Handle;
}

function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

/** A compiler for the model's tokens. Special tokens have no bytes and are never allowed, but for those that end. */
function openCompiler(xgrammar: Xgrammar, text: Vocabulary, vocabSize: number): Compiler {
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
