// An encoder open in one thread: token ids in, normalised vectors out. The CPU pool's worker and the compiler's check
// hold one. What must stay true: a text's vector is the same alone and among others, but for rounding.
import { OrtSession, tensor, type Tensors } from './ort-binding.ts';
import { EncoderNames } from './encoder-graph.ts';

/** Most tokens of one run: more gain nothing on a CPU, and their intermediate results leave its caches. */
const RUN_TOKENS = 1024;
/** Attention works on texts as long as the longest of the run; beyond this share of empty places another run begins. */
const MAX_WASTE = 1.5;
/** Below so many places the waste is less than what a run costs anyway. */
const FREE_PLACES = 256;

export class EncoderModel {
  readonly #session: OrtSession;
  readonly #hiddenSize: number;

  /** Throws an Error when the graph cannot be loaded. */
  constructor(path: string, hiddenSize: number) {
    this.#session = new OrtSession(path, { threads: 1 });
    this.#hiddenSize = hiddenSize;
  }

  /**
   * One vector of length 1 per text, in the order of the texts; each text has at least one id. Holds the thread.
   * Throws an Error for ids outside the vocabulary and texts longer than the positions.
   */
  embed(texts: readonly ArrayLike<number>[]): Float32Array[] {
    const vectors: Float32Array[] = Array.from({ length: texts.length });
    for (const run of runsOf(texts.map(({ length }) => length))) {
      const pooled = this.#run(run.map((index) => texts[index]!));
      for (const [b, index] of run.entries()) {
        vectors[index] = normalized(pooled.subarray(b * this.#hiddenSize, (b + 1) * this.#hiddenSize));
      }
    }
    return vectors;
  }

  dispose(): void {
    this.#session.dispose();
  }

  /** [B, hidden] */
  #run(texts: readonly ArrayLike<number>[]): Float32Array {
    const lengths = Int32Array.from(texts, ({ length }) => length);
    const [numTexts, longest] = [texts.length, Math.max(...lengths)];
    const numTokens = lengths.reduce((sum, length) => sum + length, 0);
    const ids = new BigInt64Array(numTokens);
    const positions = new BigInt64Array(numTokens);
    const collect = new BigInt64Array(numTokens);
    const spread = new BigInt64Array(numTexts * longest);
    const weights = new Float32Array(numTexts * numTokens);
    let token = 0;
    for (const [b, text] of texts.entries()) {
      for (let s = 0; s < text.length; s++, token++) {
        ids[token] = BigInt(text[s]!);
        positions[token] = BigInt(s);
        collect[token] = BigInt(b * longest + s);
        spread[b * longest + s] = BigInt(token);
        weights[b * numTokens + token] = 1 / text.length;
      }
    }
    const feeds: Tensors = {
      [EncoderNames.ids]: tensor('int64', ids, [numTokens]),
      [EncoderNames.positions]: tensor('int64', positions, [numTokens]),
      [EncoderNames.lengths]: tensor('int32', lengths, [numTexts]),
      [EncoderNames.spread]: tensor('int64', spread, [numTexts, longest]),
      [EncoderNames.collect]: tensor('int64', collect, [numTokens]),
      [EncoderNames.weights]: tensor('float32', weights, [numTexts, numTokens]),
    };
    const pooled = new Float32Array(numTexts * this.#hiddenSize);
    this.#session.run(feeds, { [EncoderNames.pooled]: tensor('float32', pooled, [numTexts, this.#hiddenSize]) });
    return pooled;
  }
}

/** Indices of the texts that share a run, the longest first. */
export function runsOf(lengths: readonly number[]): number[][] {
  const runs: number[][] = [];
  let numTokens = 0;
  for (const index of lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]!)) {
    const length = lengths[index]!;
    const run = runs.at(-1);
    const places = run === undefined ? 0 : (run.length + 1) * lengths[run[0]!]!;
    const fits =
      numTokens + length <= RUN_TOKENS && (places <= FREE_PLACES || places <= MAX_WASTE * (numTokens + length));
    if (run === undefined || !fits) {
      runs.push([index]);
      numTokens = length;
    } else {
      run.push(index);
      numTokens += length;
    }
  }
  return runs;
}

/** A copy of length 1; a vector of zeros stays one. */
export function normalized(vector: Float32Array): Float32Array {
  let sum = 0;
  for (const value of vector) sum += value * value;
  const factor = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  return vector.map((value) => value * factor);
}
