// What crosses the thread between src and the workers: requests in, one StepOutput per step out.
// The only file of this folder that src may import.
import type { ChatMessage, LatencyClass, ModelInfo, TokenLogprob, ToolDefinition } from '../protocol/messages.ts';
import type { ErrorCode } from '../protocol/errors.ts';
import type { SamplingParams } from '../protocol/sampling.ts';
import type { MessagePort } from 'node:worker_threads';

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

/** Prompt of a request, rendered and encoded where the model's text files are. */
export type PromptInput =
  | {
      kind: 'chat';
      messages: ChatMessage[];
      tools: ToolDefinition[];
      /** Token ids of this conversation so far (prompt and answer of the last turn): reused when the template agrees. */
      history: number[] | null;
      truncation: 'auto' | 'error';
    }
  | { kind: 'tokens'; tokenIds: number[] }
  /** Encoded beforehand on the CPU pool. */
  | { kind: 'encoded'; tokenIds: number[]; droppedMessages: number };

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

/** Addresses of images in every wasm heap, in bytes; the vocabulary and the states of sequences are below. */
export const ImageSpace = { start: 160 << 20, end: 256 << 20, largest: 24 << 20 } as const;

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

/** The part that all wasm instances for one vocabulary have in common, and the address of its compiler. */
export interface GrammarBase {
  /** Shared memory. */
  bytes: Uint8Array;
  compiler: number;
  digest: string;
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

/** What the engine is asked for. Every response makes one, or is one of the choices of one. */
export interface EngineRequest {
  /** Unique in this process, never reused. */
  id: number;
  /** Index of this request's cancel flag in `EngineShared.flags`; free again once End was processed. */
  flag: number;
  tenant: string;
  /** Of the tenant, for its share of the tokens. */
  weight: number;
  /** Session that will continue from this request's tokens, or ''. */
  session: string;
  class: LatencyClass;
  prompt: PromptInput;
  /** Parse calls of these functions out of the answer; empty: none. */
  toolNames: string[];
  /** Held to token by token, where there is one; it has passed the check (workers/grammar). */
  grammar: GrammarSpec | null;
  sampling: SamplingParams;
  /** Tell each token's log-probability, with those of so many alternatives; null: no. */
  logprobs: number | null;
  /** Number among the choices of one prompt, from 0: it goes into the seed of those after the first. */
  choice: number;
  /** Further choices: the prompt is computed once, and they go on from its KV. All else is as above. */
  others: OtherChoice[];
  /** Epoch milliseconds after which a waiting request is refused; Infinity for none. */
  queueDeadline: number;
  /** Epoch milliseconds after which the answer is of no use; Infinity for none. */
  deadline: number;
}

/** A choice beside the one that its request names: a request of its own to everyone but the encoder. */
export type OtherChoice = Pick<EngineRequest, 'id' | 'flag' | 'choice'>;

/** Kinds of engine events. An event is four consecutive entries of Step.events: kind, id, a, b. */
export const Ev = {
  /** a = prompt tokens, b = '' : the prompt is encoded and waits for a slot. */
  Encoded: 0,
  /** a = cached tokens, b = '' : prefill begins. */
  Prefill: 1,
  /** a = oldest messages left out of the prompt. */
  Dropped: 2,
  /** a = token id, b = text that became certain with it (may be ''). */
  Token: 3,
  /** b = text without a token of its own: what detokeniser or stop matcher still held at the end. */
  Text: 4,
  /** a = index of the call, b = function name. */
  ToolBegin: 5,
  /** a = index of the call, b = piece of the arguments JSON. */
  ToolDelta: 6,
  /** a = index of the call. */
  ToolEnd: 7,
  /** a = index in endReasons, b = '' or "code: message" of a ServiceError. The last event of an id. */
  End: 8,
  /** a = index in Step.logprobs: tokens of the text in the id's next Token or Text, or of earlier text. */
  Logprobs: 9,
} as const;

export const endReasons = ['stop', 'length', 'tool_calls', 'cancelled', 'error'] as const;
export type EndReason = (typeof endReasons)[number];

/** What a worker posts: its newest step, after those before it that could wait. */
export interface StepOutput {
  op: 'step';
  /**
   * Number of this message among the step messages of all workers (an Int32 that wraps around). A sequence moves between
   * workers and each has a port of its own, so without it a second token could overtake the first.
   */
  order: number;
  /** In their order, at least one. */
  steps: Step[];
}

/** What came of one step of a worker, or of a part of one. */
export interface Step {
  /** Flat: kind, id, a, b, kind, id, a, b, … */
  events: (number | string)[];
  /** What Logprobs events refer to; absent without any. */
  logprobs?: TokenLogprob[][];
  /** When the newest token was sampled, epoch milliseconds with fraction (performance.timeOrigin + now()). */
  sampledAtMs: number;
  stats: StepStats;
}

/**
 * How soon a step has to be with the main thread: it may be collected with later ones, it may not, or its worker even
 * waits until it was delivered.
 */
export const Haste = { later: 0, now: 1, urgent: 2 } as const;
export type Haste = (typeof Haste)[keyof typeof Haste];

export interface StepStats {
  /** Rows of the decode step, 0 when there was none. */
  batchSize: number;
  stepMs: number;
  prefillTokens: number;
  prefillMs: number;
  /** Tokens guessed in this step, and those of them that the model confirmed. */
  draftedTokens: number;
  acceptedTokens: number;
  /** KV rows copied between slots since the last step, and the time it took. */
  movedTokens: number;
  moveMs: number;
}

/** Gauges of the lead worker, posted when they change and at most every 100 ms. */
export interface EngineGauges {
  op: 'gauges';
  waiting: number;
  running: number;
  residentSlots: number;
  kvUsedTokens: number;
  kvBytesPerToken: number;
  kvReservedBytes: number;
  hookMisses: number;
}

/** Memory shared by the main thread and all workers of one model. */
export interface EngineShared {
  /** Per layer one buffer for K and one for V, [slots, kvHeads, maxLen, headDim] of the shape's kvType, alternating. */
  kv: SharedArrayBuffer[];
  /** Int32 per request: a Flag. */
  flags: SharedArrayBuffer;
  /** Int32 per slot: id of the worker that may write it (asserted when `debugOwners`). */
  owners: SharedArrayBuffer;
  /** Int32 per slot: tokens ever written there (pages are never given back); one more entry with their sum. */
  marks: SharedArrayBuffer;
  /** Int32 per slot: tokens of the answer of the sequence whose home it is, for the lead to share out what comes next. */
  generated: SharedArrayBuffer;
  /** Int32 by `Order`: how far step messages are. */
  order: SharedArrayBuffer;
  /** Int32 per worker: threads it computes with at the moment, 0 when it has nothing to do. */
  busy: SharedArrayBuffer;
  /** One Int32: streams up to which all are best left to the solo worker (solo-model.ts), 0 for never. */
  soloRows: SharedArrayBuffer;
  /** One Int32 for the whole process: held while a session is created, since its settings pass through the environment. */
  loadLock?: SharedArrayBuffer;
  /** Absent: `SlotLayout.budgetTokens` is this model's own. */
  kvLease?: KvLeaseShared;
}

/** A model's part of the KV memory that all models share. */
export interface KvLeaseShared {
  /** Int32 by `Lease`. */
  lease: SharedArrayBuffer;
  /** BigInt64 by `Pot`; the same for all models. */
  pot: SharedArrayBuffer;
}

/** Indices in `KvLeaseShared.lease`. */
export const Lease = {
  /** Tokens the model may hold; its workers raise it. */
  granted: 0,
  /** Tokens up to which they may; the main thread's. */
  cap: 1,
  size: 2,
} as const;

/** Indices in `KvLeaseShared.pot`. */
export const Pot = {
  /** Bytes that no model has. */
  freeBytes: 0,
  /** Counts the times that a model wanted more and did not get it. */
  refusals: 1,
  size: 2,
} as const;

/** What the main thread asks of a request, seen by whichever worker holds it at its next step. */
export const Flag = { run: 0, cancel: 1, park: 2 } as const;

/** Int32 indices in `EngineShared.order`. */
export const Order = {
  /** Number of the next step message; workers take it. */
  next: 0,
  /** All messages below were delivered; the main thread writes it and notifies. */
  delivered: 1,
  size: 2,
} as const;

/** Index of the worker that few streams are left to; it must not be the lead, which prefills. */
export const SOLO_WORKER = 1;

/** Int32 indices in a worker's control buffer. */
export const Ctl = {
  /** Counts messages for this worker; Atomics.notify'd. */
  mail: 0,
  stop: 1,
  /** 1 while a step runs. */
  busy: 2,
  /** Steps begun. */
  beats: 3,
  size: 16,
} as const;

/** Layout of the slots: decode range of each worker, then the resident slots. */
export interface SlotLayout {
  /** Rows of each worker's decode range; worker w owns [w·rowsPerWorker, (w+1)·rowsPerWorker). */
  rowsPerWorker: number;
  numWorkers: number;
  numSlots: number;
  maxLen: number;
  /** The sum over slots of tokens ever written stays below this; how far below is up to `EngineShared.kvLease`. */
  budgetTokens: number;
}

/** Argument of the endless Piscina task of one engine worker. Worker 0 is the lead. */
export interface WorkerInit {
  index: number;
  model: CompiledModel;
  layout: SlotLayout;
  shared: EngineShared;
  ctl: SharedArrayBuffer;
  /** To the main thread. */
  port: MessagePort;
  threads: number;
  /** Guess tokens ahead while one sequence decodes alone. */
  speculation: boolean;
  /** Few streams may decode on all cores, in worker SOLO_WORKER. */
  solo: boolean;
  debugOwners: boolean;
  /** Of the machine, as far as this process may use them. */
  cores: number;
}

/** main → worker */
export type ToWorker =
  | { op: 'submit'; request: EngineRequest }
  /** Lead only: a decode worker's direct port; it answers with its inventory on that port. */
  | { op: 'attach'; index: number; port: MessagePort; ctl: SharedArrayBuffer }
  /** Decode worker only: the lead's end of the direct port. */
  | { op: 'lead'; port: MessagePort; ctl: SharedArrayBuffer }
  /** Lead only: this decode worker died; end what was lent to it. */
  | { op: 'lost'; index: number }
  /** Lead only: forget the KV kept for this session. */
  | { op: 'forget'; session: string };

/** worker → main */
export type FromWorker =
  | StepOutput
  | EngineGauges
  | { op: 'ready'; index: number; loadMs: number }
  /** Ids of the encoded prompt, once, for requests with a session: its next turn continues from them. */
  | { op: 'prompt'; id: number; tokenIds: Int32Array }
  /** After 'lead': the requests this decode worker holds. */
  | { op: 'inventory'; ids: number[] };

/** Which KV memory a model is compiled for. */
export interface KvChoice {
  /** auto: float32 while four full contexts of it fit `memoryBytes`, else int8. */
  type: KvType | 'auto';
  /** What the model may count on of KV_MEMORY. */
  memoryBytes: number;
}

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

/** Form of a vector in JSON: an array of numbers, or a string with its little-endian float32 bytes. */
export type VectorForm = 'float' | 'base64';

export interface EmbeddingInput {
  tokenIds: Int32Array;
  /** Cut to so many and made length 1 again. */
  dimensions: number;
  form: VectorForm;
}

/** Ids of each text with special tokens, or why the input with this index was refused. */
export type EmbeddingTokens = { tokenIds: Int32Array[] } | { index: number; tooLong: string };

/** The JSON text of each vector, made where nothing waits for it. */
export interface EmbeddingVectors {
  vectors: string[];
  computeMs: number;
}

/** A task of the CPU pool (cpu-worker.ts). */
export type CpuTask =
  | {
      op: 'compile';
      model: string;
      cacheDir: string;
      kv: KvChoice;
      maxContext: number | null;
      /** Absent: models of the hub cannot be loaded. */
      hub?: HubAccess;
      /** Receives CompileProgress messages; any message from the other side stops a download. */
      progress: MessagePort;
    }
  | { op: 'models'; action: ModelsAction; hub: HubAccess; cacheDir: string; progress: MessagePort }
  | { op: 'encode'; textDir: string; prompt: PromptInput; maxTokens: number }
  /** `hub` absent: models of the hub cannot be loaded. Either downloads what is not here. */
  | { op: 'describeEncoder'; model: string; cacheDir: string; hub?: HubAccess }
  | { op: 'compileEncoder'; model: string; cacheDir: string; hub?: HubAccess }
  | { op: 'tokenize'; encoder: CompiledEncoder; inputs: readonly (string | readonly number[])[] }
  | { op: 'embed'; encoder: CompiledEncoder; inputs: readonly EmbeddingInput[] };

/** Errors a client may see cross the thread as data: an Error loses its fields on the way. */
export type EncodeResult = { tokenIds: number[]; droppedMessages: number } | { code: ErrorCode; message: string };

export type CpuResult =
  | CompiledModel
  | EncodeResult
  | ModelsReport
  | EmbeddingModelInfo
  | CompiledEncoder
  | EmbeddingTokens
  | EmbeddingVectors;
