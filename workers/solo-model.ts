// A model whose decode steps may take all cores: in the one worker that few streams are left to, while no other worker
// of this model computes. Chooses per run and tells the lead, through shared memory, how many streams that worker should
// be left. The results are the same either way.
import { coreWait } from './core-wait.ts';
import type { Products } from './messages/models.ts';
import type { EngineShared } from './messages/shared.ts';
import type { Model } from './model/model.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { MAX_SOLO_ROWS, SoloPolicy } from './solo-policy.ts';
import { SoloRetry } from './solo-retry.ts';

export class SoloModel implements Model {
  readonly #model: Model;
  readonly #index: number;
  readonly #busy: Int32Array;
  readonly #soloRows: Int32Array;
  readonly #maxRows: number;
  readonly #policy: SoloPolicy;
  readonly #retry: SoloRetry;
  #hasChanged = false;

  /**
   * `index`: of this worker. `products`: the model's. `takeWait`: share of its thread's time since the last call in which it
   * had work and no core.
   */
  constructor(model: Model, shared: EngineShared, index: number, products: Products, takeWait = coreWait()) {
    this.#model = model;
    this.#index = index;
    this.#busy = new Int32Array(shared.busy);
    this.#soloRows = new Int32Array(shared.soloRows);
    // In rows a step of four costs a thread little more than one of a single row: who shares a worker loses nothing by it.
    this.#maxRows = products === 'rows' ? Math.min(this.#busy.length, MAX_SOLO_ROWS) : MAX_SOLO_ROWS;
    this.#policy = new SoloPolicy(this.#busy.length, this.#maxRows);
    this.#retry = new SoloRetry(takeWait);
    this.#announce();
  }

  get canDecodeAlone(): boolean {
    return this.#model.canDecodeAlone;
  }

  get vocabSize(): number {
    return this.#model.vocabSize;
  }

  get verifySizes(): readonly number[] {
    return this.#model.verifySizes;
  }

  get top(): TopRows | null {
    return this.#model.top;
  }

  get hookMisses(): number {
    return this.#model.hookMisses;
  }

  /** True once after the number of streams that this worker should be left has changed: the lead may be asleep. */
  takeChange(): boolean {
    const hasChanged = this.#hasChanged;
    this.#hasChanged = false;
    return hasChanged;
  }

  /** The next run of so many rows would take all cores now. */
  isAlone(rows: number): boolean {
    return this.canDecodeAlone && this.#areOthersIdle && this.#policy.choose(rows);
  }

  decode(first: number, n: number, tokens: ArrayLike<number>, past: ArrayLike<number>): Float32Array {
    return this.#run(n, 1, (isAlone) => this.#model.decode(first, n, tokens, past, isAlone));
  }

  verify(slot: number, tokens: ArrayLike<number>, past: number): Float32Array {
    return this.#run(1, tokens.length, (isAlone) => this.#model.verify(slot, tokens, past, isAlone));
  }

  /** A run of one row advanced by so many tokens. */
  advanced(tokens: number): void {
    this.#policy.advanced(tokens);
  }

  prefill(slot: number, ids: ArrayLike<number>, past: number, wantLogits: boolean): Float32Array | undefined {
    return this.#model.prefill(slot, ids, past, wantLogits);
  }

  openNext(): boolean {
    const could = this.canDecodeAlone;
    const hasOpened = this.#model.openNext();
    if (!could && this.canDecodeAlone) this.#announce();
    return hasOpened;
  }

  dispose(): void {
    Atomics.store(this.#soloRows, 0, 0);
    this.#model.dispose();
  }

  #run(rows: number, tokens: number, run: (isAlone: boolean) => Float32Array): Float32Array {
    if (rows > this.#maxRows || !this.canDecodeAlone) return run(false);
    if (!this.#areOthersIdle) return this.#runSplit(rows, tokens, run);
    const isAlone = this.#policy.choose(rows);
    const started = performance.now();
    const logits = run(isAlone);
    // What began beside it meanwhile says nothing about having the cores.
    if (this.#areOthersIdle) {
      this.#policy.observe(rows, tokens, isAlone, performance.now() - started);
      this.#announce();
    }
    return logits;
  }

  /** Others compute too: streams were split, or there are prompts. */
  #runSplit(rows: number, tokens: number, run: (isAlone: boolean) => Float32Array): Float32Array {
    const started = performance.now();
    const logits = run(false);
    const now = performance.now();
    if (tokens === 1 && !this.#areOthersIdle) {
      this.#policy.observeSplit(rows, now - started);
      this.#announce();
    }
    // Only gathering the streams can show what all cores are worth now; of all streams about as many decode here.
    if (this.#policy.soloRows < this.#maxRows && this.#retry.isDue(now)) {
      this.#policy.retry(Math.min(this.#maxRows, rows * this.#busy.length));
      this.#announce();
    }
    return logits;
  }

  get #areOthersIdle(): boolean {
    for (let worker = 0; worker < this.#busy.length; worker++) {
      if (worker !== this.#index && Atomics.load(this.#busy, worker) !== 0) return false;
    }
    return true;
  }

  #announce(): void {
    const soloRows = this.canDecodeAlone ? this.#policy.soloRows : 0;
    const before = Atomics.exchange(this.#soloRows, 0, soloRows);
    this.#hasChanged ||= soloRows !== before;
    if (soloRows < before) this.#retry.gaveUp(performance.now());
  }
}
