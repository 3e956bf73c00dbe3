// What the families' config.json files have in common: sizes, rotary positions, sliding windows. Each family's reader
// starts from `readDecoder` and changes what it does otherwise.
import type { ConfigReader } from './config-reader.ts';
import { readRope } from './rope.ts';
import type { LayerSpec, ModelSpec, Rope } from './spec.ts';

export type LayerKind = 'full_attention' | 'sliding_attention';
const layerKinds: readonly LayerKind[] = ['full_attention', 'sliding_attention'];

export interface DecoderDefaults {
  headDim?: number;
  maxPositions?: number;
  tiedEmbeddings?: boolean;
}

/**
 * A plain decoder: every layer sees everything and rotates whole heads, SiLU, no biases. What the family's class in
 * transformers takes for an absent field is given by `defaults`.
 */
export function readDecoder(config: ConfigReader, defaults: DecoderDefaults = {}): ModelSpec {
  const hiddenSize = config.natural('hidden_size', 65536);
  const numHeads = config.natural('num_attention_heads', 1024);
  const numKvHeads = config.natural('num_key_value_heads', 1024, numHeads);
  const headDim = config.natural('head_dim', 1024, defaults.headDim ?? hiddenSize / numHeads);
  const numLayers = config.natural('num_hidden_layers', 1024);
  if (numHeads % numKvHeads !== 0)
    config.fail('num_key_value_heads', `does not divide num_attention_heads (${numHeads})`);
  if (headDim % 16 !== 0) config.fail('head_dim', `is ${headDim}; a multiple of 16 is needed`);
  const rotaryDim = readRotaryDim(config, headDim);
  const rope = readRope(config);
  checkDivisors(config, rope, rotaryDim);
  const spec: ModelSpec = {
    numLayers,
    hiddenSize,
    numHeads,
    numKvHeads,
    headDim,
    intermediateSize: config.natural('intermediate_size', 1 << 20),
    vocabSize: config.natural('vocab_size', 1 << 24),
    normEpsilon: config.positive('rms_norm_eps', 1e-6),
    normOffset: 0,
    layers: Array.from({ length: numLayers }, () => ({ window: null, rope })),
    rotaryDim,
    queryScale: 1 / Math.sqrt(headDim),
    qkvBias: false,
    outputBias: false,
    qkNorm: false,
    scoreCap: null,
    logitCap: null,
    activation: 'silu',
    embeddingScale: 1,
    branchNorms: false,
    fusedMatrices: false,
    maxPositions: readMaxPositions(config, rope, defaults.maxPositions ?? 2048),
    tiedEmbeddings: config.flag('tie_word_embeddings', defaults.tiedEmbeddings ?? false),
  };
  for (const field of ['hidden_size', 'intermediate_size'] as const) {
    if (config.natural(field, 1 << 20) % 32 !== 0) config.fail(field, 'is not a multiple of 32');
  }
  return spec;
}

/** yarn is switched on by adding its scaling alone: the field may still say what the model was first trained for. */
function readMaxPositions(config: ConfigReader, { scaling }: Rope, fallback: number): number {
  const own = config.natural('max_position_embeddings', 1 << 30, fallback);
  return scaling?.type === 'yarn' ? Math.max(own, Math.floor(scaling.factor * scaling.originalPositions)) : own;
}

function checkDivisors(config: ConfigReader, { scaling }: Rope, rotaryDim: number): void {
  const lists = scaling?.type === 'divisors' ? [scaling.divisors] : [];
  if (scaling?.type === 'longrope') lists.push(scaling.long, scaling.short);
  const wrong = lists.find(({ length }) => length !== rotaryDim / 2);
  if (wrong === undefined) return;
  config.fail('rope_scaling', `has a list of ${wrong.length} numbers; ${rotaryDim / 2} are needed`);
}

function readRotaryDim(config: ConfigReader, headDim: number): number {
  const listed = config.object('rope_parameters')?.get('partial_rotary_factor');
  const rotaryDim = Math.floor(headDim * config.positive('partial_rotary_factor', listed ?? 1));
  // The attention kernel rotates in vectors of 16 channels.
  if (rotaryDim % 16 === 0 && rotaryDim >= 16 && rotaryDim <= headDim) return rotaryDim;
  const why = `leaves ${rotaryDim} of ${headDim} channels; a multiple of 16 is needed`;
  return config.fail('partial_rotary_factor', why);
}

/** layer_types, or what `assumed` says of each layer where the config has none. */
export function readLayerKinds(
  config: ConfigReader,
  numLayers: number,
  assumed: (l: number) => LayerKind,
): LayerKind[] {
  const listed = config.list('layer_types', numLayers, layerKinds);
  return listed ?? Array.from({ length: numLayers }, (_, l) => assumed(l));
}

/** Layers of each kind; the sliding ones take `window` and `localRope`. */
export function layersOf(
  kinds: readonly LayerKind[],
  rope: Rope,
  window: number | null,
  localRope = rope,
): LayerSpec[] {
  return kinds.map((kind) => (kind === 'full_attention' ? { window: null, rope } : { window, rope: localRope }));
}
