// Log-probabilities of a sampled token and of its likeliest alternatives, for requests that ask: the model's own
// log-softmax over the row, before bias, penalties and temperature. sequence.ts calls it with the untouched row, which is
// there whole also where a model hands out its likeliest tokens. Nothing here runs for other requests.
import { Candidates } from './candidates.ts';
import { expOfNegative } from './fast-exp.ts';

/** What JSON has no number for (-Infinity) is told as this, as OpenAI does. */
export const LEAST_LOGPROB = -9999;

export interface Likeliest {
  /** Of the sampled token. */
  logprob: number;
  /** Up to the number asked for, best first; ties by the lower id. */
  ids: number[];
  logprobs: number[];
}

const best = new Candidates();

/** ln Σ exp(logit) of the row [offset, offset + vocabSize); NaN entries count as -Infinity. */
export function logSumExp(logits: Float32Array, offset: number, vocabSize: number): number {
  let max = -Infinity;
  for (let id = 0; id < vocabSize; id++) {
    const value = logits[offset + id] ?? NaN;
    if (value > max) max = value;
  }
  let sum = 0;
  for (let id = 0; id < vocabSize; id++) sum += expOfNegative((logits[offset + id] ?? NaN) - max);
  return max + Math.log(sum);
}

/** Logprobs of `token` and of the `count` likeliest tokens of the row, whose log-sum-exp is `lse`. */
export function likeliest(
  logits: Float32Array,
  offset: number,
  vocabSize: number,
  lse: number,
  token: number,
  count: number,
): Likeliest {
  const result: Likeliest = { logprob: rounded((logits[offset + token] ?? NaN) - lse), ids: [], logprobs: [] };
  if (count === 0) return result;
  best.takeBest(logits, offset, vocabSize, count);
  for (let i = 0; i < best.size; i++) {
    result.ids.push(best.ids[i] ?? 0);
    result.logprobs.push(rounded((best.values[i] ?? NaN) - lse));
  }
  return result;
}

/** To 1e-6: float32 logits say no more, and shorter numbers travel better. */
function rounded(logprob: number): number {
  return logprob > LEAST_LOGPROB ? Math.round(logprob * 1e6) / 1e6 + 0 : LEAST_LOGPROB;
}
