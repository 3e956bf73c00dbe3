// config.json of Phi-3: a plain decoder whose checkpoints stack matrices. The forms for long contexts
// (longrope) are refused by readRope.
import { ConfigReader, type Config } from './config-reader.ts';
import { layersOf, readDecoder, type LayerKind } from './decoder.ts';
import { readRope } from './rope.ts';
import type { ModelSpec } from './spec.ts';

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function phi3Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'phi3', null);
  reader.only('hidden_act', 'silu');
  reader.only('attention_bias', false);
  reader.only('mlp_bias', false);
  const spec = readDecoder(reader, { maxPositions: 4096 });
  const window = reader.get('sliding_window') === undefined ? null : reader.natural('sliding_window', 1 << 30);
  const kinds = spec.layers.map((): LayerKind => (window === null ? 'full_attention' : 'sliding_attention'));
  return { ...spec, layers: layersOf(kinds, readRope(reader), window), fusedMatrices: true };
}
