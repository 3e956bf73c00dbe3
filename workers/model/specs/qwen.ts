// config.json of Qwen2, Qwen2.5 (both qwen2) and Qwen3: biases on q, k and v in the former, normed heads in the latter.
import { ConfigReader, type Config } from './config-reader.ts';
import { layersOf, readDecoder, readLayerKinds } from './decoder.ts';
import { readRope } from './rope.ts';
import type { LayerSpec, ModelSpec } from './spec.ts';

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function qwen2Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'qwen2', null);
  reader.only('hidden_act', 'silu');
  const spec = readDecoder(reader, { maxPositions: 32_768 });
  return { ...spec, layers: readLayers(reader, spec.numLayers), qkvBias: true };
}

/** Errors as `qwen2Spec`. */
export function qwen3Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'qwen3', null);
  reader.only('hidden_act', 'silu');
  const spec = readDecoder(reader, { headDim: 128, maxPositions: 32_768 });
  const bias = reader.flag('attention_bias');
  return { ...spec, layers: readLayers(reader, spec.numLayers), qkvBias: bias, outputBias: bias, qkNorm: true };
}

/** The published files carry sliding_window without using it; where it is used, the layers from max_window_layers on slide. */
function readLayers(reader: ConfigReader, numLayers: number): LayerSpec[] {
  const rope = readRope(reader);
  const isSliding = reader.flag('use_sliding_window') && reader.get('sliding_window') !== undefined;
  const window = isSliding ? reader.natural('sliding_window', 1 << 30) : null;
  const first = isSliding ? reader.natural('max_window_layers', 1024, 28) : numLayers;
  const kinds = readLayerKinds(reader, numLayers, (l) => (l < first ? 'full_attention' : 'sliding_attention'));
  if (window === null && kinds.includes('sliding_attention')) {
    reader.fail('layer_types', 'has sliding_attention, but use_sliding_window is not set');
  }
  return layersOf(kinds, rope, window);
}
