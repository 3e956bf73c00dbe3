// One model's worker threads, from `start` to `stop`: heartbeat, death and end. A model that is loaded again gets new ones
// (served-model.ts). Worker 0 is the lead. A worker that dies takes
// only its own responses along: decode workers tell a new lead what they still hold, and a lead ends what it had lent
// to a decode worker that died.
import { availableParallelism } from 'node:os';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Piscina } from 'piscina';
import { ServiceError } from '../../protocol/errors.ts';
import { Ctl, Order } from '../../workers/messages/shared.ts';
import type { EncodeResult } from '../../workers/messages/cpu-tasks.ts';
import type { FromWorker } from '../../workers/messages/events.ts';
import type { CompiledModel } from '../../workers/messages/models.ts';
import type { EngineShared } from '../../workers/messages/shared.ts';
import type { StepOutput, StepStats } from '../../workers/messages/events.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import type { PromptInput, ToWorker, WorkerInit } from '../../workers/messages/requests.ts';
import type { SlotLayout } from '../../workers/messages/shared.ts';
import { EngineClient, numFlags } from './client.ts';
import { GrammarChecker } from './grammar-checker.ts';
import { allocateShared, formatBytes, planLayout } from './memory.ts';
import type { KvDemand, KvShare } from './kv-pot.ts';
import type { EngineOptions } from './options.ts';
import { StepOrder } from './step-order.ts';
import { defaultQueue } from './waiting-room.ts';
import type { EngineGaugesView, EngineSink, SubmitOptions } from './types.ts';
import { kvBytesPerToken } from '../../workers/messages/models.ts';

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
  task: { prompt: PromptInput; maxTokens: number; tenant: string | null },
) => Promise<EncodeResult>;

const DEFAULT_HANG_MS = 30_000;
const WATCH_INTERVAL_MS = 1000;
/** More deaths than this within the window mean that restarting does not help. */
const MAX_DEATHS = 5;
const DEATH_WINDOW_MS = 60_000;
/** After a death, the time within which the messages of the living are here that were already numbered. */
const LAST_POSTS_MS = 100;

export class ModelEngine {
  onStepEnd: ((isCollected: boolean) => void) | null = null;
  onStepStats: ((stats: StepStats) => void) | null = null;
  onRestart: ((index: number, reason: string) => void) | null = null;
  onFatal: ((reason: string) => void) | null = null;
  readonly #options: EngineOptions;
  readonly #makePool: (numWorkers: number) => Piscina;
  readonly #encode: Encode;
  readonly #compiled: CompiledModel;
  readonly #name: string;
  #isServing = false;
  #pool: Piscina | null = null;
  #client: EngineClient | null = null;
  #checker: GrammarChecker | null = null;
  #workers: Worker[] = [];
  readonly layout: SlotLayout;
  readonly demand: KvDemand;
  #shared: EngineShared | null = null;
  #watchdog: NodeJS.Timeout | undefined;
  readonly #order = new StepOrder((message) => this.#client?.receive(message));
  #deaths: number[] = [];
  #isStopping = false;
  /** A new lead has not yet heard from these decode workers; requests in none of their inventories are lost. */
  #orphans: { ids: Set<number>; awaited: Set<number> } | null = null;

  /** `name`: for messages. Throws `invalid_request` when a full context does not fit KV_MEMORY. */
  constructor(
    name: string,
    compiled: CompiledModel,
    options: EngineOptions,
    makePool: (numWorkers: number) => Piscina,
    encode: Encode,
  ) {
    this.#name = name;
    this.#compiled = compiled;
    this.#options = options;
    this.#makePool = makePool;
    this.#encode = encode;
    this.layout = planLayout(compiled.shape, { ...options, maxContext: compiled.shape.maxPositions });
    this.demand = { floorTokens: 2 * this.layout.maxLen, bytesPerToken: kvBytesPerToken(compiled.shape) };
  }

  get gauges(): EngineGaugesView {
    return this.#client?.gauges ?? emptyGauges;
  }

  /** Requests that have not ended. */
  get numActive(): number {
    return this.#client?.numActive ?? 0;
  }

