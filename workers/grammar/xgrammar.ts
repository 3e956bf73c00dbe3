// The one door to web-xgrammar: loads it and names the part of its binding that we use. Each thread that needs it loads
// an instance of its own. What must stay true: after a call threw, the instance is in no known state and is thrown away.
//
// The package cannot be imported in Node (a UMD file in a package of ES modules), and its public functions are
// asynchronous although nothing behind them is, which a decode step cannot wait for. So its source is evaluated here as
// what it is, a function of `exports`, with three changes: the binding is handed out, its allocator too, and Node's
// `module` is ours.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { compileFunction } from 'node:vm';

/** An object of the wasm heap: lives until `delete`. */
export interface Handle {
  delete(): void;
  /** Of the binding's own: `ptr` is the object's address. */
  $$: { ptr: number };
}

export interface Matcher extends Handle {
  /** False: the grammar does not allow it, and nothing happened. */
  AcceptToken(token: number, verbose: boolean): boolean;
  GetNextTokenBitmask(vocabSize: number): Handle;
  IsTerminated(): boolean;
}

export interface Grammar extends Handle {
  ToString(): string;
}

export interface Compiler extends Handle {
  CompileGrammar(grammar: Grammar): Handle;
  CompileStructuralTag(json: string): Handle;
}

/** web-xgrammar 0.1.27 as its C++ declares it. */
export interface Xgrammar {
  Grammar: {
    FromEBNF(source: string, rootRule: string): Grammar;
    FromJSONSchema(
      schema: string,
      anyWhitespace: boolean,
      indent: number | undefined,
      separators: { first: string; second: string },
      isStrict: boolean,
      maxWhitespace: number | undefined,
      print: boolean,
    ): Grammar;
    FromStructuralTag(json: string): Grammar;
  };
  TokenizerInfo: new (
    vocabulary: Handle,
    kind: string,
    vocabSize: number,
    stopTokens: Handle,
    addsSpace: boolean,
  ) => Handle;
  GrammarCompiler: new (tokenizer: Handle, threads: number, isCaching: boolean) => Compiler;
  GrammarMatcher: new (
    compiled: Handle,
    stopTokens: undefined,
    endsWithoutStop: boolean,
    maxRollback: number,
  ) => Matcher;
  vecStringFromJSArray(values: readonly (string | Uint8Array)[]): Handle;
  vecIntFromJSArray(values: readonly number[]): Handle;
  /** Into the wasm heap: valid until the vector is deleted or anything else is called. */
  vecIntToView(vector: Handle): Int32Array;
  HEAPU8: Uint8Array;
  /** Of the wasm heap: a number of bytes to an address, and back. */
  _malloc(size: number): number;
  _free(address: number): void;
}

interface Package {
  TokenizerInfo: { createTokenizerInfo(vocabulary: string[]): Promise<unknown> };
  binding(): Xgrammar;
}

const EXPORT = 'exports.TokenizerInfo = TokenizerInfo;';
const IMPORT = "import('module')";
const ALLOCATOR = 'var ___getTypeName=';

/** Loads a new instance. `onMessage` receives what the library prints: reasons of failures, and warnings. */
export async function loadXgrammar(onMessage: (text: string) => void = () => {}): Promise<Xgrammar> {
  const require = createRequire(import.meta.url);
  const path = require.resolve('@mlc-ai/web-xgrammar');
  const source = readFileSync(path, 'utf8');
  for (const anchor of [EXPORT, IMPORT, ALLOCATOR]) {
    if (source.split(anchor).length !== 2) throw new Error(`this web-xgrammar is not the version we know: ${anchor}`);
  }
  const changed = source
    .replace(EXPORT, `${EXPORT} exports.binding = () => binding;`)
    .replace(IMPORT, 'Promise.resolve({ createRequire: () => require })')
    .replace(ALLOCATOR, `Module._malloc=(size)=>_malloc(size);Module._free=(address)=>_free(address);${ALLOCATOR}`);
  const exports = {} as Package;
  const print = (...parts: unknown[]): void => onMessage(parts.join(' '));
  const console = { log: print, info: print, warn: print, error: print };
  const evaluate = compileFunction(changed, ['exports', 'module', 'require', '__filename', 'console'], {
    filename: path,
  }) as (...values: unknown[]) => void;
  evaluate(exports, { exports }, createRequire(path), path, console);
  // Whatever is asked for first brings the wasm up.
  await exports.TokenizerInfo.createTokenizerInfo(['a']);
  return exports.binding();
}
