// Makes tiny seeded checkpoints of any family in any form the compiler reads: safetensors (types, shards, tied or not) and
// transformers.js directories whose ONNX graph our own writer makes.
import fs from 'node:fs';
import path from 'node:path';
import { DataType, OnnxWriter } from '../../../workers/model/onnx-writer.ts';
import { float32ToFloat16 } from '../../../workers/model/floats.ts';
import { readSpec } from '../../../workers/model/specs/families.ts';
import { random as seededRandom } from '../../support/random.ts';

export const TINY_CONFIG = {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 96,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  max_position_embeddings: 128,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  eos_token_id: [2, 3],
};
export type TinyConfig = Readonly<Record<string, unknown>>;
export type Tensors = Map<string, { dims: number[]; data: Float32Array }>;

export { seededRandom };

/** What the family of this config.json wants, in its own layout. */
export function tinyTensors(config: TinyConfig, seed: number): Tensors {
  const spec = readSpec(config, 'config.json');
  const random = seededRandom(seed);
  const tensors: Tensors = new Map();
  const add = (name: string, dims: number[], value: () => number): void => {
    const length = dims.reduce((a, b) => a * b, 1);
    tensors.set(name, { dims, data: Float32Array.from({ length }, value) });
  };
  const matrix = (name: string, rows: number, cols: number): void =>
    add(`${name}.weight`, [rows, cols], () => ((random() - 0.5) * 3.4) / Math.sqrt(cols));
  const norm = (name: string, length = spec.hiddenSize): void =>
    add(`${name}.weight`, [length], () => 0.5 - spec.normOffset + random());
  const { hiddenSize: h, intermediateSize: f, headDim } = spec;
  const [q, kv] = [spec.numHeads * headDim, spec.numKvHeads * headDim];
  add('model.embed_tokens.weight', [spec.vocabSize, h], () => (random() - 0.5) * 2);
  for (let l = 0; l < spec.numLayers; l++) {
    const at = `model.layers.${l}`;
    norm(`${at}.input_layernorm`);
    matrix(`${at}.self_attn.q_proj`, q, h);
    matrix(`${at}.self_attn.k_proj`, kv, h);
    matrix(`${at}.self_attn.v_proj`, kv, h);
    matrix(`${at}.self_attn.o_proj`, h, q);
    norm(`${at}.post_attention_layernorm`);
    matrix(`${at}.mlp.gate_proj`, f, h);
    matrix(`${at}.mlp.up_proj`, f, h);
    matrix(`${at}.mlp.down_proj`, h, f);
    if (spec.branchNorms) for (const side of ['pre', 'post']) norm(`${at}.${side}_feedforward_layernorm`);
    if (spec.qkNorm) for (const kind of ['q', 'k']) norm(`${at}.self_attn.${kind}_norm`, headDim);
    const biased = [...(spec.qkvBias ? ['q', 'k', 'v'] : []), ...(spec.outputBias ? ['o'] : [])];
    for (const kind of biased) {
      const rows = { q, o: h }[kind] ?? kv;
      add(`${at}.self_attn.${kind}_proj.bias`, [rows], () => random() - 0.5);
    }
    if (spec.fusedMatrices) {
      stack(
        tensors,
        `${at}.self_attn.qkv_proj`,
        ['q', 'k', 'v'].map((kind) => `${at}.self_attn.${kind}_proj`),
      );
      stack(tensors, `${at}.mlp.gate_up_proj`, [`${at}.mlp.gate_proj`, `${at}.mlp.up_proj`]);
    }
  }
  norm('model.norm');
  if (!spec.tiedEmbeddings) matrix('lm_head', spec.vocabSize, h);
  return tensors;
}

/** Puts matrices of one width on top of each other, under a name of their own. */
function stack(tensors: Tensors, name: string, parts: string[]): void {
  const taken = parts.map((part) => tensors.get(`${part}.weight`)!);
  for (const part of parts) tensors.delete(`${part}.weight`);
  const rows = taken.reduce((sum, { dims }) => sum + dims[0]!, 0);
  const data = Float32Array.from(taken.flatMap((part) => [...part.data]));
  tensors.set(`${name}.weight`, { dims: [rows, taken[0]!.dims[1]!], data });
}

export type Dtype = 'F32' | 'F16' | 'BF16';

function encode(data: Float32Array, dtype: Dtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (dtype === 'F16') return new Uint8Array(float32ToFloat16(data).buffer);
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length);
  return new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer);
}

/** One safetensors file. `edit` may spoil the header before it is written. */
export function safetensors(
  tensors: Tensors,
  dtype: Dtype,
  edit: (header: Record<string, Record<string, unknown>>) => void = () => {},
): Uint8Array {
  const header: Record<string, Record<string, unknown>> = {};
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const [name, { dims, data }] of tensors) {
    const bytes = encode(data, dtype);
    header[name] = { dtype, shape: dims, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
    parts.push(bytes);
  }
  edit(header);
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...parts]);
}

export function writeConfig(folder: string, config: object): void {
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
}

