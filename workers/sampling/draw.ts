// From a row of logits to one token: argmax, or temperature, top-k, top-p, min-p and a draw, fused into a few passes.
// Called by sampler.ts. What must stay true: the token depends on the row, the parameters and u alone; nothing is
// allocated per call (scratch grows to the vocabulary once per thread); NaN and -Infinity are never chosen.
import { Candidates } from './candidates.ts';
import { expOfNegative } from './fast-exp.ts';

export interface DrawParams {
  /** > 0 */
  temperature: number;
  /** 0 keeps all. */
  topK: number;
  topP: number;
  minP: number;
}

const candidates = new Candidates();
/** What top-p may keep, in order of id. */
const nucleus = new Candidates();
/** [vocab] exp((logit - max) / temperature) of the row being drawn from. */
let weights = new Float64Array(0);

/** Buckets of the top-p search: 16 per unit of (max - logit) / temperature, the last one open-ended. */
const BUCKETS_PER_UNIT = 16;
const NUM_BUCKETS = 1024;
const bucketMass = new Float64Array(NUM_BUCKETS);

/** Id of the largest logit of the row [offset, offset + vocabSize), the lowest on ties. Throws when there is none. */
export function argmax(logits: Float32Array, offset: number, vocabSize: number): number {
  let best = -1;
  let max = -Infinity;
  for (let id = 0; id < vocabSize; id++) {
    const value = logits[offset + id] ?? NaN;
    if (value > max) {
      max = value;
      best = id;
    }
  }
  // An assertion: a model that computes only NaN or -Infinity is broken, and no token would be right.
  if (best < 0) throw new Error('row of logits has no finite value');
  return best;
}

/** Draws by u in [0, 1). */
export function draw(logits: Float32Array, offset: number, vocabSize: number, params: DrawParams, u: number): number {
  if (params.topK > 0 && params.topK < vocabSize) return drawFromBest(logits, offset, vocabSize, params, u);
  return drawFromAll(logits, offset, vocabSize, params, u);
}

/** top-k: only k tokens are ever weighed; they come sorted, which top-p needs. */
function drawFromBest(logits: Float32Array, offset: number, vocabSize: number, params: DrawParams, u: number): number {
  candidates.takeBest(logits, offset, vocabSize, params.topK);
  if (candidates.size === 0) throw new Error('row of logits has no finite value');
  return drawFromSorted(candidates, params, u);
}

/** Draws among (logit, id) pairs, at least one, best first, as top-k left them. Overwrites their logits. */
export function drawFromSorted(sorted: Candidates, params: DrawParams, u: number): number {
  const { values, ids, size } = sorted;
  const max = values[0] ?? 0;
  if (max === Infinity) return ids[0] ?? 0;
  const scale = 1 / params.temperature;
  let total = 0;
  for (let i = 0; i < size; i++) {
    const weight = expOfNegative(((values[i] ?? 0) - max) * scale);
    values[i] = weight;
    total += weight;
  }
  // The smallest beginning that reaches topP of what top-k left, then minP within it; always the best one.
  const wanted = params.topP * total;
  let kept = values[0] ?? 0;
  let numKept = 1;
  while (numKept < size && kept < wanted && (values[numKept] ?? 0) >= params.minP) kept += values[numKept++] ?? 0;
  return pick(ids, values, numKept, u * kept);
}

/** Without top-k: weigh all, and find the border of top-p without sorting all. */
function drawFromAll(logits: Float32Array, offset: number, vocabSize: number, params: DrawParams, u: number): number {
  const best = argmax(logits, offset, vocabSize);
  const max = logits[offset + best] ?? 0;
  if (max === Infinity) return best;
  if (weights.length < vocabSize) weights = new Float64Array(vocabSize);
  const scale = 1 / params.temperature;
  let total = 0;
  for (let id = 0; id < vocabSize; id++) {
    const weight = expOfNegative(((logits[offset + id] ?? NaN) - max) * scale);
    weights[id] = weight;
    total += weight;
  }
  if (params.topP < 1) return drawFromNucleus(logits, offset, vocabSize, params, max, total, u);
  if (params.minP > 0) total = keepAbove(vocabSize, params.minP);
  let rest = u * total;
  let last = best;
  for (let id = 0; id < vocabSize; id++) {
    const weight = weights[id] ?? 0;
    if (weight === 0) continue;
    rest -= weight;
    if (rest < 0) return id;
    last = id;
  }
  return last;
}

