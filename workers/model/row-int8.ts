// Matrix products for many rows at once: 8-bit activations with one scale per row (token), 8-bit weights with one scale
// per output channel. Faster than MatMulNBits from a few rows on (README), slower for one; so only the prefill graph
// has them. What must stay true: a row's result depends on that row alone, so that chunks of a prompt agree.
import { DataType, type OnnxWriter } from './onnx-writer.ts';
import { factorOfRow, type RowFactor } from './quantize.ts';
import { toFloats, type WeightSource, type WeightTensor } from './weights/source.ts';

/** Rows of a stored matrix, and of its bias [rows] where it has one, times `factor`. */
export interface MatrixPart {
  name: string;
  rows: number;
  factor?: RowFactor;
  bias?: string;
}

const MS = 'com.microsoft';
/** Keeps an all-zero row from dividing by zero. */
const MIN_SCALE = 1e-12;

/** A stacked matrix as the kernel is given it: [rows, cols]. */
export interface Part {
  read(): WeightTensor;
  rows: number;
  factor?: RowFactor | undefined;
}

interface QuantizedRows {
  /** uint8 [T, cols], zero point 128 */
  values: string;
  /** float32 [T, 1] */
  scales: string;
}

export class RowInt8 {
  #w: OnnxWriter;
  #source: WeightSource;
  /** By name of the float tensor: products of the same input share its quantised form. */
  #quantized = new Map<string, QuantizedRows>();

  constructor(writer: OnnxWriter, source: WeightSource) {
    this.#w = writer;
    this.#source = source;
  }

  /** x · Wᵀ for x [T, cols], where W stacks the parts' rows: [T, sum of rows]. */
  multiply(x: string, name: string, parts: readonly MatrixPart[], cols: number): string {
    const stacked = parts.map(({ name: tensor, rows, factor }) => {
      return { read: () => this.#source.read(tensor, [rows, cols]), rows, factor };
    });
    return this.scale(this.multiplyUnscaled(x, name, stacked, cols), x);
  }

  /** Multiplies [T, any] by the scales of the rows of x. */
  scale(product: string, x: string): string {
    return this.#w.node('Mul', [product, this.#quantize(x).scales], `${product}_scaled`);
  }

  /** The same without the scales of the rows, for who multiplies by them later. */
  multiplyUnscaled(x: string, name: string, parts: readonly Part[], cols: number): string {
    const w = this.#w;
    const { values } = this.#quantize(x);
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const weights = new Int8Array(cols * rows); // [cols, rows]
    const columnScales = new Float32Array(rows);
    let first = 0;
    for (const part of parts) {
      packColumns(part.read(), weights, columnScales, { first, rows, factor: part.factor ?? 1 });
      first += part.rows;
    }
    w.tensor(`${name}_w8`, DataType.int8, [cols, rows], weights);
    w.tensor(`${name}_scales`, DataType.float32, [rows], columnScales);
    w.tensor('one', DataType.float32, [], Float32Array.of(1));
    w.tensor('zero_point', DataType.uint8, [], Uint8Array.of(128));
    // The kernel takes one scale for all rows only, hence 1 here and the rows' own scales afterwards.
    const inputs = [values, `${name}_w8`, 'one', `${name}_scales`, 'zero_point'];
    return w.node('MatMulIntegerToFloat', inputs, `${name}_out`, {}, MS);
  }

  #quantize(x: string): QuantizedRows {
    const known = this.#quantized.get(x);
    if (known !== undefined) return known;
    const w = this.#w;
    w.tensor('last_axis', DataType.int64, [1], BigInt64Array.of(-1n));
    w.tensor('per_127', DataType.float32, [], Float32Array.of(1 / 127));
    w.tensor('min_scale', DataType.float32, [], Float32Array.of(MIN_SCALE));
    w.tensor('zero_points', DataType.uint8, [1], Uint8Array.of(128));
    w.tensor('column_shape', DataType.int64, [2], BigInt64Array.of(-1n, 1n));
    w.node('Abs', [x], `${x}_abs`);
    w.node('ReduceMax', [`${x}_abs`, 'last_axis'], `${x}_largest`, { keepdims: 0 });
    w.node('Mul', [`${x}_largest`, 'per_127'], `${x}_scale_or_0`);
    w.node('Max', [`${x}_scale_or_0`, 'min_scale'], `${x}_scale`);
    w.node('Shape', [`${x}_scale`], `${x}_rows`);
    w.node('Expand', ['zero_points', `${x}_rows`], `${x}_zeros`);
    const quantized = {
      values: w.node('QuantizeLinear', [x, `${x}_scale`, `${x}_zeros`], `${x}_int8`, { axis: 0 }),
      scales: w.node('Reshape', [`${x}_scale`, 'column_shape'], `${x}_scale_column`),
    };
    this.#quantized.set(x, quantized);
    return quantized;
  }
}

interface Place {
  /** First column of `into`, and how many it has. */
  first: number;
  rows: number;
  factor: RowFactor;
}

/** Stores tensor [rows, cols] · factor as columns of `into` [cols, place.rows], with one scale each. */
export function packColumns(tensor: WeightTensor, into: Int8Array, scales: Float32Array, place: Place): void {
  const { first, rows, factor } = place;
  const cols = into.length / rows;
  if (tensor.kind === 'integer' && tensor.data instanceof Int8Array && tensor.blockSize === cols) {
    // One scale per channel already, as here: the integers are carried over and stay exact.
    for (let row = 0; row < tensor.scales.length; row++) {
      scales[first + row] = tensor.scales[row]! * factorOfRow(factor, row);
      for (let col = 0; col < cols; col++) into[col * rows + first + row] = tensor.data[row * cols + col]!;
    }
    return;
  }
  const values = toFloats(tensor);
  for (let row = 0; row * cols < values.length; row++) {
    const channel = values.subarray(row * cols, (row + 1) * cols);
    let largest = 0;
    for (const value of channel) {
      const magnitude = Math.abs(value);
      if (magnitude > largest) largest = magnitude;
    }
    scales[first + row] = (largest / 127) * factorOfRow(factor, row);
    const inverse = largest === 0 ? 0 : 127 / largest;
    for (let col = 0; col < cols; col++) {
      // Truncating a positive number rounds, and is several times faster than Math.round.
      into[col * rows + first + row] = ((channel[col]! * inverse + 128.5) | 0) - 128;
    }
  }
}
