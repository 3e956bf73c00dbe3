// Tasks of the CPU pool and what comes of them.
import type { ErrorCode } from '../../protocol/errors.ts';
import type { CompiledModel, HubAccess, KvChoice, ModelsAction, ModelsReport, ProductChoice } from './models.ts';
import type { PromptInput } from './requests.ts';
import type { MessagePort } from 'node:worker_threads';

/**
 * A task of the CPU pool (cpu-worker.ts). `progress` receives CompileProgress messages; any message from the other side
 * stops the work.
 */
export type CpuTask =
  | {
      op: 'compile';
      model: string;
      cacheDir: string;
      kv: KvChoice;
      products: ProductChoice;
      maxContext: number | null;
      /** Absent: models of the hub cannot be loaded. */
      hub?: HubAccess;
      progress: MessagePort;
    }
  | { op: 'models'; action: ModelsAction; hub: HubAccess; cacheDir: string; progress: MessagePort }
  /** `tenant`: whose texts are remembered by the thread; null: nobody's. */
  | { op: 'encode'; textDir: string; prompt: PromptInput; maxTokens: number; tenant: string | null }
  /** `hub` absent: models of the hub cannot be loaded. Either downloads what is not here. */
  | { op: 'describeEncoder'; model: string; cacheDir: string; hub?: HubAccess; progress: MessagePort }
  | { op: 'compileEncoder'; model: string; cacheDir: string; hub?: HubAccess; progress: MessagePort }
  | { op: 'tokenize'; encoder: CompiledEncoder; inputs: readonly (string | readonly number[])[] }
  | { op: 'embed'; encoder: CompiledEncoder; inputs: readonly EmbeddingInput[] };

/** A task as the main thread asks for it, before it has a port. */
export type CpuRequest = WithoutPort<CpuTask>;
type WithoutPort<T> = T extends CpuTask ? Omit<T, 'progress'> : never;

export type CpuResult =
  | CompiledModel
  | EncodeResult
  | ModelsReport
  | EmbeddingModelInfo
  | CompiledEncoder
  | EmbeddingTokens
  | EmbeddingVectors;

/** Errors a client may see cross the thread as data: an Error loses its fields on the way. */
export type EncodeResult = { tokenIds: number[]; droppedMessages: number } | { code: ErrorCode; message: string };

/** What the world may know of an embedding model. */
export interface EmbeddingModelInfo {
  id: string;
  aliases: readonly string[];
  /** Length of a vector. */
  dimensions: number;
  /** Of one input, special tokens included. */
  maxTokens: number;
  vocabSize: number;
  /** One sentence for people. */
  note: string;
}

/** An encoder ready to be opened on the CPU pool. Plain data: it goes along with every task. */
export interface CompiledEncoder {
  path: string;
  /** Directory with tokenizer.json. */
  textDir: string;
  weightsBytes: number;
  info: EmbeddingModelInfo;
}

export interface EmbeddingInput {
  tokenIds: Int32Array;
  /** Cut to so many and made length 1 again. */
  dimensions: number;
  form: VectorForm;
}

/** Form of a vector in JSON: an array of numbers, or a string with its little-endian float32 bytes. */
export type VectorForm = 'float' | 'base64';

/** Ids of each text with special tokens, or why the input with this index was refused. */
export type EmbeddingTokens = { tokenIds: Int32Array[] } | { index: number; tooLong: string };

/** The JSON text of each vector, made where nothing waits for it. */
export interface EmbeddingVectors {
  vectors: string[];
  computeMs: number;
}
