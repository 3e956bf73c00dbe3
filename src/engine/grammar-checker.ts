// Has grammars checked before the engine sees them, in a thread that is ended when it takes too long: what explodes
// while it is compiled costs that thread and nothing else. One per model, started with the first grammar. Used by client.ts
// through model-engine.ts.
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { ServiceError } from '../../protocol/errors.ts';
import type { CompiledModel, GrammarCheckData, GrammarSpec, GrammarVerdict } from '../../workers/messages.ts';

/** As engine threads: it shares a core with one of them at worst, for the time of one check. */
const NICENESS = 10;
/** Computing time of a check: on an idle machine the time after which it is refused. */
const LIMIT_MS = 200;
/** Longest time by the clock, on a machine that is too busy to let it compute. */
const LONGEST_MS = 1000;
/** Computing time left that is not worth waiting for. */
const MIN_LEFT_MS = 20;
const MAX_KNOWN = 512;
/** Checks that may wait. */
const MAX_QUEUE = 64;
const RETRY_MS = 1000;
/** A thread without work for so long is ended: it holds a vocabulary. */
const IDLE_MS = 300_000;
const HEAP_MB = 512;

interface Job {
  spec: GrammarSpec;
  resolve(spec: GrammarSpec): void;
  reject(error: ServiceError): void;
}

interface Thread {
  worker: Worker;
  isReady: boolean;
  /** Its number in the system, '' before it told. */
  task: string;
}

