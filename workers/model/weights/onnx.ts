// Weights from a transformers.js directory: the constants of its ONNX graph, under the names the same checkpoint has
// in safetensors form. Three kinds of matrix are understood: float MatMul, dynamic int8 (MatMulInteger) and block
// quantised (MatMulNBits). Only weights are taken; the graph itself is ours (README, "Why not the shipped graph").
import fs from 'node:fs';
import path from 'node:path';
import { bfloat16ToFloat32, float16ToFloat32 } from '../floats.ts';
import { readOnnx, readTensorBytes, type OnnxFile, type OnnxNode, type OnnxTensor } from '../onnx-reader.ts';
import { DataType } from '../onnx-writer.ts';
import { checkDims, type IntegerTensor, type WeightSource, type WeightTensor } from './source.ts';

/** Best first. The quantised ones are what a package for browsers usually ships. */
export const ONNX_CANDIDATES: readonly string[] = [
  'model.onnx',
  'model_fp16.onnx',
  'model_quantized.onnx',
  'model_int8.onnx',
  'model_q4.onnx',
];
const MATRIX_OPS = new Set(['MatMul', 'MatMulInteger', 'MatMulNBits']);

type Reader = (dims: readonly number[]) => WeightTensor;

/** The directory's ONNX weights, or null when it has none. Throws an Error naming the file when they are broken. */
export function openOnnxWeights(directory: string): WeightSource | null {
  const file = [path.join(directory, 'onnx'), directory]
    .flatMap((folder) => ONNX_CANDIDATES.map((name) => path.join(folder, name)))
    .find((candidate) => fs.existsSync(candidate));
  if (file === undefined) return null;
  const onnx = readOnnx(file);
  const readers = new Map<string, Reader>();
  for (const tensor of onnx.tensors.values()) addNamedTensor(onnx, tensor, readers);
  for (const node of onnx.nodes) {
    const name = MATRIX_OPS.has(node.op) ? canonicalMatrixName(node.name) : null;
    const weight = onnx.tensors.get(node.inputs[1] ?? '');
    if (name !== null && weight !== undefined) readers.set(name, (dims) => readMatrix(onnx, node, name, weight, dims));
  }
  const dataFiles = [...onnx.tensors.values()].map((tensor) => tensor.place?.file ?? file);
  return {
    files: [...new Set([file, ...dataFiles])],
    has: (name) => readers.has(name),
    read(name, dims) {
      const reader = readers.get(name);
      if (reader === undefined) throw new Error(`${file}: no constant or matrix product was found for tensor ${name}`);
      return reader(dims);
    },
  };
}

/** `/model/layers.3/self_attn/q_proj/MatMul_quant` → `model.layers.3.self_attn.q_proj.weight`. */
function canonicalMatrixName(node: string): string | null {
  if (/(^|\/)lm_head(\/|$)/.test(node)) return 'lm_head.weight';
  const match = /layers\.(\d+)\/(self_attn|attn|mlp)\/(\w+_proj)/.exec(node);
  if (match === null) return null;
  return `model.layers.${match[1]}.${match[2] === 'mlp' ? 'mlp' : 'self_attn'}.${match[3]}.weight`;
}

/** Norms, biases and the embedding keep their names; a quantised embedding is three constants with suffixes. */
function addNamedTensor(onnx: OnnxFile, tensor: OnnxTensor, readers: Map<string, Reader>): void {
  if (/\.(weight|bias)$/.test(tensor.name)) {
    readers.set(tensor.name, (dims) => {
      checkDims(onnx.file, tensor.name, tensor.dims, dims);
      return { kind: 'float', name: tensor.name, dims: tensor.dims, data: readFloats(onnx, tensor) };
    });
  } else if (tensor.name.endsWith('.weight_quantized')) {
    const name = tensor.name.slice(0, -'_quantized'.length);
    readers.set(name, (dims) => {
      checkDims(onnx.file, name, tensor.dims, dims);
      const [rows, cols] = [tensor.dims[0] ?? 0, tensor.dims[1] ?? 0];
      const base = `${name}_`;
      return integerTensor(onnx, name, tensor, rows, cols, `${base}scale`, `${base}zero_point`, false);
    });
  }
}

