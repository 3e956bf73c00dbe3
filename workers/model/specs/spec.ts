// What graph-builder must know of an architecture, and the names of its tensors. One reader of config.json per
// family fills it; another architecture is another reader, never a branch on a family's name in the builder.

/**
 * How rotary frequencies differ from theta^(-2i/d): all are divided by `factor` (linear), only the slow ones (llama3,
 * yarn), or each by a number of its own, [rotaryDim / 2] (divisors; longrope: one such list for contexts beyond
 * originalPositions, one for others). Keys and queries are multiplied by attentionFactor, where there is one.
 */
export type RopeScaling =
  | { type: 'linear'; factor: number }
  | { type: 'divisors'; divisors: readonly number[] }
  | { type: 'llama3'; factor: number; lowFactor: number; highFactor: number; originalPositions: number }
  | {
      type: 'yarn';
      factor: number;
      originalPositions: number;
      /** Turns within originalPositions above which a frequency is kept, and below which it is divided. */
      fastTurns: number;
      slowTurns: number;
      attentionFactor: number;
    }
  | {
      type: 'longrope';
      long: readonly number[];
      short: readonly number[];
      originalPositions: number;
      attentionFactor: number;
    };

export interface Rope {
  theta: number;
  scaling: RopeScaling | null;
}

export interface LayerSpec {
  /** Keys a query sees, its own among them; null: all before it. */
  window: number | null;
  /** null: the layer knows no positions. */
  rope: Rope | null;
}

export interface ModelSpec {
  numLayers: number;
  hiddenSize: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  /** Width of the gated MLP. */
  intermediateSize: number;
  vocabSize: number;
  normEpsilon: number;
  /** Added to every stored norm weight: 1 where the checkpoint holds the difference from one. */
  normOffset: 0 | 1;
  /** One per layer. */
  layers: readonly LayerSpec[];
  /** Leading channels of a head that positions rotate; the others pass through. */
  rotaryDim: number;
  /** Queries are multiplied by it before they meet the keys. */
  queryScale: number;
  /** Biases of q, k and v, and of the attention's output. */
  qkvBias: boolean;
  outputBias: boolean;
  /** Every head of q and k is normed before it is rotated. */
  qkNorm: boolean;
  /** Attention scores s become cap · tanh(s / cap); logits likewise. null: as they are. */
  scoreCap: number | null;
  logitCap: number | null;
  /** Of the MLP's gate; gelu is its tanh form. */
  activation: 'silu' | 'gelu';
  /** Embeddings are multiplied by it; the head is not, even when it is the same matrix. */
  embeddingScale: number;
  /** The outputs of attention and MLP are normed too, before they are added. */
  branchNorms: boolean;
  /** The checkpoint stacks q, k and v in one matrix, gate and up in another (weights/fused.ts). */
  fusedMatrices: boolean;
  /** Longest sequence the model was trained for. */
  maxPositions: number;
  /** The output head is the embedding matrix. */
  tiedEmbeddings: boolean;
}

/** Matrices of a layer, [out, in] each. */
export type LayerMatrix =
  | 'self_attn.q_proj'
  | 'self_attn.k_proj'
  | 'self_attn.v_proj'
  | 'self_attn.o_proj'
  | 'mlp.gate_proj'
  | 'mlp.up_proj'
  | 'mlp.down_proj';

export type LayerTensor =
  | LayerMatrix
  | 'self_attn.q_norm'
  | 'self_attn.k_norm'
  | 'input_layernorm'
  | 'post_attention_layernorm'
  | 'pre_feedforward_layernorm'
  | 'post_feedforward_layernorm';

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';
export const HEAD = 'lm_head.weight';

export function layerTensor(layer: number, tensor: LayerTensor): string {
  return `model.layers.${layer}.${tensor}.weight`;
}

export function layerBias(layer: number, matrix: LayerMatrix): string {
  return `model.layers.${layer}.${matrix}.bias`;
}

/** The norm before the MLP: families that norm their branches give its usual name to another one. */
export function mlpNorm(spec: ModelSpec): LayerTensor {
  return spec.branchNorms ? 'pre_feedforward_layernorm' : 'post_attention_layernorm';
}

/** Of the matrices and the norms beside the residual stream; biases and other norms are a ten-thousandth of them. */
export function numParameters(spec: ModelSpec): number {
  const attention = spec.hiddenSize * spec.headDim * (2 * spec.numHeads + 2 * spec.numKvHeads);
  const mlp = 3 * spec.hiddenSize * spec.intermediateSize;
  const embeddings = spec.vocabSize * spec.hiddenSize * (spec.tiedEmbeddings ? 1 : 2);
  return spec.numLayers * (attention + mlp + 2 * spec.hiddenSize) + embeddings + spec.hiddenSize;
}