function keepAbove(vocabSize: number, minWeight: number): number {
  let total = 0;
  for (let id = 0; id < vocabSize; id++) {
    const weight = weights[id] ?? 0;
    // The likeliest token's weight is 1, so minP times it is minP itself.
    if (weight >= minWeight) total += weight;
    else weights[id] = 0;
  }
  return total;
}

/**
 * Draws from the smallest set of likeliest tokens whose weights reach topP of the total. Three steps, each on fewer
 * tokens than the one before: drop the tail that cannot matter, count the others into buckets by logit (all buckets
 * above the border are in, all below are out), and put only the border's own bucket in order.
 */
function drawFromNucleus(
  logits: Float32Array,
  offset: number,
  vocabSize: number,
  params: DrawParams,
  max: number,
  total: number,
  u: number,
): number {
  // All tokens lighter than this weigh less than (1 - topP) of the total together, so topP is reached without them.
  const floor = ((1 - params.topP) * total) / vocabSize;
  nucleus.clear();
  for (let id = 0; id < vocabSize; id++) {
    const weight = weights[id] ?? 0;
    if (weight >= floor && weight > 0) nucleus.append(logits[offset + id] ?? 0, id);
  }
  const { values, ids } = nucleus;
  const fine = BUCKETS_PER_UNIT / params.temperature;
  bucketMass.fill(0);
  for (let i = 0; i < nucleus.size; i++) {
    const bucket = bucketOf((max - (values[i] ?? 0)) * fine);
    bucketMass[bucket] = (bucketMass[bucket] ?? 0) + (weights[ids[i] ?? 0] ?? 0);
  }
  const wanted = params.topP * total;
  let border = 0;
  let reached = 0;
  while (border < NUM_BUCKETS - 1 && reached + (bucketMass[border] ?? 0) < wanted) reached += bucketMass[border++] ?? 0;
  candidates.clear();
  for (let i = 0; i < nucleus.size; i++) {
    const value = values[i] ?? 0;
    if (bucketOf((max - value) * fine) === border) candidates.append(value, ids[i] ?? 0);
  }
  candidates.heapify();
  // The border lies at the last token taken: what is likelier, or as likely with a lower id, is in. Always one token.
  let lastLogit = Infinity;
  let lastId = 0;
  while (candidates.size > 0 && (reached < wanted || lastLogit === Infinity)) {
    candidates.popBest();
    lastLogit = candidates.values[candidates.size] ?? 0;
    lastId = candidates.ids[candidates.size] ?? 0;
    reached += weights[lastId] ?? 0;
  }
  let kept = 0;
  let numKept = 0;
  for (let i = 0; i < nucleus.size; i++) {
    const value = values[i] ?? 0;
    const id = ids[i] ?? 0;
    const weight = weights[id] ?? 0;
    if (value < lastLogit || (value === lastLogit && id > lastId) || weight < params.minP) continue;
    values[numKept] = weight;
    ids[numKept++] = id;
    kept += weight;
  }
  return pick(ids, values, numKept, u * kept);
}

function bucketOf(distance: number): number {
  return distance < NUM_BUCKETS - 1 ? distance | 0 : NUM_BUCKETS - 1;
}

/** The entry in which `rest` falls when the weights are laid end to end. */
export function pick(ids: Int32Array, entryWeights: Float64Array, size: number, rest: number): number {
  let left = rest;
  for (let i = 0; i < size; i++) {
    left -= entryWeights[i] ?? 0;
    if (left < 0) return ids[i] ?? 0;
  }
  // Rounding left a crumb over: it belongs to the last entry that can be drawn.
  for (let i = size - 1; i > 0; i--) if ((entryWeights[i] ?? 0) > 0) return ids[i] ?? 0;
  return ids[0] ?? 0;
}
