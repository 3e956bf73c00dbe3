// One model with its worker threads: start, heartbeat, death and end. Worker 0 is the lead. A worker that dies takes
// only its own responses along: decode workers tell a new lead what they still hold, and a lead ends what it had lent
// to a decode worker that died.
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Piscina } from 'piscina';
import { errorFromCode, ServiceError } from '../../protocol/errors.ts';
import type { ModelInfo } from '../../protocol/messages.ts';
import { Ctl, Order } from '../../workers/messages.ts';
import type { CompiledModel, CompileProgress, EncodeResult, EngineShared, FromWorker } from '../../workers/messages.ts';
import type {
  GrammarSpec,
  PromptInput,
  SlotLayout,
  StepOutput,
  StepStats,
  ToWorker,
  WorkerInit,
} from '../../workers/messages.ts';
import { EngineClient, numFlags } from './client.ts';
import { GrammarChecker } from './grammar-checker.ts';
import { allocateShared, formatBytes, planLayout } from './memory.ts';
import type { EngineOptions } from './pool.ts';
import { StepOrder } from './step-order.ts';
import { defaultQueue } from './waiting-room.ts';
import type { Engine, EngineGaugesView, EngineSink, SubmitOptions } from './types.ts';
import { kvBytesPerToken } from '../../workers/messages.ts';

interface Worker {
  index: number;
  ctl: SharedArrayBuffer;
  control: Int32Array;
  port: MessagePort;
  task: Promise<unknown>;
  isAlive: boolean;
  beats: number;
  lastBeatMs: number;
}

export type Encode = (
  compiled: CompiledModel,
  task: { prompt: PromptInput; maxTokens: number },
) => Promise<EncodeResult>;

const DEFAULT_HANG_MS = 30_000;
const WATCH_INTERVAL_MS = 1000;
/** More deaths than this within the window mean that restarting does not help. */
const MAX_DEATHS = 5;
const DEATH_WINDOW_MS = 60_000;
/** After a death, the time within which the messages of the living are here that were already numbered. */
const LAST_POSTS_MS = 100;

export class ModelEngine implements Engine {
  onStepEnd: (() => void) | null = null;
  onStepStats: ((stats: StepStats) => void) | null = null;
  onRestart: ((index: number, reason: string) => void) | null = null;
  onFatal: ((reason: string) => void) | null = null;
  readonly #options: EngineOptions;
  readonly #makePool: (numWorkers: number) => Piscina;
  readonly #encode: Encode;
  #info: ModelInfo;
  #progress: CompileProgress | null = { phase: 'waiting', done: 0 };
  #pool: Piscina | null = null;
  #client: EngineClient | null = null;
  #checker: GrammarChecker | null = null;
  #workers: Worker[] = [];
  #compiled!: CompiledModel;
  #layout!: SlotLayout;
  #shared!: EngineShared;
  #watchdog: NodeJS.Timeout | undefined;
  readonly #order = new StepOrder((message) => this.#client!.receive(message));
  #deaths: number[] = [];
  #isStopping = false;
  /** A new lead has not yet heard from these decode workers; requests in none of their inventories are lost. */
  #orphans: { ids: Set<number>; awaited: Set<number> } | null = null;

  constructor(spec: string, options: EngineOptions, makePool: (numWorkers: number) => Piscina, encode: Encode) {
    this.#options = options;
    this.#makePool = makePool;
    this.#encode = encode;
    this.#info = { id: spec, aliases: [], contextLength: 0, preset: {}, tools: false, note: '' };
  }

  get model(): ModelInfo {
    return this.#info;
  }

  get isReady(): boolean {
    return this.#progress === null && !this.#isStopping;
  }

  get progress(): CompileProgress | null {
    return this.#progress;
  }

  get gauges(): EngineGaugesView {
    return this.#client?.gauges ?? emptyGauges;
  }

  report(progress: CompileProgress): void {
    this.#progress = progress;
  }

  submit(options: SubmitOptions, sinks: readonly EngineSink[]): number[] {
    if (!this.#client || this.#progress !== null) {
      throw new ServiceError('model_loading', `model ${this.#info.id} is loading`, { retryAfterMs: 1000 });
    }
    return this.#client.submit(options, sinks);
  }

  cancel(id: number): void {
    this.#client?.cancel(id);
  }

  park(id: number): void {
    this.#client?.park(id);
  }

  unpark(id: number): void {
    this.#client?.unpark(id);
  }

  forget(session: string): void {
    this.#client?.forget(session);
  }

  async countTokens(prompt: PromptInput): Promise<number> {
    if (!this.isReady) {
      throw new ServiceError('model_loading', `model ${this.#info.id} is loading`, { retryAfterMs: 1000 });
    }
    const isCut = prompt.kind === 'chat' && prompt.truncation === 'auto';
    const maxTokens = isCut ? this.#layout.maxLen - 1 : Number.MAX_SAFE_INTEGER;
    const result = await this.#encode(this.#compiled, { prompt, maxTokens });
    if ('code' in result) throw errorFromCode(result.code, result.message);
    return result.tokenIds.length;
  }

