// Models without requests: after a while their threads and memory go, and the next request brings them back; and when
// others ran out of KV memory, an idle model gives up what it took beyond its first part. Used by models.ts.
import { ServiceError } from '../../protocol/errors.ts';
import { collectGarbage } from './collect-garbage.ts';
import type { Instances } from './instances.ts';
import { messageOf } from './model-view.ts';
import type { EngineOptions } from './options.ts';
import type { Instance, ServedModel } from './served-model.ts';

const TICK_MS = 1000;
/** A model that was used within this time keeps the KV memory it took, even if others want it. */
const KEEPS_KV_MS = 2000;
/** Memory of threads that ended is freed within this time, even if answers stand still for that for some milliseconds. */
const HOLDS_GARBAGE_MS = 10_000;
/** After a model could not be opened for a request, the next ones are refused for so long without another try. */
const WAKE_RETRY_MS = 1000;

export interface IdleHost {
  readonly models: readonly ServedModel[];
  /** A load or swap is under way. */
  isBusy(model: ServedModel): boolean;
  /** Compiled once more, when what was compiled is gone from the disk. */
  recompile(model: ServedModel): Promise<void>;
  changed(): void;
}

export class IdleModels {
  readonly #host: IdleHost;
  readonly #instances: Instances;
  readonly #options: EngineOptions;
  readonly #waking = new Map<ServedModel, Promise<void>>();
  readonly #failedMs = new WeakMap<ServedModel, number>();
  readonly #stop = new AbortController();
  readonly #timer: NodeJS.Timeout;
  #refusals = 0;

  constructor(host: IdleHost, instances: Instances, options: EngineOptions) {
    this.#host = host;
    this.#instances = instances;
    this.#options = options;
    const { idleTimeoutMs = 0 } = options;
    const tickMs = idleTimeoutMs > 0 ? Math.min(TICK_MS, Math.max(10, idleTimeoutMs / 4)) : TICK_MS;
    this.#timer = setInterval(() => this.#tick(), tickMs);
    this.#timer.unref();
  }

  /** Opens a model that sleeps, from what was compiled. */
  wake(model: ServedModel): void {
    if (this.#waking.has(model) || this.#stop.signal.aborted) return;
    const work = this.#wake(model).finally(() => {
      this.#waking.delete(model);
      this.#host.changed();
    });
    this.#waking.set(model, work);
  }

  /** It is open, or could not be opened. */
  async settled(model: ServedModel): Promise<void> {
    await this.#waking.get(model);
  }

  /** Models that are idle at this moment give up KV memory for one that is to be loaded. */
  async makeRoom(): Promise<void> {
    const idle = this.#host.models.filter((model) => this.#canRenew(model));
    for (const model of idle) this.#renew(model);
    // Threads that are ending have memory too; those that still answer may take their time.
    const ending = this.#host.models.filter(({ numActive }) => numActive === 0).map((model) => model.retired());
    await Promise.all([...idle.map((model) => this.settled(model)), ...ending]);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#stop.abort(new ServiceError('shutting_down', 'the server is shutting down'));
  }

  #tick(): void {
    const now = Date.now();
    const { idleTimeoutMs = 0, log } = this.#options;
    const { refusals } = this.#instances.pot;
    const isWanted = refusals !== this.#refusals;
    this.#refusals = refusals;
    this.#collect(now);
    for (const model of this.#host.models) {
      if (model.numActive > 0) model.lastUsedMs = now;
      const idleMs = now - model.lastUsedMs;
      if (model.state !== 'ready' || model.numActive > 0 || this.#host.isBusy(model)) continue;
      if (idleTimeoutMs > 0 && idleMs >= idleTimeoutMs) {
        log.info({ model: model.model.id }, 'idle model unloaded; its next request loads it again');
        void model.sleep();
        this.#host.changed();
      } else if (isWanted && idleMs >= KEEPS_KV_MS && this.#canRenew(model)) this.#renew(model);
    }
  }

  /** At a moment when nobody waits for a token, if there is one soon. */
  #collect(now: number): void {
    const { garbageSinceMs } = this.#instances;
    if (garbageSinceMs === 0) return;
    if (now - garbageSinceMs < HOLDS_GARBAGE_MS && this.#host.models.some(({ numActive }) => numActive > 0)) return;
    this.#instances.garbageSinceMs = 0;
    collectGarbage();
  }

  #canRenew(model: ServedModel): boolean {
    return (
      model.state === 'ready' &&
      model.numActive === 0 &&
      !this.#host.isBusy(model) &&
      model.current?.share.hasGrown === true
    );
  }

  /** New threads and memory: written pages cannot be given back otherwise. Requests that come meanwhile wait a moment. */
  #renew(model: ServedModel): void {
    this.#options.log.info({ model: model.model.id }, 'idle model gives up its KV memory to others');
    void model.sleep();
    this.wake(model);
  }

  async #wake(model: ServedModel): Promise<void> {
    try {
      if (Date.now() - (this.#failedMs.get(model) ?? 0) < WAKE_RETRY_MS) throw new Error(model.failure);
      await model.retired();
      const instance = await this.#openAgain(model);
      if (model.state === 'unloaded') model.serve(instance, model.model);
      else await this.#instances.dismiss(instance);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      model.failure = messageOf(error);
      this.#failedMs.set(model, Date.now());
      // Why is in the log and in the admin's list: it may name paths.
      const message = `model ${model.model.id} could not be loaded again`;
      this.#options.log.warn({ model: model.model.id, reason: model.failure }, 'a model could not be loaded again');
      model.refuseWaiting(new ServiceError('model_loading', message, { retryAfterMs: 2 * WAKE_RETRY_MS }));
    }
  }

  async #openAgain(model: ServedModel): Promise<Instance> {
    const open = (): Promise<Instance> =>
      this.#instances.open({
        name: model.model.id,
        compiled: model.compiled!,
        signal: this.#stop.signal,
        isChecked: false,
        makeRoom: () => this.makeRoom(),
      });
    try {
      return await open();
    } catch (error) {
      if (error instanceof ServiceError) throw error;
      await this.#host.recompile(model);
      return open();
    }
  }
}
