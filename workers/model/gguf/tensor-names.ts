// GGUF's names of tensors, and ours. Called by config.ts and weights/gguf.
import { EMBEDDING, FINAL_NORM, HEAD, layerBias, layerTensor } from '../specs/spec.ts';
import type { LayerMatrix, LayerTensor, ModelSpec } from '../specs/spec.ts';

export const tensorNames = {
  embedding: 'token_embd.weight',
  finalNorm: 'output_norm.weight',
  head: 'output.weight',
  /** Of rotary frequencies: for all contexts, or for those beyond what the model first saw and those within. */
  divisors: 'rope_freqs.weight',
  longDivisors: 'rope_factors_long.weight',
  shortDivisors: 'rope_factors_short.weight',
} as const;

const matrices: readonly (readonly [gguf: string, ours: LayerMatrix])[] = [
  ['attn_q', 'self_attn.q_proj'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  ['ffn_down', 'mlp.down_proj'],
];
/** Where q, k and v are stacked, and gate and up: the latter has the name of up alone. */
const stackedMatrices: readonly (readonly [gguf: string, ours: string])[] = [
  ['attn_qkv', 'self_attn.qkv_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['ffn_up', 'mlp.gate_up_proj'],
  ['ffn_down', 'mlp.down_proj'],
];
const norms: readonly (readonly [gguf: string, ours: LayerTensor])[] = [
  ['attn_norm', 'input_layernorm'],
  ['attn_q_norm', 'self_attn.q_norm'],
  ['attn_k_norm', 'self_attn.k_norm'],
];

/** Every tensor a model of this spec has or may have: ours by GGUF's. */
export function canonicalNames(spec: ModelSpec): Map<string, string> {
  const names = new Map<string, string>([
    [tensorNames.embedding, EMBEDDING],
    [tensorNames.finalNorm, FINAL_NORM],
    [tensorNames.head, HEAD],
  ]);
  for (let layer = 0; layer < spec.numLayers; layer++) {
    const at = `blk.${layer}.`;
    for (const [gguf, ours] of norms) names.set(`${at}${gguf}.weight`, layerTensor(layer, ours));
    if (spec.branchNorms) {
      names.set(`${at}post_attention_norm.weight`, layerTensor(layer, 'post_attention_layernorm'));
      names.set(`${at}ffn_norm.weight`, layerTensor(layer, 'pre_feedforward_layernorm'));
      names.set(`${at}post_ffw_norm.weight`, layerTensor(layer, 'post_feedforward_layernorm'));
    } else {
      names.set(`${at}ffn_norm.weight`, layerTensor(layer, 'post_attention_layernorm'));
    }
    if (spec.fusedMatrices) {
      for (const [gguf, ours] of stackedMatrices)
        names.set(`${at}${gguf}.weight`, `model.layers.${layer}.${ours}.weight`);
      continue;
    }
    for (const [gguf, ours] of matrices) {
      names.set(`${at}${gguf}.weight`, layerTensor(layer, ours));
      names.set(`${at}${gguf}.bias`, layerBias(layer, ours));
    }
  }
  return names;
}
