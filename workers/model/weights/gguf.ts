// Weights from a GGUF model, under the names and in the layout that the same checkpoint has in safetensors form. Called by
// open.ts. Tensors are read one at a time; whole numbers with scales stay that.
import { canonicalNames, tensorNames } from '../gguf/tensor-names.ts';
import type { GgufTensor } from '../gguf/container.ts';
import type { GgufModel } from '../gguf/model.ts';
import type { ModelSpec } from '../specs/spec.ts';
import { checkDims, type WeightSource, type WeightTensor } from './source.ts';

/** Architectures whose rotary pairs are neighbours in GGUF, so that rows of q and k lie in another order. */
const interleaved: ReadonlySet<string> = new Set(['llama', 'smollm3']);

/** Throws an Error naming the tensor where the file holds what a model of this spec does not have. */
export function ggufWeights(model: GgufModel, spec: ModelSpec): WeightSource {
  const names = canonicalNames(spec);
  const tensors = new Map<string, GgufTensor>();
  for (const [name, tensor] of model.tensors) {
    const canonical = names.get(name);
    if (canonical !== undefined) tensors.set(canonical, tensor);
    else if (!isDivisors(name)) {
      throw new Error(
        `${tensor.file.name}: tensor ${name} is no part of ${model.architecture} as it is supported here`,
      );
    }
  }
  const isInterleaved = interleaved.has(model.architecture);
  const read = (name: string, dims: readonly number[]): WeightTensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      const gguf = [...names].find(([, canonical]) => canonical === name)?.[0];
      throw new Error(`${model.file}: tensor ${gguf ?? name} is missing`);
    }
    checkDims(tensor.file.name, tensor.name, tensor.dims, dims);
    const found = readTensor(tensor, name);
    if (spec.normOffset !== 0 && isNorm(name)) return withoutOffset(found, spec.normOffset);
    const heads = !isInterleaved ? 0 : headsOf(name, spec);
    return heads === 0 ? found : apart(found, heads, spec.headDim, spec.rotaryDim);
  };
  const files = new Set([...model.tensors.values()].flatMap(({ file }) => file.files));
  const bits = quantizedBits([...model.tensors.values()]);
  return {
    files: [...files],
    ...(bits === null ? {} : { bitsPerWeight: bits }),
    has: (name) => tensors.has(name),
    read,
  };
}

/** Average of the matrices; null where most are plain numbers. */
function quantizedBits(tensors: readonly GgufTensor[]): number | null {
  let [bytes, values] = [0, 0];
  for (const tensor of tensors) {
    if (tensor.dims.length < 2) continue;
    bytes += tensor.bytes;
    values += (tensor.bytes / tensor.type.blockBytes) * tensor.type.blockValues;
  }
  const bits = (8 * bytes) / values;
  return bits < 16 ? bits : null;
}

function isDivisors(name: string): boolean {
  const { divisors, longDivisors, shortDivisors } = tensorNames;
  return name === divisors || name === longDivisors || name === shortDivisors;
}

function readTensor(tensor: GgufTensor, name: string): WeightTensor {
  const { dims, type, file, offset, bytes } = tensor;
  const values = type.read(file.read(offset, bytes));
  if (values.kind === 'float') return { ...values, name, dims, ...(type.blockValues > 1 ? { isQuantized: true } : {}) };
  // A vector in blocks is nothing the compiler carries over.
  if (dims.length === 2) return { ...values, name, dims };
  const { data, scales, blockSize } = values;
  return { kind: 'float', name, dims, data: Float32Array.from(data, (x, i) => x * scales[Math.floor(i / blockSize)]!) };
}

function isNorm(name: string): boolean {
  return name.endsWith('norm.weight');
}

/** GGUF holds weights around one where the checkpoint has the difference from it. */
function withoutOffset(tensor: WeightTensor, offset: number): WeightTensor {
  if (tensor.kind !== 'float') return tensor;
  return { ...tensor, data: tensor.data.map((value) => value - offset) };
}

/** Heads of a matrix or bias whose rows lie in another order; 0 for all others. */
function headsOf(name: string, spec: ModelSpec): number {
  if (name.includes('.self_attn.q_proj.')) return spec.numHeads;
  return name.includes('.self_attn.k_proj.') ? spec.numKvHeads : 0;
}

/**
 * Puts rotary pairs half the rotated channels apart again, where GGUF has them side by side. Blocks never span rows, so
 * that scales move with them.
 */
function apart(tensor: WeightTensor, heads: number, headDim: number, rotaryDim: number): WeightTensor {
  const rows = heads * headDim;
  const half = rotaryDim / 2;
  const source = Int32Array.from({ length: rows }, (_, row) => {
    const [head, channel] = [Math.floor(row / headDim), row % headDim];
    if (channel >= rotaryDim) return row;
    return head * headDim + (channel < half ? 2 * channel : 2 * (channel - half) + 1);
  });
  if (tensor.kind === 'float') return { ...tensor, data: moveRows(tensor.data, source) };
  return { ...tensor, data: moveRows(tensor.data, source), scales: moveRows(tensor.scales, source) };
}

function moveRows<T extends Float32Array | Int8Array | Int16Array>(values: T, source: Int32Array): T {
  const width = values.length / source.length;
  const moved = values.slice() as T;
  for (const [row, from] of source.entries()) moved.set(values.subarray(from * width, (from + 1) * width), row * width);
  return moved;
}
