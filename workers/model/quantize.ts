// Packs matrices into the block layout of MatMulNBits: 8-bit blocks around 128, 4-bit blocks around 8.
// Integer checkpoints are carried over unchanged where they fit, so that they are quantised once in their life, not twice.
import { toFloats, type IntegerTensor, type WeightTensor } from './weights/source.ts';

export interface BlockFormat {
  bits: 4 | 8;
  blockSize: number;
}

/** How a whole model is stored. `matrices: null` keeps everything float32. */
export interface QuantizationPlan {
  matrices: BlockFormat | null;
  /** The MLP's last matrix: its input has the largest outliers, so its blocks may have to be smaller. */
  down: BlockFormat | null;
  head: BlockFormat | null;
  embedding: 'float32' | 'float16';
  /** Format of Q, K and V where prefill has a graph of its own (row-int8.ts); null: the decode graph prefills. */
  chunkQkv: BlockFormat | null;
  /** For people and for the cache key. */
  label: string;
}

export type Quantization = 'auto' | 'q8' | 'q4' | 'f32';

/** Models from here on are memory-bound and store 4 bits per weight. */
const LARGE_PARAMETERS = 1e9;
/** Files with more were chosen for it: in 4 bits most of that would be lost (gguf/README.md). */
const MOST_BITS_FOR_4 = 5;

/** A prefill graph holds a byte per weight of its own; it is not worth more than this part of the memory. */
const MAX_CHUNK_SHARE = 1 / 8;

/** The plan without a prefill graph where that is too large for a machine of `memoryBytes`. */
export function withinMemory(plan: QuantizationPlan, parameters: number, memoryBytes: number): QuantizationPlan {
  return parameters <= MAX_CHUNK_SHARE * memoryBytes ? plan : { ...plan, chunkQkv: null };
}

/** `sourceBits`: of a checkpoint that is quantised already. */
export function quantizationPlan(choice: Quantization, parameters: number, sourceBits = 0): QuantizationPlan {
  const isLarge = parameters >= LARGE_PARAMETERS;
  const kind = choice === 'auto' ? (isLarge && sourceBits <= MOST_BITS_FOR_4 ? 'q4' : 'q8') : choice;
  const embedding = isLarge ? 'float16' : 'float32';
  if (kind === 'f32') {
    return { matrices: null, down: null, head: null, embedding: 'float32', chunkQkv: null, label: 'float32' };
  }
  const head = blocks(8, 64);
  if (kind === 'q4') {
    const four = blocks(4, 32);
    return { matrices: four, down: four, head, embedding, chunkQkv: four, label: '4-bit, block 32, 8-bit head' };
  }
  // Memory-bound sizes pay for every scale; they also have fewer outliers per weight.
  if (isLarge) return { matrices: head, down: head, head, embedding, chunkQkv: head, label: '8-bit, block 64' };
  // Measured choice (README, "Why these blocks"): the smallest blocks whose cost disappears in a step.
  const label = '8-bit, block 32, down 16, head 64';
  return { matrices: blocks(8, 32), down: blocks(8, 16), head, embedding, chunkQkv: head, label };
}

function blocks(bits: 4 | 8, blockSize: number): BlockFormat {
  return { bits, blockSize };
}

/** A matrix under construction: [rows, cols], filled by `packRows` from one or several tensors. */
export interface PackedMatrix extends BlockFormat {
  rows: number;
  cols: number;
  /** [rows, blocks, blockSize · bits / 8] */
  packed: Uint8Array;
  /** [rows, blocks] */
  scales: Float32Array;
}

/** The block shrinks to 32 where the width is no multiple of it. Throws when even 32 does not divide `cols`. */
export function createPacked(rows: number, cols: number, format: BlockFormat): PackedMatrix {
  const blockSize = cols % format.blockSize === 0 ? format.blockSize : 32;
  if (cols % blockSize !== 0) throw new Error(`a matrix of width ${cols} cannot be stored in blocks of ${blockSize}`);
  return {
    bits: format.bits,
    blockSize,
    rows,
    cols,
    packed: new Uint8Array((rows * cols * format.bits) / 8),
    scales: new Float32Array((rows * cols) / blockSize),
  };
}

/** What the rows of a matrix are multiplied by: all by one number, or each by its own. */
export type RowFactor = number | Float32Array;

export function factorOfRow(factor: RowFactor, row: number): number {
  return typeof factor === 'number' ? factor : factor[row]!;
}

/** Stores `tensor · factor` as rows firstRow.. of `into`. A factor changes scales only, so nothing is rounded for it. */
export function packRows(into: PackedMatrix, firstRow: number, tensor: WeightTensor, factor: RowFactor = 1): void {
  if (tensor.kind === 'integer' && fits(tensor, into)) carryOver(into, firstRow, tensor);
  else {
    const values = toFloats(tensor);
    if (into.bits === 8) pack8(into, firstRow, values);
    else pack4(into, firstRow, values, tensor.kind === 'integer' || tensor.isQuantized === true);
  }
  if (factor === 1) return;
  const perRow = into.cols / into.blockSize;
  const scales = into.scales.subarray(firstRow * perRow, firstRow * perRow + tensor.data.length / into.blockSize);
  for (const [i, scale] of scales.entries()) scales[i] = scale * factorOfRow(factor, Math.floor(i / perRow));
}