  /** Opens the workers over one KV memory. Rejects when the memory does not suffice or a worker cannot start. */
  async start(compiled: CompiledModel): Promise<void> {
    if (this.#isStopping) return;
    const { workers, threads, slots, maxContext, kvMemoryBytes, models, log } = this.#options;
    this.report({ phase: 'starting workers', done: 1 });
    const memory = { workers, slots, maxContext, kvMemoryBytes: kvMemoryBytes / models.length };
    this.#compiled = compiled;
    this.#layout = planLayout(compiled.shape, memory);
    const queue = { ...defaultQueue, ...this.#options.queue };
    this.#shared = allocateShared(compiled.shape, this.#layout, numFlags(queue.queueSize, slots));
    this.#info = { ...compiled.info, contextLength: this.#layout.maxLen };
    const checker = (this.#checker = new GrammarChecker(compiled));
    const link = {
      toLead: (message: ToWorker) => this.#post(this.#workers[0]!, message),
      wake: () => this.#workers.forEach(wake),
      encode: (prompt: PromptInput, maxTokens: number) => this.#encode(compiled, { prompt, maxTokens }),
      checkGrammar: (spec: GrammarSpec) => checker.check(spec),
    };
    this.#client = new EngineClient(compiled, this.#layout.maxLen, this.#shared.flags, link, queue);
    this.#client.onStepEnd = () => this.onStepEnd?.();
    this.#client.onStepStats = (stats) => this.onStepStats?.(stats);
    this.#pool = this.#makePool(workers);
    this.#pool.on('error', (error) => log.error({ err: error }, 'engine pool error'));
    await Promise.all(Array.from({ length: workers }, (_, index) => this.#spawn(index)));
    this.#connect();
    this.#watchdog = setInterval(() => this.#watch(), WATCH_INTERVAL_MS);
    this.#watchdog.unref();
    const bytes = kvBytesPerToken(compiled.shape);
    log.info(
      {
        model: this.#info.id,
        origin: compiled.origin,
        weights: `${formatBytes(compiled.weightsBytes)}, ${compiled.quantization}`,
        context: this.#layout.maxLen,
        kvType: compiled.shape.kvType,
        kvBytesPerToken: bytes,
        ...(compiled.kvDivergence > 0 ? { kvDivergence: Number(compiled.kvDivergence.toPrecision(2)) } : {}),
        slots: this.#layout.numSlots,
        kvBudget: formatBytes(this.#layout.budgetTokens * bytes),
        kvReserved: formatBytes(2 * this.#layout.maxLen * bytes),
        workers: `${workers} x ${threads} thread${threads > 1 ? 's' : ''}`,
      },
      'model ready',
    );
    this.#progress = null;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    clearInterval(this.#watchdog);
    for (const worker of this.#workers) {
      Atomics.store(worker.control, Ctl.stop, 1);
      wake(worker);
    }
    await Promise.allSettled(this.#workers.map(({ task }) => task));
    this.#client?.close();
    this.#checker?.close();
    for (const worker of this.#workers) worker.port.close();
    await this.#pool?.close();
  }

  // --- threads

  /** Starts the endless task of worker `index`; resolves when it has opened the model. */
  #spawn(index: number): Promise<void> {
    const { port1, port2 } = new MessageChannel();
    const ctl = new SharedArrayBuffer(4 * Ctl.size);
    const init: WorkerInit = {
      index,
      model: this.#compiled,
      layout: this.#layout,
      shared: this.#shared,
      ctl,
      port: port2,
      threads: this.#options.threads,
      speculation: this.#options.speculation,
      solo: this.#options.solo,
      debugOwners: this.#options.debugOwners,
    };
    const task = this.#pool!.run(init, { transferList: [port2] });
    const control = new Int32Array(ctl);
    const worker: Worker = { index, ctl, control, port: port1, task, isAlive: true, beats: 0, lastBeatMs: Date.now() };
    this.#workers[index] = worker;
    return new Promise((resolve, reject) => {
      port1.on('message', (message: FromWorker) => {
        if (message.op === 'ready') resolve();
        else this.#receive(index, message);
      });
      task.then(
        () => reject(new Error(`engine worker ${index} ended`)),
        (error: unknown) => {
          reject(error as Error);
          this.#onDeath(worker, error instanceof Error ? error.message : String(error));
        },
      );
    });
  }

  #receive(index: number, message: FromWorker): void {
    if (message.op === 'step') this.#deliver(message);
    else if (message.op === 'inventory') this.#reconcile(index, message.ids);
    else this.#client!.receive(message);
  }

  /** The worker that posted it may be waiting for that (workers/step-post.ts). */
  #deliver(message: StepOutput): void {
    this.#order.receive(message);
    const order = new Int32Array(this.#shared.order);
    Atomics.store(order, Order.delivered, this.#order.next);
    Atomics.notify(order, Order.delivered);
  }

  /** Gives the lead a direct line to every decode worker. */
  #connect(only?: number): void {
    const [lead, ...others] = this.#workers;
    for (const worker of others) {
      if (!worker.isAlive || (only !== undefined && worker.index !== only)) continue;
      const { port1, port2 } = new MessageChannel();
      this.#post(lead!, { op: 'attach', index: worker.index, port: port1, ctl: worker.ctl }, [port1]);
      this.#post(worker, { op: 'lead', port: port2, ctl: lead!.ctl }, [port2]);
    }
  }

  /** The message first, the mail counter after it: a worker that sees the counter move finds the message. */
  #post(worker: Worker, message: ToWorker, transfer: MessagePort[] = []): void {
    worker.port.postMessage(message, transfer);
    wake(worker);
  }

  // --- death

  #onDeath(worker: Worker, reason: string): void {
    if (this.#isStopping || !worker.isAlive) return;
    worker.isAlive = false;
    // What it posted before it died still counts: others may go on from there.
    for (let item; (item = receiveMessageOnPort(worker.port));) this.#receive(worker.index, item.message as FromWorker);
    worker.port.close();
    setTimeout(() => this.#order.skipMissing(), LAST_POSTS_MS).unref();
    this.#options.log.error({ model: this.#info.id, worker: worker.index, reason }, 'engine worker died');
    if (this.#progress !== null) return; // start() rejects
    const now = Date.now();
    this.#deaths = [...this.#deaths.filter((at) => now - at < DEATH_WINDOW_MS), now];
    if (this.#deaths.length > MAX_DEATHS) {
      this.#client!.fail(this.#client!.activeIds, new ServiceError('worker_lost', 'the workers keep dying'));
      this.onFatal?.(`engine workers died ${this.#deaths.length} times in a minute, last: ${reason}`);
      return;
    }
    this.onRestart?.(worker.index, reason);
    if (worker.index === 0) this.#replaceLead();
    else this.#replaceDecodeWorker(worker.index);
  }

  #replaceLead(): void {
    const awaited = new Set(this.#workers.filter((w) => w.index > 0 && w.isAlive).map((w) => w.index));
    this.#orphans = { ids: new Set(this.#client!.activeIds), awaited };
    this.#settleOrphans();
    this.#respawn(0, () => this.#connect());
  }

  #replaceDecodeWorker(index: number): void {
    this.#post(this.#workers[0]!, { op: 'lost', index });
    this.#orphans?.awaited.delete(index);
    this.#settleOrphans();
    this.#respawn(index, () => this.#connect(index));
  }

  #respawn(index: number, then: () => void): void {
    const ready = this.#spawn(index);
    // Lines are laid at once: messages wait in the port until the worker listens.
    then();
    ready.catch(() => {}); // its death is handled where the task is watched
  }

  /** A decode worker told what it holds; when all have, the rest of the old lead's requests is lost. */
  #reconcile(index: number, ids: readonly number[]): void {
    if (!this.#orphans) return;
    for (const id of ids) this.#orphans.ids.delete(id);
    this.#orphans.awaited.delete(index);
    this.#settleOrphans();
  }

  #settleOrphans(): void {
    if (!this.#orphans || this.#orphans.awaited.size > 0) return;
    const { ids } = this.#orphans;
    this.#orphans = null;
    this.#client!.fail([...ids], new ServiceError('worker_lost', 'the worker with this response died'));
  }

  /** A worker that makes no step for long is stuck inside a run; only ending the process can end that. */
  #watch(): void {
    const now = Date.now();
    const hangMs = this.#options.hangMs ?? DEFAULT_HANG_MS;
    for (const worker of this.#workers) {
      const beats = Atomics.load(worker.control, Ctl.beats);
      if (beats !== worker.beats || Atomics.load(worker.control, Ctl.busy) === 0) {
        worker.beats = beats;
        worker.lastBeatMs = now;
      } else if (worker.isAlive && now - worker.lastBeatMs > hangMs) {
        clearInterval(this.#watchdog);
        this.onFatal?.(`engine worker ${worker.index} of ${this.#info.id} has been in one step for ${hangMs / 1000} s`);
      }
    }
  }
}

function wake(worker: Worker): void {
  Atomics.add(worker.control, Ctl.mail, 1);
  Atomics.notify(worker.control, Ctl.mail);
}

const emptyGauges: EngineGaugesView = {
  waiting: 0,
  running: 0,
  residentSlots: 0,
  kvUsedTokens: 0,
  kvBytesPerToken: 0,
  kvReservedBytes: 0,
  hookMisses: 0,
};
