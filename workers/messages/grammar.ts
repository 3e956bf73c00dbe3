// Grammars between the main thread, the thread that checks them and engine workers.
import type { ErrorCode } from '../../protocol/errors.ts';
import type { CallSyntax } from '../text/call-syntax.ts';

/**
 * What an answer must look like. Equal ones are compiled once, so the same request must always give the same one. `param`
 * is the field of the request that a part came from, for errors.
 */
export interface GrammarSpec {
  /** Form of the text; null: any text. */
  text: TextForm | null;
  /** Calls that may be made; empty: none. */
  calls: CallForm[];
  /** A call must be made; the answer has no text then. */
  mustCall: boolean;
  /** More than one call. */
  isParallel: boolean;
  /** How the check compiled it; absent: whoever needs it compiles it. */
  image?: GrammarImage;
}

export type TextForm =
  | { kind: 'schema'; schema: string; param: string }
  | { kind: 'regex'; pattern: string; param: string };

export interface CallForm {
  name: string;
  /** JSON schema of the arguments as JSON text; null: any object. */
  schema: string | null;
  /** False: where the schema cannot be held to, any object will do. */
  isStrict: boolean;
  param: string;
}

/** A compiled grammar as the memory of one wasm instance, for the same place in others (workers/grammar/instance.ts). */
export interface GrammarImage {
  /** Unlike that of any other. */
  name: string;
  /** In the wasm heap. */
  address: number;
  /** Shared memory. */
  bytes: Uint8Array;
  /** Address of the grammar itself. */
  root: number;
  /** Of the vocabulary that it is compiled for, as it lies in memory. */
  digest: string;
}

/** Addresses of images in every wasm heap, in bytes; the vocabulary and the states of sequences are below. */
export const ImageSpace = { start: 160 << 20, end: 256 << 20, largest: 24 << 20 } as const;

/** The part that all wasm instances for one vocabulary have in common, and the address of its compiler. */
export interface GrammarBase {
  /** Shared memory. */
  bytes: Uint8Array;
  compiler: number;
  digest: string;
  /** How its model writes calls. */
  callSyntax: CallSyntax;
}

/** What a thread that checks grammars is started with. */
export interface GrammarCheckData {
  /** '' is the fake model's. */
  textDir: string;
  vocabSize: number;
  niceness: number;
  /** Computing time of a check. */
  limitMs: number;
  /** From a thread before it: the text model need not be read. */
  base: GrammarBase | null;
}

/** Sent to it, one at a time. */
export interface GrammarCheck {
  spec: GrammarSpec;
  /** Where its image goes. */
  address: number;
}

/** Its answers: that it can work, or a verdict. `task`: its number in the system, '' where there is none. */
export type GrammarCheckAnswer = { ready: { task: string; base: GrammarBase } } | GrammarVerdict;

/** What the check says: the grammar with its image, or what is wrong. `isLost`: the thread is not ready for more yet. */
export type GrammarVerdict =
  | { spec: GrammarSpec }
  | { code: ErrorCode; message: string; param?: string; isLost: boolean };
