// Has grammars checked and compiled before the engine sees them, in a thread that is ended when it takes too long: what
// explodes while it is compiled costs that thread and nothing else. One per model, its thread started with the first
// grammar. Used by client.ts through model-engine.ts.
import { ServiceError } from '../../protocol/errors.ts';
import { ImageSpace } from '../../workers/messages/grammar.ts';
import type {
  GrammarBase,
  GrammarCheckData,
  GrammarImage,
  GrammarSpec,
  GrammarVerdict,
} from '../../workers/messages/grammar.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import { CheckQueue } from './check-queue.ts';
import { GrammarThread, type GrammarThreadEvents } from './grammar-thread.ts';

/** As engine threads: it shares a core with one of them at worst, for the time of one check. */
const NICENESS = 10;
/** Computing time of a check: beyond it a grammar is refused. Each token of the vocabulary costs some. */
const LIMIT_MS = 100;
const WIDE_LIMIT_MS = 200;
const WIDE_VOCABULARY = 50_000;
/** More for each further function: tools come in dozens, and each is small. */
const LIMIT_PER_CALL_MS = 10;
const MAX_LIMIT_MS = 300;
/** Longest time by the clock, on a machine that is too busy to let it compute. */
const LONGEST_MS = 500;
/** A tenant that sent what had to be ended is answered so soon after he came, by the clock; for wide vocabularies. */
const DEADLINE_MS = 150;
const WIDE_DEADLINE_MS = 180;
const RETRY_MS = 1000;
/** Threads that wait for the one that works to be ended: as many as checks of one tenant can end in a row. */
const NUM_SPARE = 2;
/** Computing time left that is not worth waiting for. */
const MIN_LEFT_MS = 20;
/** Grammars kept, with their images, and refusals for want of time, which may have been the machine's fault. */
const MAX_KNOWN = 512;
const KNOWN_BYTES = 128 << 20;
const MAX_REFUSED = 256;
const REFUSED_MS = 60_000;
/** A thread without work for so long is ended: it holds a vocabulary. */
const IDLE_MS = 300_000;

export interface GrammarLimits {
  limitMs?: number;
  longestMs?: number;
  deadlineMs?: number;
}

interface Job {
  key: string;
  spec: GrammarSpec;
  tenant: string;
  resolve(spec: GrammarSpec): void;
  reject(error: ServiceError): void;
}

