// What the compiler sees of a checkpoint: one tensor at a time, by its canonical (Hugging Face) name, with its real values.
// weights/safetensors and weights/onnx implement it; quantize and graph-builder consume it.

/** Values as they stand in the checkpoint, row-major [rows, cols] (matrices are [out, in]) or [cols] for vectors. */
export interface FloatTensor {
  kind: 'float';
  name: string;
  dims: number[];
  data: Float32Array;
  /** The checkpoint has fewer bits than that: values lie on levels, which packing in few bits should meet. */
  isQuantized?: true;
}

/** A matrix whose checkpoint is already integer: value = data · scale of its block. Requantising it would lose accuracy. */
export interface IntegerTensor {
  kind: 'integer';
  name: string;
  /** [rows, cols] */
  dims: number[];
  /** Zero point already subtracted, [rows, cols]. Int16 where that leaves the range of a signed byte. */
  data: Int8Array | Int16Array;
  /** [rows, cols / blockSize] */
  scales: Float32Array;
  /** Values per scale along a row; equals cols for one scale per row (or per tensor). */
  blockSize: number;
}

export type WeightTensor = FloatTensor | IntegerTensor;

export interface WeightSource {
  /** All files the weights lie in, for the cache key and for hashing. */
  readonly files: readonly string[];
  /** Of the matrices on average, scales included, where the checkpoint is quantised already; absent for plain numbers. */
  readonly bitsPerWeight?: number;
  has(name: string): boolean;
  /**
   * Reads one tensor; the caller owns the memory. Throws an Error naming file and tensor when it is missing, out of
   * its file's bounds, of an unknown type or not of the expected shape.
   */
  read(name: string, dims: readonly number[]): WeightTensor;
}

/** Float values of a tensor; for integer tensors a new array. */
export function toFloats(tensor: WeightTensor): Float32Array {
  if (tensor.kind === 'float') return tensor.data;
  const { data, scales, blockSize } = tensor;
  const values = new Float32Array(data.length);
  for (let block = 0, i = 0; block < scales.length; block++) {
    const scale = scales[block]!;
    for (const end = i + blockSize; i < end; i++) values[i] = data[i]! * scale;
  }
  return values;
}

export function checkDims(file: string, name: string, found: readonly number[], expected: readonly number[]): void {
  if (found.length === expected.length && found.every((dim, i) => dim === expected[i])) return;
  throw new Error(
    `${file}: tensor ${name} has shape [${found.join(', ')}], but config.json asks for [${expected.join(', ')}]`,
  );
}