/** True when every source block spans whole target blocks and all its integers are in range. */
function fits(tensor: IntegerTensor, into: PackedMatrix): boolean {
  if (tensor.blockSize % into.blockSize !== 0) return false;
  const high = (1 << (into.bits - 1)) - 1;
  if (into.bits === 8 && tensor.data instanceof Int8Array) return true;
  return tensor.data.every((value) => value >= -high - 1 && value <= high);
}

function carryOver(into: PackedMatrix, firstRow: number, tensor: IntegerTensor): void {
  const { data, scales } = tensor;
  const start = firstRow * into.cols;
  const { packed } = into;
  if (into.bits === 8) for (let i = 0; i < data.length; i++) packed[start + i] = data[i]! + 128;
  else for (let i = 0; i < data.length; i += 2) packed[(start + i) >> 1] = (data[i]! + 8) | ((data[i + 1]! + 8) << 4);
  const repeat = tensor.blockSize / into.blockSize;
  const firstScale = start / into.blockSize;
  for (let i = 0; i < scales.length * repeat; i++) {
    into.scales[firstScale + i] = scales[Math.floor(i / repeat)]!;
  }
}

// Truncating `x + offset + 0.5` rounds, and is several times faster than Math.round over a billion weights.

/** Symmetric around 128: the largest magnitude of a block becomes ±127. */
function pack8(into: PackedMatrix, firstRow: number, values: Float32Array): void {
  const { blockSize, packed, scales } = into;
  const start = firstRow * into.cols;
  for (let first = 0, block = start / blockSize; first < values.length; first += blockSize, block++) {
    let largest = 0;
    for (let i = first; i < first + blockSize; i++) {
      const magnitude = Math.abs(values[i]!);
      if (magnitude > largest) largest = magnitude;
    }
    scales[block] = largest / 127;
    const inverse = largest === 0 ? 0 : 127 / largest;
    for (let i = first; i < first + blockSize; i++) packed[start + i] = (values[i]! * inverse + 128.5) | 0;
  }
}

/** The value of largest magnitude becomes -8, so the block uses its whole range; the scale carries the sign. */
function pack4(into: PackedMatrix, firstRow: number, values: Float32Array, isQuantized: boolean): void {
  const { blockSize, packed, scales } = into;
  const start = firstRow * into.cols;
  for (let first = 0, block = start / blockSize; first < values.length; first += blockSize, block++) {
    let extreme = 0;
    let largest = 0;
    for (let i = first; i < first + blockSize; i++) {
      const magnitude = Math.abs(values[i]!);
      if (magnitude > largest) {
        largest = magnitude;
        extreme = values[i]!;
      }
    }
    const found = isQuantized ? fitStep(values, first, blockSize, extreme) : null;
    const scale = found?.scale ?? extreme / -8;
    const inverse = found?.inverse ?? (scale === 0 ? 0 : 1 / scale);
    scales[block] = scale;
    for (let i = first; i < first + blockSize; i += 2) {
      const low = Math.min(15, (values[i]! * inverse + 8.5) | 0);
      const high = Math.min(15, (values[i + 1]! * inverse + 8.5) | 0);
      packed[(start + i) >> 1] = low | (high << 4);
    }
  }
}

/** What the value of largest magnitude may become instead: a step that does not use the whole range. */
const EXTREMES = [8, 7, 6, 5] as const;

/**
 * For values that were integers times a scale before: of a few steps, each with the scale that fits its integers best
 * (least squares), the one with the smallest error. Levels that are no multiples of an eighth of the largest, as in
 * GGUF's two-bit form, lose six times less this way (README, "Why steps are tried"). Null for zeros.
 */
function fitStep(
  values: Float32Array,
  first: number,
  blockSize: number,
  extreme: number,
): { inverse: number; scale: number } | null {
  if (extreme === 0) return null;
  let [best, inverse, scale] = [0, 0, 0];
  for (const integerExtreme of EXTREMES) {
    const tried = integerExtreme / -extreme;
    let products = 0;
    let squares = 0;
    for (let i = first; i < first + blockSize; i++) {
      const value = values[i]!;
      const integer = Math.min(15, (value * tried + 8.5) | 0) - 8;
      products += value * integer;
      squares += integer * integer;
    }
    // By how much the squared error is less than that of zeros.
    const gain = (products * products) / squares;
    if (gain > best) [best, inverse, scale] = [gain, tried, products / squares];
  }
  return { inverse, scale };
}
