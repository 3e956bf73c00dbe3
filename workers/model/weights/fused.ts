// Checkpoints that stack matrices (Phi-3: q, k, v in qkv_proj; gate, up in gate_up_proj) read as if they did not.
// Called by compile for such families; the rest of the compiler knows the separate names only.
import { layerTensor, type LayerMatrix, type ModelSpec } from '../specs/spec.ts';
import type { WeightSource, WeightTensor } from './source.ts';

interface Slice {
  stacked: string;
  firstRow: number;
  numRows: number;
  /** Of the stacked matrix. */
  rows: number;
}

/** `source` under the separate names. The stacked matrix read last is kept, since its parts are asked for in turn. */
export function splitFused(source: WeightSource, spec: ModelSpec): WeightSource {
  const slices = planSlices(spec);
  let last: WeightTensor | null = null;
  return {
    files: source.files,
    ...(source.bitsPerWeight === undefined ? {} : { bitsPerWeight: source.bitsPerWeight }),
    has: (name) => source.has(slices.get(name)?.stacked ?? name),
    read(name, dims) {
      const slice = slices.get(name);
      if (slice === undefined) return source.read(name, dims);
      const { stacked, rows } = slice;
      if (last?.name !== stacked) last = source.read(stacked, [rows, dims[1] ?? 0]);
      return sliceRows(last, name, slice);
    },
  };
}

function planSlices(spec: ModelSpec): Map<string, Slice> {
  const [queries, keys] = [spec.numHeads * spec.headDim, spec.numKvHeads * spec.headDim];
  const stacks: [string, [LayerMatrix, number][]][] = [
    [
      'self_attn.qkv_proj',
      [
        ['self_attn.q_proj', queries],
        ['self_attn.k_proj', keys],
        ['self_attn.v_proj', keys],
      ],
    ],
    [
      'mlp.gate_up_proj',
      [
        ['mlp.gate_proj', spec.intermediateSize],
        ['mlp.up_proj', spec.intermediateSize],
      ],
    ],
  ];
  const slices = new Map<string, Slice>();
  for (let layer = 0; layer < spec.numLayers; layer++) {
    for (const [stack, parts] of stacks) {
      const rows = parts.reduce((sum, [, numRows]) => sum + numRows, 0);
      let firstRow = 0;
      for (const [part, numRows] of parts) {
        const stacked = `model.layers.${layer}.${stack}.weight`;
        slices.set(layerTensor(layer, part), { stacked, firstRow, numRows, rows });
        firstRow += numRows;
      }
    }
  }
  return slices;
}

function sliceRows(tensor: WeightTensor, name: string, { firstRow, numRows }: Slice): WeightTensor {
  const cols = tensor.dims[1] ?? 0;
  const dims = [numRows, cols];
  const [from, to] = [firstRow * cols, (firstRow + numRows) * cols];
  if (tensor.kind === 'float') return { ...tensor, name, dims, data: tensor.data.subarray(from, to) };
  const { blockSize } = tensor;
  const scales = tensor.scales.subarray(from / blockSize, to / blockSize);
  return { kind: 'integer', name, dims, data: tensor.data.subarray(from, to), scales, blockSize };
}
