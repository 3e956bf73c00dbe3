// config.json of Gemma 2 and of Gemma 3's text models: norms around both branches with weights stored as differences
// from one, scaled embeddings, windows on most layers, capped scores (2) or normed heads (3).
import { ConfigReader, type Config } from './config-reader.ts';
import { layersOf, readDecoder, readLayerKinds, type LayerKind } from './decoder.ts';
import { readRope, readScaling } from './rope.ts';
import type { ModelSpec, Rope } from './spec.ts';

const WINDOW_MAX = 1 << 30;

/** Throws an Error that names `file` and the field when a value is missing, out of range or not supported. */
export function gemma2Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'gemma2', null);
  const spec = readGemma(reader, 8192);
  const window = reader.natural('sliding_window', WINDOW_MAX, 4096);
  const kinds = readLayerKinds(reader, spec.numLayers, (l) => (l % 2 === 0 ? 'sliding_attention' : 'full_attention'));
  return { ...spec, layers: layersOf(kinds, readRope(reader), window) };
}

/** Errors as `gemma2Spec`. */
export function gemma3Spec(config: Config, file: string): ModelSpec {
  const reader = new ConfigReader(config, file);
  reader.only('model_type', 'gemma3_text', null);
  reader.only('use_bidirectional_attention', false);
  const spec = readGemma(reader, 131_072);
  const window = reader.natural('sliding_window', WINDOW_MAX, 4096);
  const pattern = reader.natural('sliding_window_pattern', 1024, 6);
  const kinds = readLayerKinds(reader, spec.numLayers, (l) =>
    (l + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention',
  );
  const { rope, local } = readRopes(reader);
  return { ...spec, layers: layersOf(kinds, rope, window, local), qkNorm: true };
}

function readGemma(reader: ConfigReader, maxPositions: number): ModelSpec {
  // Old exports say hidden_act too, and mean the same; hidden_activation decides.
  const activation = reader.get('hidden_activation') ?? 'gelu_pytorch_tanh';
  if (activation !== 'gelu_pytorch_tanh') {
    reader.fail('hidden_activation', `is ${JSON.stringify(activation)}; only "gelu_pytorch_tanh" is supported`);
  }
  const spec = readDecoder(reader, { headDim: 256, maxPositions, tiedEmbeddings: true });
  const bias = reader.flag('attention_bias');
  return {
    ...spec,
    normOffset: 1,
    queryScale: 1 / Math.sqrt(reader.positive('query_pre_attn_scalar', 256)),
    qkvBias: bias,
    outputBias: bias,
    scoreCap: reader.positiveOrNull('attn_logit_softcapping'),
    logitCap: reader.positiveOrNull('final_logit_softcapping'),
    activation: 'gelu',
    embeddingScale: Math.sqrt(spec.hiddenSize),
    branchNorms: true,
  };
}

/** Layers with a window have a base of their own, and no scaling. Newer exports keep one object per kind of layer. */
function readRopes(reader: ConfigReader): { rope: Rope; local: Rope } {
  const parameters = reader.object('rope_parameters');
  const read = (kind: LayerKind, theta: number): Rope | null => {
    const part = parameters?.object(kind) ?? null;
    if (part === null) return null;
    return { theta: part.positive('rope_theta', theta), scaling: readScaling(parameters!, kind) };
  };
  const local: Rope = { theta: reader.positive('rope_local_base_freq', 10_000), scaling: null };
  return {
    rope: read('full_attention', 1_000_000) ?? readRope(reader, 1_000_000),
    local: read('sliding_attention', 10_000) ?? local,
  };
}