export class GrammarChecker {
  readonly #data: Omit<GrammarCheckData, 'base'>;
  readonly #limitMs: number;
  readonly #longestMs: number;
  readonly #deadlineMs: number;
  readonly #queue = new CheckQueue<Job>();
  /** Checked before: what was asked for → what to follow. The least recently used go. */
  readonly #known = new Map<string, GrammarSpec>();
  #knownBytes = 0;
  /** Where the next image goes: one after the other, then from the beginning again. */
  #address: number = ImageSpace.start;
  /** Being checked: whoever asks for the same waits for the same. */
  readonly #pending = new Map<string, Promise<GrammarSpec>>();
  /** Took too long: until when that is known. */
  readonly #refused = new Map<string, number>();
  #thread: GrammarThread | null = null;
  /** Take the place of one that had to be ended. Only where that has happened lately. */
  readonly #spares: GrammarThread[] = [];
  #wantsSpares = false;
  #base: GrammarBase | null = null;
  /** Resolves when the thread can work that was started where there was none; null: it can, or takes another's place. */
  #opening: PromiseWithResolvers<void> | null = null;
  #job: Job | null = null;
  /** When it began: by the clock, and by the thread's computing time. */
  #begun = { atMs: 0, usedMs: 0 };
  #timer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(compiled: CompiledModel, { limitMs, longestMs, deadlineMs }: GrammarLimits = {}) {
    const textDir = compiled.kind === 'fake' ? '' : compiled.textDir;
    const { vocabSize } = compiled.shape;
    const isWide = vocabSize > WIDE_VOCABULARY;
    this.#limitMs = limitMs ?? (isWide ? WIDE_LIMIT_MS : LIMIT_MS);
    this.#deadlineMs = deadlineMs ?? (isWide ? WIDE_DEADLINE_MS : DEADLINE_MS);
    this.#longestMs = longestMs ?? LONGEST_MS;
    this.#data = { textDir, vocabSize, niceness: NICENESS, limitMs: this.#limitMs };
  }

  /**
   * The grammar to follow, with its image. Rejects with ServiceError: `unsupported` and `invalid_request` name the field,
   * `rate_limited` and `overloaded` say that the tenant, or all, have to wait. Tenants that are not
   * trusted hear within DEADLINE_MS, once there is a thread.
   */
  async check(spec: GrammarSpec, tenant: string): Promise<GrammarSpec> {
    const key = JSON.stringify(spec);
    const known = this.#known.get(key);
    if (known !== undefined) {
      this.#known.delete(key);
      this.#known.set(key, known);
      return known;
    }
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      pending = this.#checkAnew(key, spec, tenant).finally(() => this.#pending.delete(key));
      this.#pending.set(key, pending);
    }
    return await this.#inTime(pending, spec, tenant);
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#idleTimer);
    const error = new ServiceError('shutting_down', 'the server is shutting down');
    for (const job of [this.#job, ...this.#queue.clear()]) job?.reject(error);
    this.#job = null;
    this.#endThreads();
  }

  /** The check goes on when its time is over, so that who asks again is told what came of it. */
  async #inTime(pending: Promise<GrammarSpec>, spec: GrammarSpec, tenant: string): Promise<GrammarSpec> {
    // Nothing of what can be relaxed is refused: what takes too long is left out.
    if (!this.#queue.isDistrusted(tenant) || relax(spec) !== null) return await pending;
    if (this.#opening !== null) await Promise.race([this.#opening.promise, pending]);
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(tooLate()), this.#deadlineMs + this.#extraOf(spec));
    try {
      return await Promise.race([pending, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Functions that are not strict get any object as arguments when the grammar cannot be had otherwise. */
  async #checkAnew(key: string, spec: GrammarSpec, tenant: string): Promise<GrammarSpec> {
    const relaxed = relax(spec);
    let checked: GrammarSpec;
    try {
      if ((this.#refused.get(key) ?? 0) > performance.now()) throw tooComplex(spec, this.#limitMs);
      checked = await this.#run(key, spec, tenant);
    } catch (error) {
      if (relaxed === null || !(error instanceof ServiceError) || error.row.retryable) throw error;
      checked = await this.check(relaxed, tenant);
    }
    this.#remember(key, checked);
    return checked;
  }

  #remember(key: string, checked: GrammarSpec): void {
    this.#known.set(key, checked);
    this.#knownBytes += bytesOf(checked);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= MAX_KNOWN && this.#knownBytes <= KNOWN_BYTES) return;
      this.#forget(oldest);
    }
  }

  #forget(key: string): void {
    this.#knownBytes -= bytesOf(this.#known.get(key)!);
    this.#known.delete(key);
  }

  /** The place is taken: what lay there before is compiled anew for another one when it is asked for. */
  #occupy({ address, bytes }: GrammarImage): void {
    const end = address + bytes.length;
    for (const [key, { image }] of this.#known) {
      if (image && image.address < end && address < image.address + image.bytes.length) this.#forget(key);
    }
    this.#address = end + ImageSpace.largest > ImageSpace.end ? ImageSpace.start : end;
  }

  #run(key: string, spec: GrammarSpec, tenant: string): Promise<GrammarSpec> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(new ServiceError('shutting_down', 'the server is shutting down'));
      try {
        this.#queue.enter({ key, spec, tenant, resolve, reject });
      } catch (error) {
        return reject(error as ServiceError);
      }
      this.#next();
    });
  }

  #next(): void {
    if (this.#job !== null || this.#isClosed) return;
    clearTimeout(this.#idleTimer);
    if (this.#queue.size === 0) {
      this.#idleTimer = setTimeout(() => this.#endThreads(), IDLE_MS).unref();
      return;
    }
    if (this.#thread === null) {
      this.#opening = Promise.withResolvers();
      this.#thread = this.#start();
    }
    const thread = this.#thread;
    // Loading is not the grammar's fault: the time begins when the thread can work.
    if (!thread.isReady) return;
    const job = (this.#job = this.#queue.take()!);
    this.#begun = { atMs: performance.now(), usedMs: thread.usedMs() };
    this.#timer = setTimeout(() => this.#review(job, thread), this.#limitOf(job));
    thread.check({ spec: job.spec, address: this.#address });
  }

  #start(): GrammarThread {
    const events: GrammarThreadEvents = {
      ready: (thread) => {
        this.#base = thread.base;
        this.#startSpare();
        if (this.#thread !== thread) return;
        this.#opening?.resolve();
        this.#opening = null;
        this.#next();
      },
      verdict: (thread, verdict) => {
        if (this.#thread === thread) this.#settle(verdict, thread);
      },
      lost: (thread) => this.#lose(thread),
    };
    return new GrammarThread({ ...this.#data, base: this.#base }, events);
  }

  /** One at a time: starting takes a core for a while, and the first is wanted most. */
  #startSpare(): void {
    const isStarting = this.#spares.some((spare) => !spare.isReady);
    if (!this.#wantsSpares || isStarting || this.#spares.length >= NUM_SPARE) return;
    this.#spares.push(this.#start());
  }

  #settle(verdict: GrammarVerdict, thread: GrammarThread): void {
    clearTimeout(this.#timer);
    const job = this.#job!;
    this.#job = null;
    this.#charge(job, this.#elapsedMs(thread), false);
    if ('spec' in verdict) {
      if (verdict.spec.image) this.#occupy(verdict.spec.image);
      job.resolve(verdict.spec);
    } else {
      const { code, message, param } = verdict;
      job.reject(new ServiceError(code, message, param === undefined ? {} : { param }));
    }
    this.#next();
  }

  #charge({ tenant }: Job, ms: number, isOverrun: boolean): void {
    const { refused, error } = this.#queue.charge(tenant, ms, isOverrun);
    for (const { reject } of refused) reject(error);
  }

  /** Computing time of the check that runs; by the clock where the system does not tell. */
  #elapsedMs(thread: GrammarThread): number {
    const usedMs = thread.usedMs() - this.#begun.usedMs;
    return Number.isNaN(usedMs) ? performance.now() - this.#begun.atMs : usedMs;
  }

  /** Time is up, unless others kept the thread from computing. */
  #review(job: Job, thread: GrammarThread): void {
    if (this.#job !== job) return;
    const leftMs = this.#limitOf(job) - this.#elapsedMs(thread);
    // Less than a time slice is left.
    if (leftMs < MIN_LEFT_MS) {
      if (this.#refused.size >= MAX_REFUSED) this.#refused.delete(this.#refused.keys().next().value!);
      this.#refused.set(job.key, performance.now() + REFUSED_MS);
      this.#stop(job, tooComplex(job.spec, this.#limitOf(job)));
    } else if (performance.now() - this.#begun.atMs + leftMs > this.#longestMs) this.#stop(job, tooLate());
    else this.#timer = setTimeout(() => this.#review(job, thread), leftMs);
  }

  #limitOf({ spec }: Job): number {
    return this.#limitMs + this.#extraOf(spec);
  }

  #extraOf({ calls }: GrammarSpec): number {
    const most = Math.max(0, MAX_LIMIT_MS - this.#limitMs);
    return Math.min(most, LIMIT_PER_CALL_MS * Math.max(0, calls.length - 1));
  }

  #stop(job: Job, error: ServiceError): void {
    const usedMs = this.#elapsedMs(this.#thread!);
    this.#job = null;
    job.reject(error);
    this.#charge(job, usedMs, true);
    this.#thread!.end();
    this.#thread = this.#spares.shift() ?? this.#start();
    this.#wantsSpares = true;
    if (this.#thread.isReady) this.#startSpare();
    this.#next();
  }

  #lose(thread: GrammarThread): void {
    const spare = this.#spares.indexOf(thread);
    if (spare >= 0) this.#spares.splice(spare, 1);
    if (this.#thread !== thread) return;
    this.#thread = null;
    clearTimeout(this.#timer);
    const jobs = this.#job === null && !thread.isReady ? this.#queue.clear() : [this.#job];
    this.#job = null;
    for (const job of jobs) job?.reject(tooComplex(job.spec, this.#limitOf(job)));
    this.#next();
  }

  #endThreads(): void {
    const threads = [this.#thread, ...this.#spares.splice(0)];
    this.#thread = null;
    this.#wantsSpares = false;
    for (const thread of threads) thread?.end();
  }
}

/** The same with any object for functions that are not strict; null when that changes nothing. */
function relax(spec: GrammarSpec): GrammarSpec | null {
  if (!spec.calls.some(({ isStrict, schema }) => !isStrict && schema !== null)) return null;
  return { ...spec, calls: spec.calls.map((call) => (call.isStrict ? call : { ...call, schema: null })) };
}

function bytesOf({ image }: GrammarSpec): number {
  return image?.bytes.length ?? 0;
}

function tooLate(): ServiceError {
  const message = 'the server was too busy to check the form of the answer in time; its check goes on, ask again';
  return new ServiceError('overloaded', message, { retryAfterMs: RETRY_MS });
}

function tooComplex(spec: GrammarSpec, limitMs: number): ServiceError {
  const strict = spec.calls.find(({ schema }) => schema !== null);
  const { param } = (spec.mustCall ? null : spec.text) ?? strict ?? spec.calls[0]!;
  const message = `${param} is too complex: it could not be compiled within ${limitMs} ms.`;
  return new ServiceError('unsupported', message, { param });
}
