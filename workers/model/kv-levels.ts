// How 8-bit KV memory gets one scale per channel from a kernel that has one for all, which is faster (README): keys and
// values are made in units of their own scales, and queries and results are multiplied by them. Called by graph-builder.
import type { LayerKvScales } from './graph-builder.ts';
import type { ModelSpec } from './specs/spec.ts';

type HeadShape = Pick<ModelSpec, 'numHeads' | 'numKvHeads' | 'headDim' | 'queryScale' | 'qkNorm'>;

/** What the rows of a layer's projections are multiplied by, [heads · headDim] each, and the attention's result. */
export interface KvLevels {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  result: Float32Array;
}

/**
 * Exact but for the rounding of floats: a query meets a key's scale once in itself and once, inverted, in the key, also
 * after both were rotated, since a rotated pair has one scale. Where heads are normed all have the same norm weights, so
 * there the largest scale of a channel serves all heads.
 */
export function kvLevels(spec: HeadShape, scales: LayerKvScales): KvLevels {
  const { numHeads, numKvHeads, headDim, queryScale, qkNorm } = spec;
  const kScale = qkNorm ? largestOfHeads(scales.k, headDim) : scales.k;
  /** By query head, where heads that share keys and values lie side by side. */
  const byQuery = (values: Float32Array): Float32Array => {
    const group = numHeads / numKvHeads;
    return Float32Array.from({ length: numHeads * headDim }, (_, i) => {
      const head = Math.floor(i / headDim / group);
      return values[head * headDim + (i % headDim)]!;
    });
  };
  return {
    q: byQuery(kScale).map((scale) => scale * queryScale),
    k: kScale.map((scale) => 1 / scale),
    v: scales.v.map((scale) => 1 / scale),
    result: byQuery(scales.v),
  };
}

function largestOfHeads(scales: Float32Array, headDim: number): Float32Array {
  const largest = new Float32Array(headDim);
  for (const [i, scale] of scales.entries()) largest[i % headDim] = Math.max(largest[i % headDim]!, scale);
  return scales.map((_, i) => largest[i % headDim]!);
}
