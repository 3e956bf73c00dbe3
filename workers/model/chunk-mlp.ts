// The MLP of the prefill graph: gate, up and down in row-int8 form. A few channels between them have values a hundred times
// those of the rest, and one scale per row would be spent on them; they stay float on their way through down. Called by
// graph-builder; mlp-outliers finds those channels. What must stay true: a row's result depends on that row alone.
import { DataType, type OnnxWriter } from './onnx-writer.ts';
import type { RowInt8 } from './row-int8.ts';
import { layerTensor, type LayerMatrix, type ModelSpec } from './specs/spec.ts';
import { selectColumns, selectRows } from './weights/select.ts';
import { toFloats, type WeightSource, type WeightTensor } from './weights/source.ts';

export interface ChunkMlp {
  writer: OnnxWriter;
  rows: RowInt8;
  source: WeightSource;
  spec: ModelSpec;
  layer: number;
  /** Channels that stay float, ascending. */
  outliers: readonly number[];
  /** Adds the activation function; returns its output's name. */
  activate(gate: string, name: string): string;
}

/** down(activation(gate(x)) · up(x)) for x [T, hidden]: [T, hidden]. */
export function chunkMlp(mlp: ChunkMlp, x: string): string {
  const { writer, rows, source, spec, layer, outliers } = mlp;
  const { hiddenSize, intermediateSize } = spec;
  const at = `l${layer}`;
  const isOutlier = new Set(outliers);
  const others = Array.from({ length: intermediateSize }, (_, i) => i).filter((i) => !isOutlier.has(i));
  const down = (channels: readonly number[]): WeightTensor =>
    selectColumns(source.read(layerTensor(layer, 'mlp.down_proj'), [hiddenSize, intermediateSize]), channels);

  // Up's product keeps out the scale of its row, which down's scales of rows do not care for: it comes at the end.
  const gated = gate(mlp, x, others, at);
  const part = { rows: hiddenSize, read: () => down(others) };
  let out = rows.scale(rows.multiplyUnscaled(gated, `${at}_down`, [part], others.length), gated);
  if (outliers.length > 0) {
    const few = gate(mlp, x, outliers, `${at}_outlier`);
    const weights = transpose(toFloats(down(outliers)), hiddenSize, outliers.length);
    writer.tensor(`${at}_outlier_down_w`, DataType.float32, [outliers.length, hiddenSize], weights);
    out = writer.node('Gemm', [few, `${at}_outlier_down_w`, out], `${at}_down_sum`);
  }
  return rows.scale(out, x);
}

/** activation(gate(x)) · up(x) without the last factor's row scales, for these channels: [T, channels]. */
function gate(mlp: ChunkMlp, x: string, channels: readonly number[], at: string): string {
  const { writer, rows, source, spec, layer, activate } = mlp;
  const { hiddenSize, intermediateSize } = spec;
  const product = (matrix: LayerMatrix, name: string): string => {
    const read = (): WeightTensor =>
      selectRows(source.read(layerTensor(layer, matrix), [intermediateSize, hiddenSize]), channels);
    return rows.multiplyUnscaled(x, name, [{ rows: channels.length, read }], hiddenSize);
  };
  const active = activate(rows.scale(product('mlp.gate_proj', `${at}_gate`), x), `${at}_active`);
  return writer.node('Mul', [active, product('mlp.up_proj', `${at}_up`)], `${at}_gated`);
}

function transpose(values: Float32Array, rows: number, cols: number): Float32Array {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) turned[col * rows + row] = values[row * cols + col]!;
  }
  return turned;
}
