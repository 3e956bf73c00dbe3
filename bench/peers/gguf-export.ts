// One of our model directories as a GGUF file that llama.cpp and its bindings load: same weights, same tokenizer, same
// chat template. Called by the bench `peers`. Llama architecture with a byte-level BPE tokenizer; others are refused.
import fs from 'node:fs';
import { findModelDirectory, modelId, readJson } from '../../workers/model/model-directory.ts';
import { llamaSpec } from '../../workers/model/specs/llama.ts';
import { EMBEDDING, FINAL_NORM, HEAD, layerTensor } from '../../workers/model/specs/spec.ts';
import type { LayerTensor, ModelSpec } from '../../workers/model/specs/spec.ts';
import { openOnnxWeights } from '../../workers/model/weights/onnx.ts';
import { openSafetensors } from '../../workers/model/weights/safetensors.ts';
import { toFloats } from '../../workers/model/weights/source.ts';
import { GGUF_ALIGNMENT, writeGguf, type Encoding, type GgufTensor, type MetaValue } from './gguf-writer.ts';

/** Of matrices; norms are always float32. */
export type WeightEncoding = 'q8_0' | 'f16';

/** general.file_type: most tensors are of this kind. */
const FILE_TYPE = { f16: 1, q8_0: 7 } as const;
const TOKEN_NORMAL = 1;
const TOKEN_CONTROL = 3;

/** Writes `file`; an unfinished one never carries that name. Throws an Error naming what cannot be exported. */
export function exportGguf(model: string, file: string, encoding: WeightEncoding): void {
  const directory = findModelDirectory(model);
  const config = readJson(directory, 'config.json') ?? {};
  if (config['model_type'] !== 'llama') {
    throw new Error(`${directory}: model_type is ${JSON.stringify(config['model_type'])}; only llama can be exported`);
  }
  const spec = llamaSpec(config, directory);
  if (spec.layers[0]?.rope?.scaling) throw new Error(`${directory}: rope_scaling cannot be exported`);
  const meta = new Map([...modelMeta(modelId(directory), spec, encoding), ...tokenizerMeta(directory, spec)]);
  const unfinished = `${file}.${process.pid}`;
  try {
    writeGguf(unfinished, meta, planTensors(directory, spec, encoding));
    fs.renameSync(unfinished, file);
  } finally {
    fs.rmSync(unfinished, { force: true });
  }
}

const u32 = (value: number): MetaValue => ({ type: 'u32', value });
const f32 = (value: number): MetaValue => ({ type: 'f32', value });

function modelMeta(name: string, spec: ModelSpec, encoding: WeightEncoding): [string, MetaValue][] {
  return [
    ['general.architecture', { type: 'string', value: 'llama' }],
    ['general.name', { type: 'string', value: name }],
    ['general.alignment', u32(GGUF_ALIGNMENT)],
    ['general.file_type', u32(FILE_TYPE[encoding])],
    ['general.quantization_version', u32(2)],
    ['llama.context_length', u32(spec.maxPositions)],
    ['llama.embedding_length', u32(spec.hiddenSize)],
    ['llama.block_count', u32(spec.numLayers)],
    ['llama.feed_forward_length', u32(spec.intermediateSize)],
    ['llama.attention.head_count', u32(spec.numHeads)],
    ['llama.attention.head_count_kv', u32(spec.numKvHeads)],
    ['llama.attention.key_length', u32(spec.headDim)],
    ['llama.attention.value_length', u32(spec.headDim)],
    ['llama.attention.layer_norm_rms_epsilon', f32(spec.normEpsilon)],
    ['llama.rope.dimension_count', u32(spec.headDim)],
    ['llama.rope.freq_base', f32(spec.layers[0]?.rope?.theta ?? 10_000)],
    ['llama.vocab_size', u32(spec.vocabSize)],
  ];
}

interface TokenizerFile {
  model?: { type?: string; vocab?: Record<string, number>; merges?: (string | string[])[] };
  added_tokens?: { id: number; content: string; special: boolean }[];
}

