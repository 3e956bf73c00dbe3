// Matrix products with block-quantised or float weights: the form every graph may use. Called by graph-builder; the
// chunks' own form is in row-int8.ts. What must stay true: a row's result does not depend on the rows beside it.
import { DataType, type OnnxWriter } from './onnx-writer.ts';
import { createPacked, factorOfRow, packRows, type BlockFormat } from './quantize.ts';
import type { MatrixPart } from './row-int8.ts';
import { toFloats, type WeightSource } from './weights/source.ts';

export class BlockProducts {
  #w: OnnxWriter;
  #source: WeightSource;

  constructor(writer: OnnxWriter, source: WeightSource) {
    this.#w = writer;
    this.#source = source;
  }

  /** x · Wᵀ where W stacks the parts' rows: [.., cols] → [.., sum of rows]. `format` null: float weights. */
  multiply(x: string, name: string, parts: readonly MatrixPart[], cols: number, format: BlockFormat | null): string {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    if (format === null) return this.#multiplyFloats(x, name, parts, rows, cols);
    const matrix = createPacked(rows, cols, format);
    let row = 0;
    for (const part of parts) {
      packRows(matrix, row, this.#source.read(part.name, [part.rows, cols]), part.factor);
      row += part.rows;
    }
    const { blockSize, bits } = matrix;
    const blocks = cols / blockSize;
    this.#w.tensor(`${name}_q`, DataType.uint8, [rows, blocks, (blockSize * bits) / 8], matrix.packed);
    this.#w.tensor(`${name}_s`, DataType.float32, [rows, blocks], matrix.scales);
    // accuracy_level 4 = int8 arithmetic. Level 0 with 8 bits falls into a path ~20x slower.
    const attributes = { K: cols, N: rows, bits, block_size: blockSize, accuracy_level: 4 };
    return this.#w.node('MatMulNBits', [x, `${name}_q`, `${name}_s`], `${name}_out`, attributes, 'com.microsoft');
  }

  #multiplyFloats(x: string, name: string, parts: readonly MatrixPart[], rows: number, cols: number): string {
    const matrix = new Float32Array(rows * cols); // [cols, rows]
    let first = 0;
    for (const part of parts) {
      const values = toFloats(this.#source.read(part.name, [part.rows, cols]));
      for (let row = 0; row < part.rows; row++) {
        const factor = factorOfRow(part.factor ?? 1, row);
        for (let col = 0; col < cols; col++) {
          matrix[col * rows + first + row] = values[row * cols + col]! * factor;
        }
      }
      first += part.rows;
    }
    this.#w.tensor(`${name}_w`, DataType.float32, [cols, rows], matrix);
    return this.#w.node('MatMul', [x, `${name}_w`], `${name}_out`);
  }
}
