// A model whose decode steps may take all cores: in the one worker that few streams are left to, while no other worker
// of this model computes. Chooses per run and tells the lead, through shared memory, whether that worker should be left
// the streams. The results are the same either way.
import type { EngineShared } from './messages.ts';
import type { Model } from './model/model.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { MAX_SOLO_ROWS, SoloPolicy } from './solo-policy.ts';

export class SoloModel implements Model {
  readonly canDecodeAlone = true;
  readonly #model: Model;
  readonly #index: number;
  readonly #busy: Int32Array;
  readonly #soloRows: Int32Array;
  readonly #policy: SoloPolicy;

  /** `index`: of this worker. */
  constructor(model: Model, shared: EngineShared, index: number) {
    this.#model = model;
    this.#index = index;
    this.#busy = new Int32Array(shared.busy);
    this.#soloRows = new Int32Array(shared.soloRows);
    this.#policy = new SoloPolicy(this.#busy.length);
    this.#announce(true);
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

  /** A step of one row would be run on all cores now. */
  get isAlone(): boolean {
    return this.#areOthersIdle && this.#policy.isBetter(1);
  }

  decode(first: number, n: number, tokens: ArrayLike<number>, past: ArrayLike<number>): Float32Array {
    if (n > MAX_SOLO_ROWS || !this.#areOthersIdle) return this.#model.decode(first, n, tokens, past);
    const isAlone = this.#policy.choose(n);
    const started = performance.now();
    const logits = this.#model.decode(first, n, tokens, past, isAlone);
    // What began beside it meanwhile says nothing about having the cores.
    if (this.#areOthersIdle) {
      this.#policy.observe(n, isAlone, performance.now() - started);
      this.#announce(this.#policy.isBetter(n));
    }
    return logits;
  }

  verify(slot: number, tokens: ArrayLike<number>, past: number): Float32Array {
    return this.#model.verify(slot, tokens, past);
  }

  prefill(slot: number, ids: ArrayLike<number>, past: number, wantLogits: boolean): Float32Array | undefined {
    return this.#model.prefill(slot, ids, past, wantLogits);
  }

  dispose(): void {
    this.#announce(false);
    this.#model.dispose();
  }

  get #areOthersIdle(): boolean {
    for (let worker = 0; worker < this.#busy.length; worker++) {
      if (worker !== this.#index && Atomics.load(this.#busy, worker) !== 0) return false;
    }
    return true;
  }

  #announce(isWorthwhile: boolean): void {
    Atomics.store(this.#soloRows, 0, isWorthwhile ? MAX_SOLO_ROWS : 0);
  }
}