  /** After `start`. See Engine.submit. */
  submit(options: SubmitOptions, sinks: readonly EngineSink[], ids?: readonly number[]): number[] {
    return this.#client!.submit(options, sinks, ids);
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

  /** Opens the workers over one KV memory. Rejects when one cannot start; then `stop` is still to be called. */
  async start(share: KvShare): Promise<void> {
    const { workers, threads, slots, log } = this.#options;
    const compiled = this.#compiled;
    const queue = { ...defaultQueue, ...this.#options.queue };
    this.#shared = allocateShared(compiled.shape, this.layout, numFlags(queue.queueSize, slots), share.shared);
    const checker = (this.#checker = new GrammarChecker(compiled));
    const link = {
      toLead: (message: ToWorker) => this.#post(this.#workers[0]!, message),
      wake: () => this.#workers.forEach(wake),
      encode: (prompt: PromptInput, maxTokens: number, tenant: string) =>
        this.#encode(compiled, { prompt, maxTokens, tenant }),
      checkGrammar: (spec: GrammarSpec, tenant: string) => checker.check(spec, tenant),
    };
    this.#client = new EngineClient(compiled, this.layout.maxLen, this.#shared.flags, link, queue);
    this.#client.onStepEnd = (isCollected) => this.onStepEnd?.(isCollected);
    this.#client.onStepStats = (stats) => this.onStepStats?.(stats);
    this.#pool = this.#makePool(workers);
    this.#pool.on('error', (error) => log.error({ err: error }, 'engine pool error'));
    await Promise.all(Array.from({ length: workers }, (_, index) => this.#spawn(index)));
    this.#connect();
    this.#watchdog = setInterval(() => this.#watch(), WATCH_INTERVAL_MS);
    this.#watchdog.unref();
    log.info(
      {
        model: this.#name,
        origin: compiled.origin,
        weights: `${formatBytes(compiled.weightsBytes)}, ${compiled.quantization}`,
        context: this.layout.maxLen,
        kvType: compiled.shape.kvType,
        kvBytesPerToken: this.demand.bytesPerToken,
        ...(compiled.kvDivergence > 0 ? { kvDivergence: Number(compiled.kvDivergence.toPrecision(2)) } : {}),
        slots: this.layout.numSlots,
        kvBudget: formatBytes(this.layout.budgetTokens * this.demand.bytesPerToken),
        kvReserved: formatBytes(share.floorBytes),
        workers: `${workers} x ${threads} thread${threads > 1 ? 's' : ''}`,
      },
      'model ready',
    );
    this.#isServing = true;
  }

  /** Ends what is active with this error, and every worker's loop. `start` may be under way, and rejects then. */
  async stop(reason?: ServiceError): Promise<void> {
    this.#isStopping = true;
    clearInterval(this.#watchdog);
    for (const worker of this.#workers) {
      Atomics.store(worker.control, Ctl.stop, 1);
      wake(worker);
    }
    await Promise.allSettled(this.#workers.map(({ task }) => task));
    this.#client?.close(reason);
    this.#checker?.close();
    for (const worker of this.#workers) worker.port.close();
    await this.#pool?.close();
    // Whoever still knows this engine must not keep its KV memory from being freed.
    this.#shared = null;
    this.#client = null;
    this.#pool = null;
    this.#workers = [];
  }

  // --- threads

  /** Starts the endless task of worker `index`; resolves when it has opened the model. */
  #spawn(index: number): Promise<void> {
    const { port1, port2 } = new MessageChannel();
    const ctl = new SharedArrayBuffer(4 * Ctl.size);
    const init: WorkerInit = {
      index,
      model: this.#compiled,
      layout: this.layout,
      shared: this.#shared!,
      ctl,
      port: port2,
      threads: this.#options.threads,
      speculation: this.#options.speculation,
      solo: this.#options.solo,
      debugOwners: this.#options.debugOwners,
      cores: availableParallelism(),
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
    if (this.#shared === null) return;
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
    this.#options.log.error({ model: this.#name, worker: worker.index, reason }, 'engine worker died');
    if (!this.#isServing) return; // start() rejects
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
        this.onFatal?.(`engine worker ${worker.index} of ${this.#name} has been in one step for ${hangMs / 1000} s`);
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
