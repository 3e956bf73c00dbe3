// Reads the config.json of a Llama-family model into a ModelSpec. What our graph does not compute is refused here,
// naming the field: a model that loads and answers wrongly is worse than one that does not load.
import type { ModelSpec } from './spec.ts';

type Config = Record<string, unknown>;

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function llamaSpec(config: Config, file: string): ModelSpec {
  const fail = (field: string, why: string): never => {
    throw new Error(`${file}: ${field} ${why}`);
  };
  const natural = (field: string, max: number, fallback?: number): number => {
    const value = config[field] ?? fallback;
    if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max) return value as number;
    return fail(field, `is ${JSON.stringify(value)}; a whole number from 1 to ${max} is needed`);
  };
  const positive = (field: string, value: unknown): number => {
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    return fail(field, `is ${JSON.stringify(value)}; a positive number is needed`);
  };
  const only = (field: string, supported: unknown, fallback: unknown = supported): void => {
    const value = config[field] ?? fallback;
    if (value !== supported) fail(field, `is ${JSON.stringify(value)}; only ${JSON.stringify(supported)} is supported`);
  };

  only('model_type', 'llama', null);
  only('hidden_act', 'silu');
  only('attention_bias', false);
  only('mlp_bias', false);
  if (config['rope_scaling'] !== undefined && config['rope_scaling'] !== null) {
    fail('rope_scaling', 'is set; only plain rotary positions are supported');
  }
  // Newer exports keep both in one object.
  const rope = config['rope_parameters'] as Config | null | undefined;
  if (rope && (rope['rope_type'] ?? 'default') !== 'default') {
    fail('rope_parameters', `asks for ${JSON.stringify(rope['rope_type'])}; only "default" is supported`);
  }

  const hiddenSize = natural('hidden_size', 65536);
  const numHeads = natural('num_attention_heads', 1024);
  const numKvHeads = natural('num_key_value_heads', 1024, numHeads);
  const headDim = natural('head_dim', 1024, hiddenSize / numHeads);
  if (numHeads % numKvHeads !== 0) fail('num_key_value_heads', `does not divide num_attention_heads (${numHeads})`);
  if (headDim % 16 !== 0) fail('head_dim', `is ${headDim}; a multiple of 16 is needed`);
  const spec: ModelSpec = {
    numLayers: natural('num_hidden_layers', 1024),
    hiddenSize,
    numHeads,
    numKvHeads,
    headDim,
    intermediateSize: natural('intermediate_size', 1 << 20),
    vocabSize: natural('vocab_size', 1 << 24),
    normEpsilon: positive('rms_norm_eps', config['rms_norm_eps'] ?? 1e-6),
    ropeTheta: positive('rope_theta', config['rope_theta'] ?? rope?.['rope_theta'] ?? 10_000),
    maxPositions: natural('max_position_embeddings', 1 << 30, 2048),
    tiedEmbeddings: config['tie_word_embeddings'] === true,
  };
  for (const field of ['hidden_size', 'intermediate_size'] as const) {
    if (natural(field, 1 << 20) % 32 !== 0) fail(field, 'is not a multiple of 32');
  }
  return spec;
}
