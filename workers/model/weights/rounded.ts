// A checkpoint as a graph in 4 bits knows it: the layers' matrices are read already rounded to its blocks. So a second graph
// with other kernels computes with the same weights, and what divides the two is its activations alone. Called by compile.
import { createPacked, packRows, type BlockFormat } from '../quantize.ts';
import { EMBEDDING, HEAD } from '../specs/spec.ts';
import type { IntegerTensor, WeightSource, WeightTensor } from './source.ts';

export class RoundedSource implements WeightSource {
  readonly #source: WeightSource;
  readonly #format: BlockFormat;

  /** `format`: of the layers' matrices, 4 bits. */
  constructor(source: WeightSource, format: BlockFormat) {
    this.#source = source;
    this.#format = format;
  }

  get files(): readonly string[] {
    return this.#source.files;
  }

  has(name: string): boolean {
    return this.#source.has(name);
  }

  read(name: string, dims: readonly number[]): WeightTensor {
    const tensor = this.#source.read(name, dims);
    const isLayerMatrix = dims.length === 2 && name !== EMBEDDING && name !== HEAD;
    return isLayerMatrix ? round(tensor, this.#format) : tensor;
  }
}

function round(tensor: WeightTensor, format: BlockFormat): IntegerTensor {
  const [rows, cols] = tensor.dims as [number, number];
  const matrix = createPacked(rows, cols, format);
  packRows(matrix, 0, tensor);
  const { packed, scales, blockSize } = matrix;
  const data = new Int8Array(rows * cols);
  for (let i = 0; i < packed.length; i++) {
    const pair = packed[i]!;
    data[2 * i] = (pair & 15) - 8;
    data[2 * i + 1] = (pair >> 4) - 8;
  }
  return { kind: 'integer', name: tensor.name, dims: [rows, cols], data, scales, blockSize };
}
