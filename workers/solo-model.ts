// A model whose decode steps may take all cores: in the one worker that few streams are left to, while no other worker
// of this model computes. Chooses per run and tells the lead, through shared memory, how many streams that worker should
// be left. The results are the same either way.
import type { EngineShared } from './messages/shared.ts';
import type { Model } from './model/model.ts';
import type { TopRows } from './sampling/top-rows.ts';
import { MAX_SOLO_ROWS, SoloPolicy } from './solo-policy.ts';

/** Streams that were split among workers are gathered again after so long, to see whether it pays now; doubles. */
const MIN_RETRY_MS = 4000;
const MAX_RETRY_MS = 64_000;

export class SoloModel implements Model {
  readonly #model: Model;
  readonly #index: number;
  readonly #busy: Int32Array;
  readonly #soloRows: Int32Array;
  readonly #policy: SoloPolicy;
  #retryMs = MIN_RETRY_MS;
  #splitSinceMs = 0;

  /** `index`: of this worker. */
  constructor(model: Model, shared: EngineShared, index: number) {
    this.#model = model;
    this.#index = index;
    this.#busy = new Int32Array(shared.busy);
    this.#soloRows = new Int32Array(shared.soloRows);
    this.#policy = new SoloPolicy(this.#busy.length);
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
    if (rows > MAX_SOLO_ROWS || !this.canDecodeAlone) return run(false);
    if (!this.#areOthersIdle) {
      this.#retry();
      return run(false);
    }
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

  /** Others compute because streams were split, or prompts: only gathering the streams can show what it is worth now. */
  #retry(): void {
    const rows = this.#policy.soloRows;
    if (rows === MAX_SOLO_ROWS || performance.now() - this.#splitSinceMs < this.#retryMs) return;
    this.#retryMs = Math.min(MAX_RETRY_MS, 2 * this.#retryMs);
    this.#policy.retry(rows + 1);
    this.#announce();
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
    if (soloRows < before) this.#splitSinceMs = performance.now();
    else if (soloRows === MAX_SOLO_ROWS && before === MAX_SOLO_ROWS) this.#retryMs = MIN_RETRY_MS;
  }
}
