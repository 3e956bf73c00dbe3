// What graph-builder must know of an architecture, and the names of its tensors. One reader of config.json per
// family fills it; another architecture is another reader, never a branch in the builder.

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
  ropeTheta: number;
  /** Longest sequence the model was trained for. */
  maxPositions: number;
  /** The output head is the embedding matrix. */
  tiedEmbeddings: boolean;
}

export type LayerTensor =
  | 'self_attn.q_proj'
  | 'self_attn.k_proj'
  | 'self_attn.v_proj'
  | 'self_attn.o_proj'
  | 'mlp.gate_proj'
  | 'mlp.up_proj'
  | 'mlp.down_proj'
  | 'input_layernorm'
  | 'post_attention_layernorm';

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';
export const HEAD = 'lm_head.weight';

export function layerTensor(layer: number, tensor: LayerTensor): string {
  return `model.layers.${layer}.${tensor}.weight`;
}

export function numParameters(spec: ModelSpec): number {
  const attention = spec.hiddenSize * spec.headDim * (2 * spec.numHeads + 2 * spec.numKvHeads);
  const mlp = 3 * spec.hiddenSize * spec.intermediateSize;
  const embeddings = spec.vocabSize * spec.hiddenSize * (spec.tiedEmbeddings ? 1 : 2);
  return spec.numLayers * (attention + mlp + 2 * spec.hiddenSize) + embeddings + spec.hiddenSize;
}