/** Matrix products hold [in, out]; we hand out [out, in]. */
function readMatrix(
  onnx: OnnxFile,
  node: OnnxNode,
  name: string,
  weight: OnnxTensor,
  dims: readonly number[],
): WeightTensor {
  const [rows, cols] = [dims[0] ?? 0, dims[1] ?? 0];
  if (node.op === 'MatMulNBits') return readBlocks(onnx, node, name, weight, rows, cols);
  checkDims(onnx.file, name, weight.dims.toReversed(), dims);
  if (node.op === 'MatMul') {
    const data = new Float32Array(rows * cols);
    transpose(readFloats(onnx, weight), data, cols, rows);
    return { kind: 'float', name, dims: [...dims], data };
  }
  const base = weight.name.replace(/_quantized$/, '');
  return integerTensor(onnx, name, weight, rows, cols, `${base}_scale`, node.inputs[3] ?? `${base}_zero_point`, true);
}

function integerTensor(
  onnx: OnnxFile,
  name: string,
  weight: OnnxTensor,
  rows: number,
  cols: number,
  scaleName: string,
  zeroPointName: string,
  isTransposed: boolean,
): IntegerTensor {
  const scale = readFloats(onnx, need(onnx, scaleName, name));
  if (scale.length !== 1 && scale.length !== rows) {
    throw new Error(`${onnx.file}: tensor ${name} has ${scale.length} scales; 1 or ${rows} can be read`);
  }
  const zeroPoint = onnx.tensors.get(zeroPointName);
  const zeros = zeroPoint === undefined ? new Int16Array(1) : readIntegers(onnx, zeroPoint);
  if (zeros.length !== 1 && zeros.length !== rows) {
    throw new Error(`${onnx.file}: tensor ${name} has ${zeros.length} zero points; 1 or ${rows} can be read`);
  }
  const stored = readIntegers(onnx, weight);
  let data = stored;
  if (isTransposed) {
    data = weight.type === DataType.int8 ? new Int8Array(stored.length) : new Int16Array(stored.length);
    transpose(stored, data, cols, rows);
  }
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) scales[row] = scale[scale.length === 1 ? 0 : row]!;
  data = subtractZeros(data, zeros, rows, cols);
  return { kind: 'integer', name, dims: [rows, cols], data, scales, blockSize: cols };
}

/** MatMulNBits: [rows, blocks, blockBytes] with scales [rows, blocks]; 4-bit values lie low nibble first. */
function readBlocks(
  onnx: OnnxFile,
  node: OnnxNode,
  name: string,
  weight: OnnxTensor,
  rows: number,
  cols: number,
): IntegerTensor {
  const attribute = (key: string): number => node.attributes.get(key) ?? 0;
  const [bits, blockSize] = [attribute('bits') || 4, attribute('block_size')];
  checkDims(onnx.file, name, [attribute('N'), attribute('K')], [rows, cols]);
  if ((bits !== 4 && bits !== 8) || blockSize < 16 || cols % blockSize !== 0) {
    throw new Error(`${onnx.file}: tensor ${name} has ${bits}-bit blocks of ${blockSize}, which cannot be read`);
  }
  const blocks = cols / blockSize;
  const packed = readTensorBytes(weight);
  const scales = readFloats(onnx, need(onnx, node.inputs[2] ?? '', name));
  if (packed.length !== (rows * cols * bits) / 8 || scales.length !== rows * blocks) {
    throw new Error(
      `${onnx.file}: tensor ${name}: ${packed.length} bytes and ${scales.length} scales do not fit its shape`,
    );
  }
  const zeroName = node.inputs[3] ?? '';
  const zeros = zeroName === '' ? null : readTensorBytes(need(onnx, zeroName, name));
  const zeroRowBytes = Math.ceil((blocks * bits) / 8);
  if (zeros !== null && zeros.length !== rows * zeroRowBytes) {
    throw new Error(`${onnx.file}: tensor ${name}: its zero points have ${zeros.length} bytes`);
  }
  const at = (bytes: Uint8Array, i: number): number =>
    bits === 8 ? bytes[i]! : i % 2 === 0 ? bytes[i >> 1]! & 15 : bytes[i >> 1]! >> 4;
  const data = zeros === null || bits === 4 ? new Int8Array(rows * cols) : new Int16Array(rows * cols);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const zero =
        zeros === null ? 1 << (bits - 1) : at(zeros.subarray(row * zeroRowBytes, (row + 1) * zeroRowBytes), block);
      for (const end = i + blockSize; i < end; i++) data[i] = at(packed, i) - zero;
    }
  }
  return { kind: 'integer', name, dims: [rows, cols], data, scales, blockSize };
}