export function writeSafetensors(folder: string, config: TinyConfig, tensors: Tensors, dtype: Dtype, shards = 1): void {
  writeConfig(folder, config);
  if (shards === 1) {
    fs.writeFileSync(path.join(folder, 'model.safetensors'), safetensors(tensors, dtype));
    return;
  }
  const map: Record<string, string> = {};
  const names = [...tensors.keys()];
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-${shard + 1}-of-${shards}.safetensors`;
    const own = names.filter((_, i) => i % shards === shard);
    for (const name of own) map[name] = file;
    const part: Tensors = new Map(own.map((name) => [name, tensors.get(name)!]));
    fs.writeFileSync(path.join(folder, file), safetensors(part, dtype));
  }
  fs.writeFileSync(path.join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
}

export type OnnxKind = 'float' | 'int8' | 'uint8' | 'int8-columns' | 'blocks4' | 'blocks4-zeros' | 'blocks8';

/** A transformers.js directory. Only the parts that carry weights are there; it is not a graph anyone could run. */
export function writeOnnxDirectory(folder: string, config: TinyConfig, tensors: Tensors, kind: OnnxKind): void {
  writeConfig(folder, config);
  fs.mkdirSync(path.join(folder, 'onnx'), { recursive: true });
  const w = new OnnxWriter(null);
  for (const [name, { dims, data }] of tensors) {
    if (dims.length === 1 || name.includes('embed_tokens')) w.tensor(name, DataType.float32, dims, data);
    else addMatrix(w, name, dims as [number, number], data, kind);
  }
  fs.writeFileSync(path.join(folder, 'onnx', 'model.onnx'), w.finish());
}

function addMatrix(w: OnnxWriter, name: string, dims: [number, number], data: Float32Array, kind: OnnxKind): void {
  const [rows, cols] = dims;
  const node = `/${name.replace('.weight', '').replaceAll('.', '/').replace('layers/', 'layers.')}/MatMul`;
  const id = `onnx::MatMul_${name}`;
  const transposed = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) transposed[c * rows + r] = data[r * cols + c]!;
  if (kind === 'float') {
    w.tensor(id, DataType.float32, [cols, rows], transposed);
    w.node('MatMul', ['x', id], [node]);
  } else if (kind.startsWith('blocks')) {
    addBlocks(w, node, id, dims, data, kind);
  } else {
    const perColumn = kind === 'int8-columns';
    const groups = perColumn ? rows : 1;
    const scales = Float32Array.from({ length: groups }, (_, g) => {
      const part = perColumn ? data.subarray(g * cols, (g + 1) * cols) : data;
      return part.reduce((a, b) => Math.max(a, Math.abs(b)), 0) / 127;
    });
    const zero = kind === 'uint8' ? 128 : 0;
    const values = Array.from(transposed, (x, i) => Math.round(x / scales[perColumn ? i % rows : 0]!) + zero);
    const type = kind === 'uint8' ? DataType.uint8 : DataType.int8;
    w.tensor(
      `${id}_quantized`,
      type,
      [cols, rows],
      kind === 'uint8' ? Uint8Array.from(values) : Int8Array.from(values),
    );
    w.tensor(`${id}_scale`, DataType.float32, perColumn ? [rows] : [], scales);
    w.tensor(`${id}_zero_point`, type, [], kind === 'uint8' ? Uint8Array.of(zero) : Int8Array.of(zero));
    w.node('MatMulInteger', ['x_q', `${id}_quantized`, 'x_zero', `${id}_zero_point`], [node]);
  }
}

function addBlocks(
  w: OnnxWriter,
  node: string,
  id: string,
  [rows, cols]: [number, number],
  data: Float32Array,
  kind: OnnxKind,
): void {
  const bits = kind === 'blocks8' ? 8 : 4;
  const blockSize = 32;
  const blocks = cols / blockSize;
  const hasZeros = kind === 'blocks4-zeros';
  const packed = new Uint8Array((rows * cols * bits) / 8);
  const scales = new Float32Array(rows * blocks);
  const zeros = new Uint8Array(rows * Math.ceil((blocks * bits) / 8));
  const zero = hasZeros ? 6 : 1 << (bits - 1);
  const high = (1 << bits) - 1;
  for (let block = 0; block < rows * blocks; block++) {
    const part = data.subarray(block * blockSize, (block + 1) * blockSize);
    const scale = part.reduce((a, b) => Math.max(a, Math.abs(b)), 0) / (bits === 8 ? 127 : 6);
    scales[block] = scale;
    for (let i = 0; i < blockSize; i++) {
      const value = Math.min(high, Math.max(0, Math.round(part[i]! / scale) + zero));
      const at = block * blockSize + i;
      if (bits === 8) packed[at] = value;
      else packed[at >> 1]! |= at % 2 === 0 ? value : value << 4;
    }
    const [row, column] = [Math.floor(block / blocks), block % blocks];
    const zeroAt = row * Math.ceil((blocks * bits) / 8) + (column >> 1);
    if (hasZeros) zeros[zeroAt]! |= column % 2 === 0 ? zero : zero << 4;
  }
  w.tensor(`${id}_q`, DataType.uint8, [rows, blocks, (blockSize * bits) / 8], packed);
  w.tensor(`${id}_s`, DataType.float32, [rows * blocks], scales);
  const inputs = ['x', `${id}_q`, `${id}_s`];
  if (hasZeros) inputs.push(w.tensor(`${id}_z`, DataType.uint8, [zeros.length], zeros));
  w.node('MatMulNBits', inputs, [node], { K: cols, N: rows, bits, block_size: blockSize }, 'com.microsoft');
}
