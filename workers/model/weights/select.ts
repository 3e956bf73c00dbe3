// Parts of a matrix: chosen output channels (rows) or chosen inputs (columns), in the given order. Called where a product is
// divided; integers stay integers, so that nothing is rounded again.
import { toFloats, type WeightTensor } from './source.ts';

/** The rows `indices` of a matrix [rows, cols]: [indices.length, cols]. */
export function selectRows(tensor: WeightTensor, indices: ArrayLike<number>): WeightTensor {
  const cols = tensor.dims[1]!;
  const dims = [indices.length, cols];
  if (tensor.kind === 'float') return { ...tensor, dims, data: gather(tensor.data, indices, cols) };
  const { data, scales, blockSize } = tensor;
  return { ...tensor, dims, data: gather(data, indices, cols), scales: gather(scales, indices, cols / blockSize) };
}

/** The columns `indices` of a matrix [rows, cols]: [rows, indices.length]; float values where scales are per block. */
export function selectColumns(tensor: WeightTensor, indices: ArrayLike<number>): WeightTensor {
  const [rows, cols] = tensor.dims as [number, number];
  const isWhole = tensor.kind === 'integer' && tensor.blockSize === cols;
  const data = isWhole ? tensor.data : toFloats(tensor);
  const chosen = emptyLike(data, rows * indices.length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let i = 0; i < indices.length; i++) chosen[at++] = data[row * cols + indices[i]!]!;
  }
  const dims = [rows, indices.length];
  if (isWhole) return { ...tensor, dims, data: chosen as Int8Array | Int16Array, blockSize: indices.length };
  return { kind: 'float', name: tensor.name, dims, data: chosen as Float32Array };
}

/** Pieces of `width` values each. */
function gather<T extends Float32Array | Int8Array | Int16Array>(
  from: T,
  indices: ArrayLike<number>,
  width: number,
): T {
  const to = emptyLike(from, indices.length * width);
  for (let i = 0; i < indices.length; i++) {
    to.set(from.subarray(indices[i]! * width, (indices[i]! + 1) * width), i * width);
  }
  return to;
}

function emptyLike<T extends Float32Array | Int8Array | Int16Array>(array: T, length: number): T {
  return new (array.constructor as new (length: number) => T)(length);
}
