// Embeddings on the CPU pool: requests in, vectors as JSON text out. Collects inputs of several requests into batches, by
// size and by a short delay, with one batch per thread at a time, so that the pool's other work waits for one batch at
// most. Made by pool.ts; dialects/embeddings.ts calls `submit`.
// What must stay true: every job ends exactly once, and leaves the waiting room with all of its inputs.
import { ServiceError, type ErrorCode } from '../../protocol/errors.ts';
import type {
  CompiledEncoder,
  CpuResult,
  CpuRequest,
  EmbeddingInput,
  EmbeddingModelInfo,
  EmbeddingTokens,
  EmbeddingVectors,
  VectorForm,
} from '../../workers/messages/cpu-tasks.ts';
import type { HubAccess } from '../../workers/messages/models.ts';
import { EmbeddingQueue, type BatchEntry, type BatchLimits, type WaitingJob } from './embedding-queue.ts';
import { WaitingRoom, type QueueOptions } from './waiting-room.ts';

/** Text, or token ids with or without the special ones around them. */
export type EmbeddingSource = string | readonly number[];

export interface EmbeddingRequest {
  inputs: readonly EmbeddingSource[];
  /** Undefined: all there are. */
  dimensions: number | undefined;
  form: VectorForm;
  tenant: string;
  /** Milliseconds after which the vectors are of no use. */
  deadlineMs: number | undefined;
}

export interface EmbeddingResult {
  /** JSON values, in the order of the inputs. */
  vectors: string[];
  promptTokens: number;
}

export interface EmbeddingJob {
  /** Rejects with ServiceError, or with EmbeddingCancelled after `cancel`. */
  readonly result: Promise<EmbeddingResult>;
  /** Nobody waits for it any more. */
  cancel(): void;
}

export class EmbeddingCancelled extends Error {
  override readonly name = 'EmbeddingCancelled';
}

export interface BatchStats {
  inputs: number;
  tokens: number;
  computeMs: number;
}

/** What the rest of `src` uses. */
export interface Embeddings {
  /** Null until it is known. */
  readonly info: EmbeddingModelInfo | null;
  /** Requests that have not ended. */
  readonly active: number;
  /** Inputs not computed yet. */
  readonly waiting: number;
  onBatch: ((stats: BatchStats) => void) | null;
  /** By id or alias; undefined and 'default' are the one there is. Throws `unknown_model` or `model_loading`. */
  find(model: string | undefined): EmbeddingModelInfo;
  /** Throws `overloaded` or `rate_limited`. */
  submit(request: EmbeddingRequest): EmbeddingJob;
}

export interface EmbedderOptions {
  model: string;
  cacheDir: string;
  /** Absent: models of the hub cannot be loaded. */
  hub?: HubAccess;
  /** Batches computed at once. */
  numThreads: number;
  queue: Pick<QueueOptions, 'queueSize' | 'tenantQueueSize' | 'queueTimeoutMs'>;
  /** Runs a task on the CPU pool. */
  run(task: CpuRequest): Promise<CpuResult>;
  onError(error: unknown): void;
}

interface Job extends WaitingJob {
  readonly vectors: string[];
  numLeft: number;
  promptTokens: number;
  isOver: boolean;
  /** Until its first input is computed. */
  queueTimer: NodeJS.Timeout | undefined;
  deadlineTimer: NodeJS.Timeout | undefined;
  resolve(result: EmbeddingResult): void;
  reject(error: Error): void;
}

/** A batch takes a fraction of a second; from some dozen tokens on a larger one gains little (bench embed). */
const BATCH: BatchLimits = { inputs: 32, tokens: 512 };
/** How long an idle pool waits for company of the first inputs. */
const BATCH_DELAY_MS = 2;
/** Inputs that may wait: several requests of the largest size. */
const QUEUED_INPUTS = 8192;
/** Characters turned into tokens by one task. */
const SLICE_CHARS = 32_768;
const LOADING_RETRY_MS = 1000;

export class Embedder implements Embeddings {
  onBatch: ((stats: BatchStats) => void) | null = null;
  readonly #options: EmbedderOptions;
  readonly #room: WaitingRoom;
  readonly #queue = new EmbeddingQueue<Job>();
  readonly #jobs = new Set<Job>();
  readonly #running = new Set<Promise<void>>();
  #info: EmbeddingModelInfo | null = null;
  #encoder: Promise<CompiledEncoder> | null = null;
  #delay: NodeJS.Timeout | undefined;
  #numBatches = 0;