function tokenizerMeta(directory: string, spec: ModelSpec): [string, MetaValue][] {
  const { model, added_tokens: added = [] } = (readJson(directory, 'tokenizer.json') ?? {}) as TokenizerFile;
  if (model?.type !== 'BPE' || model.vocab === undefined || model.merges === undefined) {
    throw new Error(`${directory}: tokenizer.json is no BPE tokenizer; only those can be exported`);
  }
  const tokens = Array.from({ length: spec.vocabSize }, (_, id) => `<unused${id}>`);
  const types = tokens.map(() => TOKEN_CONTROL);
  const ids = new Map([...Object.entries(model.vocab), ...added.map(({ id, content }) => [content, id] as const)]);
  for (const [token, id] of ids) {
    if (id >= spec.vocabSize) throw new Error(`${directory}: token id ${id} lies outside the vocabulary`);
    tokens[id] = token;
    types[id] = TOKEN_NORMAL;
  }
  for (const { id, special } of added) if (special) types[id] = TOKEN_CONTROL;
  const merges = model.merges.map((pair) => (typeof pair === 'string' ? pair : pair.join(' ')));
  const config = readJson(directory, 'tokenizer_config.json') ?? {};
  const meta: [string, MetaValue][] = [
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'gpt-2' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    ['tokenizer.ggml.merges', { type: 'strings', value: merges }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ];
  for (const [key, name] of [
    ['bos_token_id', 'bos_token'],
    ['eos_token_id', 'eos_token'],
    ['padding_token_id', 'pad_token'],
  ] as const) {
    const value = ids.get(String(config[name]));
    if (value !== undefined) meta.push([`tokenizer.ggml.${key}`, { type: 'u32', value }]);
  }
  const template = config['chat_template'];
  if (typeof template === 'string') meta.push(['tokenizer.chat_template', { type: 'string', value: template }]);
  return meta;
}

function planTensors(directory: string, spec: ModelSpec, encoding: WeightEncoding): GgufTensor[] {
  const source = openSafetensors(directory) ?? openOnnxWeights(directory);
  if (source === null) throw new Error(`${directory}: no weights found`);
  const { hiddenSize: hidden, intermediateSize: wide, headDim, numHeads, numKvHeads } = spec;
  const plan = (name: string, from: string, dims: number[], as: Encoding, heads = 0): GgufTensor => ({
    name,
    dims,
    encoding: as,
    read() {
      const values = toFloats(source.read(from, dims));
      return heads === 0 ? values : interleaveHeads(values, heads, headDim);
    },
  });
  const tensors = [plan('token_embd.weight', EMBEDDING, [spec.vocabSize, hidden], encoding)];
  tensors.push(plan('output_norm.weight', FINAL_NORM, [hidden], 'f32'));
  if (!spec.tiedEmbeddings) tensors.push(plan('output.weight', HEAD, [spec.vocabSize, hidden], encoding));
  const [queries, keys] = [numHeads * headDim, numKvHeads * headDim];
  const matrices: [string, LayerTensor, number, number, number?][] = [
    ['attn_q', 'self_attn.q_proj', queries, hidden, numHeads],
    ['attn_k', 'self_attn.k_proj', keys, hidden, numKvHeads],
    ['attn_v', 'self_attn.v_proj', keys, hidden],
    ['attn_output', 'self_attn.o_proj', hidden, queries],
    ['ffn_gate', 'mlp.gate_proj', wide, hidden],
    ['ffn_up', 'mlp.up_proj', wide, hidden],
    ['ffn_down', 'mlp.down_proj', hidden, wide],
  ];
  for (let layer = 0; layer < spec.numLayers; layer++) {
    const named = (name: string): string => `blk.${layer}.${name}.weight`;
    tensors.push(plan(named('attn_norm'), layerTensor(layer, 'input_layernorm'), [hidden], 'f32'));
    tensors.push(plan(named('ffn_norm'), layerTensor(layer, 'post_attention_layernorm'), [hidden], 'f32'));
    for (const [name, from, rows, columns, heads] of matrices) {
      tensors.push(plan(named(name), layerTensor(layer, from), [rows, columns], encoding, heads));
    }
  }
  return tensors;
}

/**
 * Rotary pairs of a head are (i, i + headDim / 2) in our checkpoints and neighbours (2i, 2i + 1) in GGUF, so the rows
 * of query and key matrices move. `values`: [heads · headDim, columns]; returns new memory.
 */
export function interleaveHeads(values: Float32Array, heads: number, headDim: number): Float32Array {
  const columns = values.length / (heads * headDim);
  const half = headDim / 2;
  const moved = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const from = (head * headDim + row) * columns;
      const to = head * headDim + (row < half ? 2 * row : 2 * (row - half) + 1);
      moved.set(values.subarray(from, from + columns), to * columns);
    }
  }
  return moved;
}
