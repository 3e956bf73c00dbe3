// What llama.cpp wants to know of a ModelSpec: the architecture's name there, its metadata, and which of our tensors are
// which of its own. Called by gguf-export. Models that its architecture would compute otherwise are refused.
import { rotaryFrequencies } from '../../workers/model/rotary.ts';
import { EMBEDDING, FINAL_NORM, HEAD, layerBias, layerTensor, mlpNorm } from '../../workers/model/specs/spec.ts';
import type { LayerMatrix, LayerTensor, ModelSpec } from '../../workers/model/specs/spec.ts';
import { toFloats, type WeightSource } from '../../workers/model/weights/source.ts';
import type { Encoding, GgufTensor, MetaValue } from './gguf-writer.ts';

export interface GgufLayout {
  architecture: string;
  /** Rotary pairs are neighbours there, so rows of q and k move. */
  isInterleaved: boolean;
  /** It has q, k, v in one matrix, gate and up in another. */
  isStacked: boolean;
  /** Layers with a window there, where it has any. */
  hasWindow: ((layer: number) => boolean) | null;
}

const plain = { isInterleaved: false, isStacked: false, hasWindow: null };
/** Bases of layers with a window, and where windows are, cannot be told to it: they are part of its code. */
const GEMMA3_LOCAL_THETA = 10_000;
const layouts: Readonly<Record<string, GgufLayout>> = {
  llama: { ...plain, architecture: 'llama', isInterleaved: true },
  mistral: { ...plain, architecture: 'llama', isInterleaved: true },
  qwen2: { ...plain, architecture: 'qwen2' },
  qwen3: { ...plain, architecture: 'qwen3' },
  smollm3: { ...plain, architecture: 'smollm3', isInterleaved: true },
  phi3: { ...plain, architecture: 'phi3', isStacked: true },
  gemma2: { ...plain, architecture: 'gemma2', hasWindow: (l) => l % 2 === 0 },
  gemma3_text: { ...plain, architecture: 'gemma3', hasWindow: (l) => l % 6 !== 5 },
};

/** Throws an Error naming `subject` when the architecture there does not compute what the spec says. */
export function findLayout(modelType: string, spec: ModelSpec, subject: string): GgufLayout {
  const layout = Object.hasOwn(layouts, modelType) ? layouts[modelType] : undefined;
  const refuse = (what: string): never => {
    throw new Error(`${subject}: ${what} cannot be exported to GGUF`);
  };
  if (layout === undefined) return refuse(`model_type ${JSON.stringify(modelType)}`);
  for (const [l, { window, rope }] of spec.layers.entries()) {
    const isWindowed = window !== null && window < spec.maxPositions;
    if (isWindowed !== (layout.hasWindow?.(l) ?? false)) refuse(`the window of layer ${l}`);
    if ((rope === null) !== (modelType === 'smollm3' && l % 4 === 3)) refuse(`the positions of layer ${l}`);
    const isLocal = modelType === 'gemma3_text' && isWindowed;
    if (isLocal && (rope?.theta !== GEMMA3_LOCAL_THETA || rope.scaling !== null)) refuse(`the base of layer ${l}`);
  }
  if (Math.abs(spec.queryScale * Math.sqrt(spec.headDim) - 1) > 1e-9) refuse('a query scale of its own');
  return layout;
}

const u32 = (value: number): MetaValue => ({ type: 'u32', value });
const f32 = (value: number): MetaValue => ({ type: 'f32', value });

export function modelMeta({ architecture, hasWindow }: GgufLayout, spec: ModelSpec): [string, MetaValue][] {
  const rope = globalRope(spec);
  const meta: [string, MetaValue][] = [
    ['context_length', u32(spec.maxPositions)],
    ['embedding_length', u32(spec.hiddenSize)],
    ['block_count', u32(spec.numLayers)],
    ['feed_forward_length', u32(spec.intermediateSize)],
    ['attention.head_count', u32(spec.numHeads)],
    ['attention.head_count_kv', u32(spec.numKvHeads)],
    ['attention.key_length', u32(spec.headDim)],
    ['attention.value_length', u32(spec.headDim)],
    ['attention.layer_norm_rms_epsilon', f32(spec.normEpsilon)],
    ['rope.dimension_count', u32(spec.rotaryDim)],
    ['rope.freq_base', f32(rope.theta)],
    ['vocab_size', u32(spec.vocabSize)],
  ];
  const window = spec.layers.find((layer) => layer.window !== null)?.window ?? null;
  if (hasWindow !== null && window !== null) meta.push(['attention.sliding_window', u32(window)]);
  if (rope.scaling?.type === 'linear') {
    meta.push(['rope.scaling.type', { type: 'string', value: 'linear' }]);
    meta.push(['rope.scaling.factor', f32(rope.scaling.factor)]);
  }
  if (rope.scaling?.type === 'yarn') {
    meta.push(['rope.scaling.type', { type: 'string', value: 'yarn' }]);
    meta.push(['rope.scaling.factor', f32(rope.scaling.factor)]);
    meta.push(['rope.scaling.original_context_length', u32(rope.scaling.originalPositions)]);
  }
  if (rope.scaling?.type === 'longrope') {
    meta.push(['rope.scaling.attn_factor', f32(rope.scaling.attentionFactor)]);
    meta.push(['rope.scaling.original_context_length', u32(rope.scaling.originalPositions)]);
  }
  if (spec.scoreCap !== null) meta.push(['attn_logit_softcapping', f32(spec.scoreCap)]);
  if (spec.logitCap !== null) meta.push(['final_logit_softcapping', f32(spec.logitCap)]);
  return meta.map(([key, value]) => [`${architecture}.${key}`, value]);
}