export class GrammarChecker {
  readonly #data: GrammarCheckData;
  readonly #limitMs: number;
  /** Checked before: what was asked for → what to compile. The least recently used go. */
  readonly #known = new Map<string, GrammarSpec>();
  readonly #queue: Job[] = [];
  #thread: Thread | null = null;
  #job: Job | null = null;
  #timer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(compiled: CompiledModel, limitMs: number = LIMIT_MS) {
    const textDir = compiled.kind === 'fake' ? '' : compiled.textDir;
    this.#data = { textDir, vocabSize: compiled.shape.vocabSize, niceness: NICENESS };
    this.#limitMs = limitMs;
  }

  /**
   * The grammar to compile. Rejects with ServiceError: `unsupported` and `invalid_request` name the field, `overloaded` says
   * that too many wait.
   */
  async check(spec: GrammarSpec): Promise<GrammarSpec> {
    const key = JSON.stringify(spec);
    const known = this.#known.get(key);
    if (known !== undefined) {
      this.#known.delete(key);
      this.#known.set(key, known);
      return known;
    }
    const checked = await this.#checkOrRelax(spec);
    if (this.#known.size >= MAX_KNOWN) this.#known.delete(this.#known.keys().next().value!);
    this.#known.set(key, checked);
    return checked;
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#idleTimer);
    const error = new ServiceError('shutting_down', 'the server is shutting down');
    for (const job of [this.#job, ...this.#queue.splice(0)]) job?.reject(error);
    this.#job = null;
    this.#end();
  }

  /** Functions that are not strict get any object as arguments when the grammar cannot be had otherwise. */
  async #checkOrRelax(spec: GrammarSpec): Promise<GrammarSpec> {
    try {
      return await this.#run(spec);
    } catch (error) {
      const relaxed = relax(spec);
      if (relaxed === null || !(error instanceof ServiceError) || error.row.retryable) throw error;
      return await this.#run(relaxed);
    }
  }

  #run(spec: GrammarSpec): Promise<GrammarSpec> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(new ServiceError('shutting_down', 'the server is shutting down'));
      if (this.#queue.length >= MAX_QUEUE) {
        return reject(
          new ServiceError('overloaded', 'too many grammars wait for their check', { retryAfterMs: RETRY_MS }),
        );
      }
      this.#queue.push({ spec, resolve, reject });
      this.#next();
    });
  }

  #next(): void {
    if (this.#job !== null || this.#isClosed) return;
    clearTimeout(this.#idleTimer);
    if (this.#queue.length === 0) {
      this.#idleTimer = setTimeout(() => this.#end(), IDLE_MS).unref();
      return;
    }
    const thread = (this.#thread ??= this.#start());
    // Loading is not the grammar's fault: the time begins when the thread can work.
    if (!thread.isReady) return;
    const job = this.#queue.shift()!;
    this.#job = job;
    const started = performance.now();
    const used = usedMs(thread);
    this.#timer = setTimeout(() => this.#review(job, thread, started, used), this.#limitMs);
    thread.worker.postMessage(job.spec);
  }

  #start(): Thread {
    const worker = new Worker(new URL('../../workers/grammar/check-thread.ts', import.meta.url), {
      workerData: this.#data,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
    });
    const thread: Thread = { worker, isReady: false, task: '' };
    worker.unref();
    worker.on('message', (message: { ready: string } | GrammarVerdict) => {
      if (this.#thread !== thread) return;
      if ('ready' in message) {
        thread.isReady = true;
        thread.task = message.ready;
        this.#next();
      } else this.#settle(message, thread);
    });
    worker.on('error', () => this.#lose(thread));
    worker.on('exit', () => this.#lose(thread));
    return thread;
  }

  #settle(verdict: GrammarVerdict, thread: Thread): void {
    clearTimeout(this.#timer);
    const job = this.#job;
    this.#job = null;
    if ('spec' in verdict) job?.resolve(verdict.spec);
    else {
      const { code, message, param, isLost } = verdict;
      job?.reject(new ServiceError(code, message, param === undefined ? {} : { param }));
      // It says when it is ready again.
      if (isLost) thread.isReady = false;
    }
    this.#next();
  }

  /** Time is up, unless others kept the thread from computing. */
  #review(job: Job, thread: Thread, started: number, usedBefore: number): void {
    if (this.#job !== job) return;
    const leftMs = this.#limitMs - (usedMs(thread) - usedBefore);
    // Less than a time slice is left, or nothing is known.
    if (!(leftMs > MIN_LEFT_MS) || performance.now() - started + leftMs > LONGEST_MS) return this.#overrun(job);
    this.#timer = setTimeout(() => this.#review(job, thread, started, usedBefore), leftMs);
  }

  /** The thread is ended at once: nothing else tells it to stop. */
  #overrun(job: Job): void {
    this.#job = null;
    this.#end();
    job.reject(tooComplex(job.spec, this.#limitMs));
    this.#next();
  }

  /** It died of what it was doing, or could not start. */
  #lose(thread: Thread): void {
    if (this.#thread !== thread) return;
    this.#thread = null;
    clearTimeout(this.#timer);
    const jobs = this.#job === null && !thread.isReady ? this.#queue.splice(0) : [this.#job];
    this.#job = null;
    for (const job of jobs) job?.reject(tooComplex(job.spec, this.#limitMs));
    this.#next();
  }

  #end(): void {
    const thread = this.#thread;
    this.#thread = null;
    void thread?.worker.terminate();
  }
}

/** Computing time of the thread so far, in milliseconds; NaN where the system does not tell. Asked from outside, since it
 * answers nothing while it computes. */
function usedMs({ task }: Thread): number {
  try {
    return Number(readFileSync(`/proc/self/task/${task}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return NaN;
  }
}

/** The same with any object for functions that are not strict; null when that changes nothing. */
function relax(spec: GrammarSpec): GrammarSpec | null {
  if (!spec.calls.some(({ isStrict, schema }) => !isStrict && schema !== null)) return null;
  return { ...spec, calls: spec.calls.map((call) => (call.isStrict ? call : { ...call, schema: null })) };
}

function tooComplex(spec: GrammarSpec, limitMs: number): ServiceError {
  const strict = spec.calls.find(({ schema }) => schema !== null);
  const { param } = (spec.mustCall ? null : spec.text) ?? strict ?? spec.calls[0]!;
  const message = `${param} is too complex: it could not be compiled within ${limitMs} ms.`;
  return new ServiceError('unsupported', message, { param });
}