  constructor(options: EmbedderOptions) {
    this.#options = options;
    const { queueSize, tenantQueueSize, queueTimeoutMs } = options.queue;
    const ofTenant = Math.ceil(QUEUED_INPUTS * Math.min(1, tenantQueueSize / queueSize));
    const tenantWeights = new Map<string, number>();
    this.#room = new WaitingRoom({
      queueSize: QUEUED_INPUTS,
      tenantQueueSize: ofTenant,
      queueTimeoutMs,
      tenantWeights,
    });
  }

  get info(): EmbeddingModelInfo | null {
    return this.#info;
  }

  get active(): number {
    return this.#jobs.size;
  }

  get waiting(): number {
    return this.#room.size;
  }

  /** Reads what the model is, and downloads it where it is not here; it is compiled at the first request. Rejects when there is no such model. */
  async describe(): Promise<void> {
    this.#info = (await this.#options.run({ op: 'describeEncoder', ...this.#source })) as EmbeddingModelInfo;
  }

  find(model: string | undefined): EmbeddingModelInfo {
    const info = this.#info;
    if (info === null) {
      throw new ServiceError('model_loading', 'the embedding model is loading', { retryAfterMs: LOADING_RETRY_MS });
    }
    if (model === undefined || model === 'default' || model === info.id || info.aliases.includes(model)) return info;
    throw new ServiceError('unknown_model', `there is no embedding model "${model}"; there is ${info.id}`, {
      param: 'model',
    });
  }

  submit(request: EmbeddingRequest): EmbeddingJob {
    const { inputs, tenant, deadlineMs } = request;
    this.#room.enter(tenant, inputs.length);
    const { promise, resolve, reject } = Promise.withResolvers<EmbeddingResult>();
    const job: Job = {
      tenant,
      inputs: [],
      vectors: Array.from({ length: inputs.length }),
      numLeft: inputs.length,
      promptTokens: 0,
      isOver: false,
      queueTimer: undefined,
      deadlineTimer: undefined,
      resolve,
      reject,
    };
    this.#jobs.add(job);
    const { queueTimeoutMs } = this.#options.queue;
    job.queueTimer = setTimeout(() => this.#expire(job, 'queue_timeout', 'it waited for too long'), queueTimeoutMs);
    if (deadlineMs !== undefined) {
      job.deadlineTimer = setTimeout(() => this.#expire(job, 'deadline_exceeded', 'its deadline passed'), deadlineMs);
    }
    this.#track(this.#prepare(job, request));
    return { result: promise, cancel: () => this.#fail(job, new EmbeddingCancelled('the client is gone')) };
  }

  /** Ends what waits with `shutting_down` and resolves when no task of the pool is left running. */
  async stop(): Promise<void> {
    clearTimeout(this.#delay);
    for (const job of this.#jobs) this.#fail(job, new ServiceError('shutting_down', 'The server is shutting down.'));
    await Promise.all(this.#running);
  }

  /** Text to tokens, then into the queue, the shortest last: inputs of like length share a batch. */
  async #prepare(job: Job, { inputs, dimensions, form }: EmbeddingRequest): Promise<void> {
    const { run } = this.#options;
    try {
      const encoder = await this.#open();
      for (const { first, slice } of slices(inputs)) {
        if (job.isOver) return;
        const tokens = (await run({ op: 'tokenize', encoder, inputs: slice })) as EmbeddingTokens;
        if ('tooLong' in tokens) throw tooLong(encoder.info, inputs, first + tokens.index, tokens.tooLong);
        for (const [i, tokenIds] of tokens.tokenIds.entries()) {
          const input: EmbeddingInput = { tokenIds, dimensions: dimensions ?? encoder.info.dimensions, form };
          job.inputs.push({ index: first + i, input });
          job.promptTokens += tokenIds.length;
        }
      }
    } catch (error) {
      if (!job.isOver) this.#fail(job, this.#toServiceError(error));
    }
    if (job.isOver) return;
    job.inputs.sort((a, b) => b.input.tokenIds.length - a.input.tokenIds.length);
    this.#queue.add(job);
    this.#schedule();
  }

  get #source(): Pick<EmbedderOptions, 'model' | 'cacheDir' | 'hub'> {
    const { model, cacheDir, hub } = this.#options;
    return { model, cacheDir, ...(hub === undefined ? {} : { hub }) };
  }

  #open(): Promise<CompiledEncoder> {
    this.#encoder ??= this.#options.run({ op: 'compileEncoder', ...this.#source }).then(
      (compiled) => compiled as CompiledEncoder,
      (error: unknown) => {
        this.#encoder = null;
        throw error;
      },
    );
    return this.#encoder;
  }

  #schedule(isDue = false): void {
    while (this.#queue.numInputs > 0 && this.#numBatches < this.#options.numThreads) {
      if (!isDue && !this.#queue.fills(BATCH)) {
        this.#delay ??= setTimeout(() => {
          this.#delay = undefined;
          this.#schedule(true);
        }, BATCH_DELAY_MS);
        return;
      }
      clearTimeout(this.#delay);
      this.#delay = undefined;
      this.#track(this.#compute(this.#queue.take(BATCH)));
    }
  }

  async #compute(batch: BatchEntry<Job>[]): Promise<void> {
    this.#numBatches++;
    try {
      const encoder = await this.#open();
      const inputs = batch.map(({ input }) => input);
      for (const { job } of batch) clearTimeout(job.queueTimer);
      const { vectors, computeMs } = (await this.#options.run({ op: 'embed', encoder, inputs })) as EmbeddingVectors;
      const tokens = inputs.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      this.onBatch?.({ inputs: inputs.length, tokens, computeMs });
      for (const [i, { job, index }] of batch.entries()) this.#deliver(job, index, vectors[i]!);
    } catch (error) {
      const failure = this.#toServiceError(error);
      for (const { job } of batch) this.#fail(job, failure);
    } finally {
      this.#numBatches--;
    }
    // What came meanwhile has waited long enough.
    this.#schedule(true);
  }

  #deliver(job: Job, index: number, vector: string): void {
    if (job.isOver) return;
    job.vectors[index] = vector;
    job.numLeft--;
    this.#room.leave(job.tenant);
    if (job.numLeft > 0) return;
    this.#end(job);
    job.resolve({ vectors: job.vectors, promptTokens: job.promptTokens });
  }

  #expire(job: Job, code: ErrorCode, why: string): void {
    const message = `The request was given up: ${why}.`;
    this.#fail(job, new ServiceError(code, message, { retryAfterMs: this.#room.adviceMs() }));
  }

  #fail(job: Job, error: Error): void {
    if (job.isOver) return;
    this.#queue.remove(job);
    for (let i = 0; i < job.numLeft; i++) this.#room.leave(job.tenant);
    this.#end(job);
    job.reject(error);
  }

  #end(job: Job): void {
    job.isOver = true;
    clearTimeout(job.queueTimer);
    clearTimeout(job.deadlineTimer);
    this.#jobs.delete(job);
  }

  #toServiceError(error: unknown): ServiceError {
    if (error instanceof ServiceError) return error;
    this.#options.onError(error);
    return new ServiceError('internal', 'The embeddings could not be computed; the log of the server has the cause.');
  }

  #track(work: Promise<void>): void {
    this.#running.add(work);
    void work.finally(() => this.#running.delete(work));
  }
}

/** Consecutive inputs of so many characters together that no task holds its thread for long. */
function* slices(inputs: readonly EmbeddingSource[]): Generator<{ first: number; slice: EmbeddingSource[] }> {
  let first = 0;
  let slice: EmbeddingSource[] = [];
  let numChars = 0;
  for (const input of inputs) {
    if (slice.length > 0 && numChars + input.length > SLICE_CHARS) {
      yield { first, slice };
      first += slice.length;
      slice = [];
      numChars = 0;
    }
    slice.push(input);
    numChars += input.length;
  }
  yield { first, slice };
}

function tooLong(
  { id, maxTokens }: EmbeddingModelInfo,
  inputs: readonly EmbeddingSource[],
  index: number,
  what: string,
): ServiceError {
  const param = inputs.length === 1 ? 'input' : `input[${index}]`;
  return new ServiceError('context_too_long', `${param} ${what}; ${id} takes ${maxTokens} tokens.`, { param });
}
