// The next token from the likeliest tokens of a row, which the graph of a model with a large vocabulary hands out beside
// the logits. Called by sampler.ts before it looks at a whole row. What must stay true: the token is the one that the
// whole row gives, to the bit; where that cannot be proven from the candidates the answer is NOT_ENOUGH.
import { Candidates } from './candidates.ts';
import { drawFromSorted, pick, type DrawParams } from './draw.ts';
import { expOfNegative } from './fast-exp.ts';

/** The `size` likeliest tokens of each row of a batch; belongs to the model and is valid until its next call. */
export interface TopRows {
  readonly size: number;
  /** [rows, size] logits, the largest first; of equal ones the lowest ids, in order of id. */
  readonly values: Float32Array;
  /** [rows, size] */
  readonly ids: Int32Array;
}

/** The whole row is needed. */
export const NOT_ENOUGH = -1;

/** Sums of the same weights in another order differ by less than this share; so may neighbouring weights. */
const ROUNDING = 1e-9;

const candidates = new Candidates();

/** The likeliest token; NOT_ENOUGH when the row holds no number at its head, which the whole row must explain. */
export function topArgmax(top: TopRows, row: number): number {
  return hasNumbers(top, row) ? (top.ids[row * top.size] ?? NOT_ENOUGH) : NOT_ENOUGH;
}

/**
 * Draws by u in [0, 1) from row `row`, whose logits are [offset, offset + vocabSize). They are read only to weigh the
 * whole row for top-p. Not enough: temperature alone, more than `size` for top-k, and tails that top-p or min-p reach.
 */
export function drawFromTop(
  top: TopRows,
  row: number,
  logits: Float32Array,
  offset: number,
  vocabSize: number,
  params: DrawParams,
  u: number,
): number {
  const { topK, topP, minP } = params;
  const isTopK = topK > 0 && topK < vocabSize;
  if (isTopK ? topK > top.size : topP === 1 && minP === 0) return NOT_ENOUGH;
  if (!hasNumbers(top, row)) return NOT_ENOUGH;
  const start = row * top.size;
  candidates.clear();
  for (let i = start; i < start + (isTopK ? topK : top.size); i++) {
    const value = top.values[i] ?? NaN;
    if (value > -Infinity) candidates.append(value, top.ids[i] ?? 0);
  }
  if (isTopK) return drawFromSorted(candidates, params, u);
  const max = top.values[start] ?? 0;
  if (max === Infinity) return top.ids[start] ?? 0;
  weigh(max, params.temperature);
  const kept =
    topP < 1 ? nucleusSize(weightOfAll(logits, offset, vocabSize, max, params.temperature), topP) : sizeAbove(minP);
  return kept < 0 ? NOT_ENOUGH : drawFromFirst(kept, minP, u);
}

/** False for a row that a broken model has filled with NaN: it may hide anything. */
function hasNumbers(top: TopRows, row: number): boolean {
  const start = row * top.size;
  for (let i = start; i < start + top.size; i++) if (Number.isNaN(top.values[i] ?? NaN)) return false;
  return (top.values[start] ?? NaN) > -Infinity;
}

/** Logits of the candidates become weights, exp((logit - max) / temperature). */
function weigh(max: number, temperature: number): void {
  const scale = 1 / temperature;
  const { values, size } = candidates;
  for (let i = 0; i < size; i++) values[i] = expOfNegative(((values[i] ?? 0) - max) * scale);
}

function weightOfAll(
  logits: Float32Array,
  offset: number,
  vocabSize: number,
  max: number,
  temperature: number,
): number {
  const scale = 1 / temperature;
  let total = 0;
  for (let i = offset; i < offset + vocabSize; i++) total += expOfNegative(((logits[i] ?? NaN) - max) * scale);
  return total;
}

/** How many of the likeliest reach topP of the total; negative where rounding could decide or the candidates end before. */
function nucleusSize(total: number, topP: number): number {
  const wanted = topP * total;
  const margin = ROUNDING * total;
  let reached = 0;
  for (let i = 0; i < candidates.size; i++) {
    // Without this one, the ones before are too few for certain; the first is always taken.
    if (i > 0 && reached >= wanted - margin) return NOT_ENOUGH;
    reached += candidates.values[i] ?? 0;
    if (reached >= wanted + margin) return i + 1;
  }
  return NOT_ENOUGH;
}

/** All candidates, when the last of them is too light already, so that the tokens outside are too. */
function sizeAbove(minP: number): number {
  const { values, size } = candidates;
  return (values[size - 1] ?? 0) < minP * (1 - ROUNDING) ? size : NOT_ENOUGH;
}

/** Draws among the first `size` candidates that weigh minP or more, laid end to end in order of id as in the whole row. */
function drawFromFirst(size: number, minP: number, u: number): number {
  const { values, ids } = candidates;
  let numKept = 0;
  for (let i = 0; i < size; i++) {
    const weight = values[i] ?? 0;
    const id = ids[i] ?? 0;
    if (weight < minP) continue;
    let at = numKept++;
    for (; at > 0 && (ids[at - 1] ?? 0) > id; at--) {
      ids[at] = ids[at - 1] ?? 0;
      values[at] = values[at - 1] ?? 0;
    }
    ids[at] = id;
    values[at] = weight;
  }
  let kept = 0;
  for (let i = 0; i < numKept; i++) kept += values[i] ?? 0;
  return pick(ids, values, numKept, u * kept);
}
