// Reads the config.json of a BERT encoder into what encoder-graph.ts must know, and names its tensors. As in the
// decoders' readers, what the graph does not compute is refused here by the name of the field.
import { ConfigReader, type Config } from './config-reader.ts';

/** A stack of post-norm encoder layers with learned positions (BERT, MiniLM). */
export interface EncoderSpec {
  numLayers: number;
  hiddenSize: number;
  numHeads: number;
  headDim: number;
  intermediateSize: number;
  vocabSize: number;
  /** Learned positions: no sequence can be longer. */
  maxPositions: number;
  /** Rows of the token-type table, of which only the first is used. */
  numTokenTypes: number;
  normEpsilon: number;
}

export const WORDS = 'embeddings.word_embeddings.weight';
export const POSITIONS = 'embeddings.position_embeddings.weight';
export const TOKEN_TYPES = 'embeddings.token_type_embeddings.weight';
export const EMBEDDING_NORM = 'embeddings.LayerNorm';

type EncoderPart =
  | 'attention.self.query'
  | 'attention.self.key'
  | 'attention.self.value'
  | 'attention.output.dense'
  | 'attention.output.LayerNorm'
  | 'intermediate.dense'
  | 'output.dense'
  | 'output.LayerNorm';

/** Name without `.weight` and `.bias`: every part has both. */
export function encoderPart(layer: number, part: EncoderPart): string {
  return `encoder.layer.${layer}.${part}`;
}

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function bertSpec(config: Config, file: string): EncoderSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'bert', null);
  reader.only('hidden_act', 'gelu');
  reader.only('position_embedding_type', 'absolute');
  reader.only('is_decoder', false);
  const hiddenSize = reader.natural('hidden_size', 65536);
  const numHeads = reader.natural('num_attention_heads', 1024);
  if (hiddenSize % numHeads !== 0) reader.fail('num_attention_heads', `does not divide hidden_size (${hiddenSize})`);
  return {
    numLayers: reader.natural('num_hidden_layers', 1024),
    hiddenSize,
    numHeads,
    headDim: hiddenSize / numHeads,
    intermediateSize: reader.natural('intermediate_size', 1 << 20),
    vocabSize: reader.natural('vocab_size', 1 << 24),
    maxPositions: reader.natural('max_position_embeddings', 1 << 16),
    numTokenTypes: reader.natural('type_vocab_size', 64),
    normEpsilon: reader.positive('layer_norm_eps', 1e-12),
  };
}
