// Matrix products for any number of rows in 8-bit integers, with each activation in two terms of 8 bits, as good as 16:
// x = S · (high + low / 254). The scale S comes from what the input cannot exceed, so nothing has to be measured in a run
// and nothing is clipped. Called by graph-builder. What must stay true: a row's result depends on that row alone, so that
// a row alone, in a batch, in a chunk of a prompt and in a verifying run is computed to the same bits.
import { DataType, type OnnxWriter } from './onnx-writer.ts';
import { packColumns, type MatrixPart } from './row-int8.ts';
import type { WeightSource } from './weights/source.ts';

const MS = 'com.microsoft';
/** Levels of the second term within one of the first: its rest is at most half a level. */
const LOW_LEVELS = 254;
const TERM_WEIGHTS = Float32Array.of(1, 1 / LOW_LEVELS);
/** Keeps a row of zeros from being divided by zero; its square root is far below any activation. */
const NO_EPSILON = 1e-20;
/** Room for what floats round. */
const MARGIN = 1.0001;

/** What no channel of a row normed over `width` channels exceeds: all of it may be in the one with the largest weight. */
export function boundOfNorm(weights: Float32Array): number {
  return largest(weights) * Math.sqrt(weights.length);
}

/** What no sum over a normed row exceeds: `rows` [any, width] of the next matrix, `weights` [width] of the norm. */
export function boundOfProduct(rows: Float32Array, weights: Float32Array): number {
  const width = weights.length;
  let most = 0;
  for (let start = 0; start < rows.length; start += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += (rows[start + i]! * weights[i]!) ** 2;
    most = Math.max(most, squares);
  }
  return Math.sqrt(most * width);
}

export function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

interface Terms {
  /** uint8 [T, 2, cols], zero point 128: both terms of a row one below the other, so that weights are read once for both. */
  values: string;
  scale: string;
}

export class TwoTermProducts {
  #w: OnnxWriter;
  #source: WeightSource;
  /** By name of the float tensor: products of the same input share its terms. */
  #terms = new Map<string, Terms>();

  constructor(writer: OnnxWriter, source: WeightSource) {
    this.#w = writer;
    this.#source = source;
  }

  /** x · Wᵀ for x [T, 1, cols] of at most `bound`, where W stacks the parts' rows: [T, 1, sum of rows]. */
  multiply(x: string, name: string, parts: readonly MatrixPart[], cols: number, bound: number): string {
    const w = this.#w;
    const terms = this.#multiplyTerms(x, name, parts, cols, bound);
    w.tensor('term_row', DataType.float32, [1, 2], TERM_WEIGHTS);
    return w.node('MatMul', ['term_row', terms], `${name}_out`);
  }

  /** The same, where T may be 0, which MatMul refuses: [T, sum of rows]. */
  multiplyOrNone(x: string, name: string, parts: readonly MatrixPart[], cols: number, bound: number): string {
    const w = this.#w;
    const terms = this.#multiplyTerms(x, name, parts, cols, bound);
    w.tensor('term_column', DataType.float32, [2, 1], TERM_WEIGHTS);
    w.tensor('term_axis', DataType.int64, [1], BigInt64Array.of(1n));
    w.node('Mul', [terms, 'term_column'], `${name}_weighted`);
    return w.node('ReduceSum', [`${name}_weighted`, 'term_axis'], `${name}_out`, { keepdims: 0 });
  }

  /** The same for x of any size: each row is divided by its root mean square, and what comes out multiplied by it. */
  multiplyAny(x: string, name: string, parts: readonly MatrixPart[], cols: number): string {
    const w = this.#w;
    const ones = w.tensor(`ones_${cols}`, DataType.float32, [cols], new Float32Array(cols).fill(1));
    const attributes = { axis: -1, epsilon: { float: NO_EPSILON }, stash_type: 1 };
    w.node('SimplifiedLayerNormalization', [x, ones], [`${x}_unit`, `${x}_inverse`], attributes);
    const product = this.multiply(`${x}_unit`, name, parts, cols, Math.sqrt(cols));
    return w.node('Div', [product, `${x}_inverse`], `${name}_scaled`);
  }

  /** [T, 2, sum of rows] */
  #multiplyTerms(x: string, name: string, parts: readonly MatrixPart[], cols: number, bound: number): string {
    const w = this.#w;
    const { values, scale } = this.#split(x, bound * MARGIN);
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const weights = new Int8Array(cols * rows); // [cols, rows]
    const columnScales = new Float32Array(rows);
    let first = 0;
    for (const { name: tensor, rows: count, factor = 1 } of parts) {
      packColumns(this.#source.read(tensor, [count, cols]), weights, columnScales, { first, rows, factor });
      first += count;
    }
    w.tensor(`${name}_w8`, DataType.int8, [cols, rows], weights);
    w.tensor(`${name}_scales`, DataType.float32, [rows], columnScales);
    const inputs = [values, `${name}_w8`, scale, `${name}_scales`, 'zero_point'];
    return w.node('MatMulIntegerToFloat', inputs, `${name}_terms`, {}, MS);
  }

  #split(x: string, bound: number): Terms {
    const known = this.#terms.get(x);
    if (known !== undefined) return known;
    const w = this.#w;
    const scalar = (name: string, value: number): string =>
      w.tensor(name, DataType.float32, [], Float32Array.of(value));
    const scale = scalar(`${x}_scale`, bound / 127);
    const lowScale = scalar(`${x}_low_scale`, bound / 127 / LOW_LEVELS);
    w.tensor('zero_point', DataType.uint8, [], Uint8Array.of(128));
    w.node('QuantizeLinear', [x, scale, 'zero_point'], `${x}_high`);
    w.node('DequantizeLinear', [`${x}_high`, scale, 'zero_point'], `${x}_rounded`);
    w.node('Sub', [x, `${x}_rounded`], `${x}_rest`);
    w.node('QuantizeLinear', [`${x}_rest`, lowScale, 'zero_point'], `${x}_low`);
    const terms = { values: w.node('Concat', [`${x}_high`, `${x}_low`], `${x}_terms`, { axis: 1 }), scale };
    this.#terms.set(x, terms);
    return terms;
  }
}
