// Models as the threads tell each other of them: compiled ones, their KV memory, where they come from.
import type { ModelInfo } from '../../protocol/messages.ts';

/** Dimensions of a decoder as the engine needs them. */
export interface ModelShape {
  numLayers: number;
  numKvHeads: number;
  headDim: number;
  vocabSize: number;
  /** Longest sequence the compiled graph has rotary positions for. */
  maxPositions: number;
  /** What KV memory holds of a key's or value's channel. */
  kvType: KvType;
}

/** int8: a quarter of the memory; slower to prefill and a little less exact (workers/model/README). */
export const kvTypes = ['float32', 'int8'] as const;
export type KvType = (typeof kvTypes)[number];

/** KV memory as seen by whoever copies or computes on it. */
export type KvArray = Float32Array | Int8Array;

const kvElementBytes = { float32: 4, int8: 1 } as const;

/** Bytes of KV memory one token takes in all layers. */
export function kvBytesPerToken(shape: Omit<ModelShape, 'vocabSize' | 'maxPositions'>): number {
  return shape.numLayers * 2 * shape.numKvHeads * shape.headDim * kvElementBytes[shape.kvType];
}

/** A view over a whole buffer, or over a new one of `source` elements. */
export function kvArray(type: KvType, source: number | ArrayBufferLike): KvArray {
  const buffer = typeof source === 'number' ? new ArrayBuffer(source * kvElementBytes[type]) : source;
  return type === 'int8' ? new Int8Array(buffer) : new Float32Array(buffer);
}

/** How a compiled model multiplies: in blocks (MatMulNBits), or in rows of two terms (workers/model/two-terms.ts). */
export type Products = 'blocks' | 'rows';
export const productChoices = ['auto', 'blocks', 'rows'] as const;
/** auto: rows where the processor multiplies them in tiles. */
export type ProductChoice = (typeof productChoices)[number];

/** Which KV memory a model is compiled for. */
export interface KvChoice {
  /** auto: float32 while four full contexts of it fit `memoryBytes`, else int8. */
  type: KvType | 'auto';
  /** What the model may count on of KV_MEMORY. */
  memoryBytes: number;
}

/** A model ready to be opened by engine workers. Plain data: it is posted to them. */
export interface CompiledModel {
  kind: 'onnx' | 'fake';
  id: string;
  shape: ModelShape;
  /** Graph of decode steps, and of prefill; the same file may serve both. Empty for the fake model. */
  decodePath: string;
  prefillPath: string;
  /** Graphs that compute several tokens of one row as single steps would; empty where none was found to do so. */
  verifyGraphs: readonly VerifyGraph[];
  /** Directory with tokenizer.json and tokenizer_config.json. */
  textDir: string;
  eosTokenIds: number[];
  products: Products;
  /** For people: "8-bit, block 64". */
  quantization: string;
  /**
   * KL divergence (nats) of next tokens with this KV memory from those with float32, as the compiler measured it; 0 for
   * float32 itself.
   */
  kvDivergence: number;
  weightsBytes: number;
  /** For people: where it was found. */
  origin: string;
  info: ModelInfo;
  /** kind fake: time of a step and of a prefilled token, and whether prompts may order faults. */
  fake?: FakeOptions;
}

export interface VerifyGraph {
  numTokens: number;
  path: string;
}

export interface FakeOptions {
  stepMs: number;
  prefillUsPerToken: number;
  /** Time of each further token of a verifying run, in steps; at 1 guessing gains nothing. */
  verifyCost: number;
  faults: boolean;
  /** Its threads die while they open it. */
  dies?: boolean;
}

export interface CompileProgress {
  phase: string;
  /** 0..1 */
  done: number;
  /** Where the phase is a download: of all the model's files. */
  bytes?: { done: number; total: number };
}

/** Where models of a hub come from and where they are kept. */
export interface HubAccess {
  /** http or https, without a slash at its end. */
  endpoint: string;
  /** For private and gated models; empty: none. */
  token: string;
  modelsDir: string;
}

/** One commit of a model on this machine's disk. */
export interface LocalModel {
  id: string;
  commit: string;
  /** Branches and tags that meant it when they were pulled. */
  revisions: string[];
  bytes: number;
  /** partial: its download was cut; damaged: a file is missing or has another length. */
  state: 'complete' | 'partial' | 'damaged';
  /** Entries of the cache that were compiled from it. */
  compiled: { folder: string; bytes: number }[];
}

export interface VerifiedFile {
  commit: string;
  path: string;
  bytes: number;
  isRight: boolean;
}

/** Of `npm run models`. */
export type ModelsAction = { kind: 'list' } | { kind: 'pull' | 'verify' | 'remove'; name: string };

export type ModelsReport =
  | { kind: 'list'; models: LocalModel[] }
  | { kind: 'pull'; directory: string; commit: string; bytes: number }
  | { kind: 'verify'; files: VerifiedFile[] }
  | { kind: 'remove'; bytes: number };
