// Scales of 8-bit KV memory: one per layer, head and channel, fixed when the model is compiled, from the keys and values
// of texts that the model writes itself. Called by build-entry with the float form of the graph that will have them.
import type { ModelShape } from '../messages/models.ts';
import type { LayerKvScales } from './graph-builder.ts';
import { openRows, withSession, writeTexts, type OnStep } from './self-text.ts';

/** About a thousand tokens: four times fewer gave twice the divergence, measured on the default model (README). */
const ROWS = 8;
const MAX_LENGTH = 160;
/** Room above the largest value seen; what is larger still is cut off. */
const MARGIN = 1.1;
const LEVELS = 127;
/** Keeps a channel that was always zero from dividing by zero. */
const MIN_LARGEST = 1e-6;

/**
 * `rotaryDim`: leading channels of a key that positions rotate. `graph` must hold its KV memory in float32, and `shape` say so.
 * Throws an Error when it computes no numbers.
 */
export function calibrateKv(
  graph: string,
  shape: ModelShape,
  rotaryDim: number,
  firstToken: number,
  onStep?: OnStep,
): LayerKvScales[] {
  const length = Math.min(MAX_LENGTH, shape.maxPositions);
  return withSession(graph, (session) => {
    const rows = openRows(session, shape, ROWS, length);
    writeTexts(rows, { numRows: ROWS, length, vocabSize: shape.vocabSize, firstToken }, onStep);
    return Array.from({ length: shape.numLayers }, (_, layer) => ({
      k: scalesOf(rows.kv[2 * layer] as Float32Array, shape, length, rotaryDim),
      v: scalesOf(rows.kv[2 * layer + 1] as Float32Array, shape, length, 0),
    }));
  });
}

/**
 * [kvHeads · headDim] from values [rows, kvHeads, length, headDim]. The two channels of a rotated pair share the largest
 * length of the pair: at another position the same key lies elsewhere on that circle, also at positions far beyond
 * the texts seen here.
 */
function scalesOf(values: Float32Array, shape: ModelShape, length: number, rotaryDim: number): Float32Array {
  const { numKvHeads, headDim } = shape;
  const half = rotaryDim / 2;
  const largest = new Float32Array(numKvHeads * headDim).fill(MIN_LARGEST);
  // The last token of a text was never computed.
  for (let start = 0; start < values.length; start += headDim) {
    const position = (start / headDim) % length;
    const head = Math.floor(start / (headDim * length)) % numKvHeads;
    if (position === length - 1) continue;
    for (let i = 0; i < headDim; i++) {
      const value = values[start + i]!;
      const size = i < rotaryDim ? Math.hypot(value, values[start + ((i + half) % rotaryDim)]!) : Math.abs(value);
      if (!Number.isFinite(size)) throw new Error('the model computes no numbers; its KV memory cannot be calibrated');
      if (size > largest[head * headDim + i]!) largest[head * headDim + i] = size;
    }
  }
  return largest.map((size) => (size * MARGIN) / LEVELS);
}
