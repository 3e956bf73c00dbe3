// Chooses the next token of one sequence. Made by the engine for each running sequence and thrown away when it moves:
// what must stay true is that a Sampler rebuilt from the ids so far goes on with the same tokens. So the random
// number of step n comes from (seed, n), and the penalties' counts are counts of the ids.
import type { SamplingParams } from '../../protocol/sampling.ts';
import { argmax, draw } from './draw.ts';
import { applyMask, isAllowed } from './token-mask.ts';
import { processorKinds, type LogitsProcessor } from './processors.ts';
import { uniform } from './rng.ts';
import { TokenCounts } from './token-counts.ts';
import { drawFromTop, NOT_ENOUGH, topArgmax, type TopRows } from './top-rows.ts';

/** Shared by all samplers of a thread: a row is copied here when processors change it. */
let scratch = new Float32Array(0);

export class Sampler {
  /** No randomness: the largest logit (after bias and penalties) wins, the lowest id on ties. */
  readonly isGreedy: boolean;
  readonly #params: SamplingParams;
  readonly #seed: number;
  readonly #vocabSize: number;
  readonly #processors: readonly LogitsProcessor[];
  readonly #counts: TokenCounts | null;
  /** Tokens of the answer so far; numbers the draws. */
  #step: number;

  /**
   * seed: a safe integer, drawn by the caller where the request has none. Ids are only read here.
   * Throws ServiceError invalid_request when a logit bias names no token of the vocabulary.
   */
  constructor(
    params: SamplingParams,
    seed: number,
    vocabSize: number,
    promptIds: ArrayLike<number>,
    generatedIds: ArrayLike<number>,
  ) {
    this.#params = params;
    this.#seed = seed;
    this.#vocabSize = vocabSize;
    this.#step = generatedIds.length;
    this.isGreedy = params.temperature === 0 || params.topK === 1;
    for (const kind of processorKinds) kind.validate(params, vocabSize);
    const active = processorKinds.filter((kind) => kind.isActive(params) && !(this.isGreedy && kind.isArgmaxInvariant));
    const counts = active.length === 0 ? null : new TokenCounts(vocabSize, promptIds, generatedIds);
    this.#counts = counts;
    this.#processors = counts === null ? [] : active.map((kind) => kind.create(params, counts));
  }

  /**
   * Chooses the token for the row [offset, offset + vocab) of logits, which is left unchanged, and counts it as part
   * of the answer. `top`, where the model has it, saves a walk through the row; the token is the same without.
   * Nothing outside `mask` is chosen, where there is one (token-mask.ts); bias and penalties come before it.
   * Throws an Error when the row has no finite value.
   */
  sample(logits: Float32Array, offset: number, top: TopRows | null = null, mask: Int32Array | null = null): number {
    const fromTop = top === null ? NOT_ENOUGH : this.#sampleTop(top, logits, offset, mask);
    const id = fromTop === NOT_ENOUGH ? this.#sampleRow(logits, offset, mask) : fromTop;
    this.#step++;
    this.#counts?.add(id);
    return id;
  }

  #sampleTop(top: TopRows, logits: Float32Array, offset: number, mask: Int32Array | null): number {
    // Processors may lift any token of the vocabulary.
    if (this.#processors.length > 0) return NOT_ENOUGH;
    const row = offset / this.#vocabSize;
    if (this.isGreedy) {
      const best = topArgmax(top, row);
      // The largest of all is the largest of those allowed when it is one of them.
      return mask === null || (best !== NOT_ENOUGH && isAllowed(mask, best)) ? best : NOT_ENOUGH;
    }
    // What a draw weighs is only known when the others are gone.
    if (mask !== null) return NOT_ENOUGH;
    const u = uniform(this.#seed, this.#step);
    return drawFromTop(top, row, logits, offset, this.#vocabSize, this.#params, u);
  }

  #sampleRow(logits: Float32Array, offset: number, mask: Int32Array | null): number {
    let row = logits;
    let start = offset;
    if (this.#processors.length > 0 || mask !== null) {
      if (scratch.length < this.#vocabSize) scratch = new Float32Array(this.#vocabSize);
      scratch.set(logits.subarray(offset, offset + this.#vocabSize));
      for (const processor of this.#processors) processor.apply(scratch);
      if (mask !== null) applyMask(scratch, mask);
      row = scratch;
      start = 0;
    }
    return this.isGreedy
      ? argmax(row, start, this.#vocabSize)
      : draw(row, start, this.#vocabSize, this.#params, uniform(this.#seed, this.#step));
  }
}