function globalRope(spec: ModelSpec): {
  theta: number;
  scaling: NonNullable<ModelSpec['layers'][0]['rope']>['scaling'];
} {
  const layer = spec.layers.find(({ window, rope }) => window === null && rope !== null) ?? spec.layers[0];
  return layer?.rope ?? { theta: 10_000, scaling: null };
}

export function planTensors(
  layout: GgufLayout,
  spec: ModelSpec,
  source: WeightSource,
  encoding: Encoding,
): GgufTensor[] {
  const { hiddenSize: hidden, intermediateSize: wide, headDim, numHeads, numKvHeads } = spec;
  const [queries, keys] = [numHeads * headDim, numKvHeads * headDim];
  const plan = (name: string, from: string, dims: number[], as: Encoding, heads = 0): GgufTensor => ({
    name,
    dims,
    encoding: as,
    read() {
      const values = toFloats(source.read(from, dims));
      return heads === 0 || !layout.isInterleaved ? values : interleaveHeads(values, heads, headDim);
    },
  });
  const norm = (name: string, from: string, length = hidden): GgufTensor => {
    const read = (): Float32Array => toFloats(source.read(from, [length])).map((value) => value + spec.normOffset);
    return { name, dims: [length], encoding: 'f32', read };
  };
  const stacked = (name: string, parts: [string, number][]): GgufTensor => ({
    name,
    dims: [parts.reduce((sum, [, rows]) => sum + rows, 0), hidden],
    encoding,
    read: () => Float32Array.from(parts.flatMap(([from, rows]) => [...toFloats(source.read(from, [rows, hidden]))])),
  });
  const tensors = [plan('token_embd.weight', EMBEDDING, [spec.vocabSize, hidden], encoding)];
  tensors.push(norm('output_norm.weight', FINAL_NORM));
  if (!spec.tiedEmbeddings) tensors.push(plan('output.weight', HEAD, [spec.vocabSize, hidden], encoding));
  for (const [name, factors] of frequencyDivisors(spec)) {
    tensors.push({ name, dims: [factors.length], encoding: 'f32', read: () => factors });
  }
  const norms: [string, LayerTensor, number?][] = [
    ['attn_norm', 'input_layernorm'],
    ['ffn_norm', mlpNorm(spec)],
  ];
  if (spec.branchNorms) norms.push(['post_attention_norm', 'post_attention_layernorm']);
  if (spec.branchNorms) norms.push(['post_ffw_norm', 'post_feedforward_layernorm']);
  if (spec.qkNorm) {
    norms.push(['attn_q_norm', 'self_attn.q_norm', headDim], ['attn_k_norm', 'self_attn.k_norm', headDim]);
  }
  const matrices: [string, LayerMatrix, number, number, number, boolean][] = [
    ['attn_q', 'self_attn.q_proj', queries, hidden, numHeads, spec.qkvBias],
    ['attn_k', 'self_attn.k_proj', keys, hidden, numKvHeads, spec.qkvBias],
    ['attn_v', 'self_attn.v_proj', keys, hidden, 0, spec.qkvBias],
    ['attn_output', 'self_attn.o_proj', hidden, queries, 0, spec.outputBias],
    ['ffn_gate', 'mlp.gate_proj', wide, hidden, 0, false],
    ['ffn_up', 'mlp.up_proj', wide, hidden, 0, false],
    ['ffn_down', 'mlp.down_proj', hidden, wide, 0, false],
  ];
  for (let layer = 0; layer < spec.numLayers; layer++) {
    const at = `blk.${layer}.`;
    for (const [name, from, length] of norms)
      tensors.push(norm(`${at}${name}.weight`, layerTensor(layer, from), length));
    const isApart = ([name]: (typeof matrices)[number]): boolean => name === 'attn_output' || name === 'ffn_down';
    for (const [name, from, rows, columns, heads, isBiased] of layout.isStacked ? matrices.filter(isApart) : matrices) {
      tensors.push(plan(`${at}${name}.weight`, layerTensor(layer, from), [rows, columns], encoding, heads));
      if (isBiased) tensors.push(plan(`${at}${name}.bias`, layerBias(layer, from), [rows], 'f32', heads));
    }
    if (!layout.isStacked) continue;
    const part = (from: LayerMatrix, rows: number): [string, number] => [layerTensor(layer, from), rows];
    const [q, k, v] = [
      part('self_attn.q_proj', queries),
      part('self_attn.k_proj', keys),
      part('self_attn.v_proj', keys),
    ];
    tensors.push(stacked(`${at}attn_qkv.weight`, [q, k, v]));
    tensors.push(stacked(`${at}ffn_up.weight`, [part('mlp.gate_proj', wide), part('mlp.up_proj', wide)]));
  }
  return tensors;
}

/** Tensors by which every frequency is divided: one under llama3 scaling, two under longrope. */
function frequencyDivisors(spec: ModelSpec): [name: string, divisors: Float32Array][] {
  const rope = globalRope(spec);
  if (rope.scaling?.type === 'longrope') {
    const { long, short } = rope.scaling;
    return [
      ['rope_factors_long.weight', Float32Array.from(long)],
      ['rope_factors_short.weight', Float32Array.from(short)],
    ];
  }
  if (rope.scaling?.type !== 'llama3') return [];
  const plainOnes = rotaryFrequencies({ theta: rope.theta, scaling: null }, spec.rotaryDim, spec.maxPositions);
  const scaled = rotaryFrequencies(rope, spec.rotaryDim, spec.maxPositions);
  return [['rope_freqs.weight', Float32Array.from(plainOnes, (frequency, i) => frequency / scaled[i]!)]];
}

/**
 * Rotary pairs of a head are (i, i + headDim / 2) in our checkpoints and neighbours (2i, 2i + 1) in some of
 * GGUF's architectures, so the rows
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