function subtractZeros(
  data: Int8Array | Int16Array,
  zeros: Int8Array | Int16Array,
  rows: number,
  cols: number,
): Int8Array | Int16Array {
  if (zeros.every((zero) => zero === 0) && data instanceof Int8Array) return data;
  const shifted = new Int16Array(data.length);
  let low = 0;
  let high = 0;
  for (let row = 0, i = 0; row < rows; row++) {
    const zero = zeros[zeros.length === 1 ? 0 : row]!;
    for (const end = i + cols; i < end; i++) {
      const value = data[i]! - zero;
      shifted[i] = value;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low >= -128 && high <= 127 ? Int8Array.from(shifted) : shifted;
}

function need(onnx: OnnxFile, constant: string, name: string): OnnxTensor {
  const tensor = onnx.tensors.get(constant);
  if (tensor === undefined)
    throw new Error(`${onnx.file}: tensor ${name} needs the constant "${constant}", which is missing`);
  return tensor;
}

function contents(onnx: OnnxFile, tensor: OnnxTensor, bytesPerValue: number): Uint8Array {
  const bytes = readTensorBytes(tensor);
  const expected = tensor.dims.reduce((product, dim) => product * dim, bytesPerValue);
  if (bytes.length === expected) return bytes;
  throw new Error(`${onnx.file}: tensor ${tensor.name} has ${bytes.length} bytes, its shape needs ${expected}`);
}

function readFloats(onnx: OnnxFile, tensor: OnnxTensor): Float32Array {
  if (tensor.type === DataType.float32) return new Float32Array(contents(onnx, tensor, 4).buffer);
  if (tensor.type === DataType.float16) return float16ToFloat32(new Uint16Array(contents(onnx, tensor, 2).buffer));
  if (tensor.type === DataType.bfloat16) return bfloat16ToFloat32(new Uint16Array(contents(onnx, tensor, 2).buffer));
  throw new Error(`${onnx.file}: tensor ${tensor.name} has ONNX type ${tensor.type}, where a float is needed`);
}

function readIntegers(onnx: OnnxFile, tensor: OnnxTensor): Int8Array | Int16Array {
  if (tensor.type !== DataType.int8 && tensor.type !== DataType.uint8) {
    throw new Error(
      `${onnx.file}: tensor ${tensor.name} has ONNX type ${tensor.type}, where an 8-bit integer is needed`,
    );
  }
  if (tensor.place === null) return Int16Array.from(tensor.integers);
  const bytes = contents(onnx, tensor, 1);
  return tensor.type === DataType.int8 ? new Int8Array(bytes.buffer) : Int16Array.from(bytes);
}

/** from [rows, cols] to [cols, rows], in tiles that stay in the cache. */
function transpose<T extends Float32Array | Int8Array | Int16Array>(from: T, to: T, rows: number, cols: number): void {
  const TILE = 32;
  for (let top = 0; top < rows; top += TILE) {
    const bottom = Math.min(top + TILE, rows);
    for (let left = 0; left < cols; left += TILE) {
      const right = Math.min(left + TILE, cols);
      for (let col = left; col < right; col++) {
        for (let row = top; row < bottom; row++) to[col * rows + row] = from[row * cols + col]!;
      }
    }
  }
}
