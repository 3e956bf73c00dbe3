// config.json of Llama 2 and 3.x, of SmolLM2 and TinyLlama, which call themselves llama, of Mistral and of SmolLM3: plain
// decoders that differ in rotary scaling, sliding windows and layers without positions.
import { ConfigReader, type Config } from './config-reader.ts';
import { layersOf, readDecoder, readLayerKinds } from './decoder.ts';
import { readRope } from './rope.ts';
import type { ModelSpec } from './spec.ts';

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function llamaSpec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'llama', null);
  reader.only('hidden_act', 'silu');
  reader.only('mlp_bias', false);
  const bias = reader.flag('attention_bias');
  return { ...readDecoder(reader), qkvBias: bias, outputBias: bias };
}

/** Mistral 7B and its kin: one window for all layers where sliding_window is set. Errors as `llamaSpec`. */
export function mistralSpec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'mistral', null);
  reader.only('hidden_act', 'silu');
  const spec = readDecoder(reader, { maxPositions: 131_072 });
  // An absent field means 4,096 in transformers, null means none; old exports always name it.
  const window = config['sliding_window'] === undefined ? 4096 : readWindow(reader);
  const kinds = readLayerKinds(reader, spec.numLayers, () =>
    window === null ? 'full_attention' : 'sliding_attention',
  );
  return { ...spec, layers: layersOf(kinds, readRope(reader), window) };
}

/** SmolLM3: no_rope_layers has a 0 for every layer that knows no positions. Errors as `llamaSpec`. */
export function smolLm3Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'smollm3', null);
  reader.only('hidden_act', 'silu');
  reader.only('mlp_bias', false);
  reader.only('use_sliding_window', false);
  const bias = reader.flag('attention_bias');
  const spec = readDecoder(reader, { maxPositions: 32_768, tiedEmbeddings: true });
  const rope = readRope(reader, 2_000_000);
  const interval = reader.natural('no_rope_layer_interval', 1024, 4);
  const rotates =
    reader.list('no_rope_layers', spec.numLayers, [0, 1]) ??
    spec.layers.map((_, l) => ((l + 1) % interval === 0 ? 0 : 1));
  readLayerKinds(reader, spec.numLayers, () => 'full_attention').forEach((kind) => {
    if (kind !== 'full_attention') reader.fail('layer_types', `has ${kind}; only full_attention is supported`);
  });
  const layers = rotates.map((flag) => ({ window: null, rope: flag === 1 ? rope : null }));
  return { ...spec, layers, qkvBias: bias, outputBias: bias };
}

function readWindow(reader: ConfigReader): number | null {
  return reader.get('sliding_window') === undefined ? null : reader.natural('sliding_window', 1 << 30);
}
