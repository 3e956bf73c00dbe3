// config.json of every family: the published file of one model each, what is read from it, and what is refused.
import { describe, expect, it } from 'vitest';
import { readSpec } from '../../../workers/model/specs/families.ts';
import type { ModelSpec } from '../../../workers/model/specs/spec.ts';
import type { WeightSource } from '../../../workers/model/weights/source.ts';
import { splitFused } from '../../../workers/model/weights/fused.ts';
import { seededRandom, tinyTensors } from './checkpoint.ts';
import { families, tinyConfig } from './families.ts';
import { Reference } from './reference.ts';

const read = (family: string, changes: Record<string, unknown> = {}): ModelSpec =>
  readSpec({ ...families[family]!.published, ...changes }, 'config.json');

const windows = (spec: ModelSpec): (number | null)[] => spec.layers.map(({ window }) => window);

describe('readSpec of published files', () => {
  it('reads the rotary scaling of Llama 3.2', () => {
    const spec = read('llama 3');
    expect(spec).toMatchObject({
      numLayers: 16,
      numKvHeads: 8,
      headDim: 64,
      tiedEmbeddings: true,
      maxPositions: 131072,
    });
    const scaling = { type: 'llama3', factor: 32, lowFactor: 1, highFactor: 4, originalPositions: 8192 };
    expect(spec.layers[15]).toEqual({ window: null, rope: { theta: 500000, scaling } });
  });

  it('gives every layer of Mistral its window, and none where the file says null or there is none to see', () => {
    expect(windows(read('mistral'))).toEqual(Array.from({ length: 32 }, () => 4096));
    expect(new Set(windows(read('mistral', { sliding_window: null })))).toEqual(new Set([null]));
    expect(read('mistral', { head_dim: 80 }).headDim).toBe(80);
  });

  it('knows the biases of Qwen 2.5 and does not take its unused window for one', () => {
    const spec = read('qwen 2.5');
    expect(spec).toMatchObject({ qkvBias: true, outputBias: false, qkNorm: false, headDim: 64, tiedEmbeddings: true });
    expect(new Set(windows(spec))).toEqual(new Set([null]));
    const sliding = windows(read('qwen 2.5', { use_sliding_window: true, sliding_window: 1024 }));
    expect([sliding[20], sliding[21]]).toEqual([null, 1024]);
  });

  it('norms the heads of Qwen 3', () => {
    expect(read('qwen 3')).toMatchObject({
      qkNorm: true,
      qkvBias: false,
      headDim: 128,
      numHeads: 16,
      hiddenSize: 1024,
    });
  });

  it('reads SmolLM2 as a plain Llama', () => {
    expect(read('smollm 2')).toMatchObject({
      headDim: 64,
      numHeads: 9,
      numKvHeads: 3,
      qkvBias: false,
      activation: 'silu',
    });
  });

  it('leaves every fourth layer of SmolLM3 without positions, listed or by the interval', () => {
    const listed = read('smollm 3');
    expect(listed.layers.map(({ rope }) => rope?.theta ?? 0).slice(0, 5)).toEqual([5e6, 5e6, 5e6, 0, 5e6]);
    expect(read('smollm 3', { no_rope_layers: null })).toEqual(listed);
  });

  it('splits the stacked matrices of Phi 3 and rotates the part of a head it names', () => {
    expect(read('phi 3')).toMatchObject({ fusedMatrices: true, headDim: 96, rotaryDim: 96 });
    expect(windows(read('phi 3'))[0]).toBe(2047);
    expect(
      read('phi 3', { num_attention_heads: 24, num_key_value_heads: 8, partial_rotary_factor: 0.75 }),
    ).toMatchObject({
      headDim: 128,
      rotaryDim: 96,
    });
  });

  it('reads caps, scales and every second window of Gemma 2', () => {
    const spec = read('gemma 2');
    expect(spec).toMatchObject({ scoreCap: 50, logitCap: 30, normOffset: 1, branchNorms: true, activation: 'gelu' });
    expect(spec).toMatchObject({ queryScale: 1 / 16, embeddingScale: 48, headDim: 256, tiedEmbeddings: true });
    expect(windows(spec).slice(0, 3)).toEqual([4096, null, 4096]);
    expect(read('gemma 2', { query_pre_attn_scalar: 144 }).queryScale).toBe(1 / 12);
  });

  it('reads both rotary bases of Gemma 3, in the old and in the new form of its file', () => {
    const spec = read('gemma 3');
    expect(spec).toMatchObject({ qkNorm: true, scoreCap: null, logitCap: null, numKvHeads: 1 });
    expect(spec.layers[4]).toEqual({ window: 512, rope: { theta: 10_000, scaling: null } });
    expect(spec.layers[5]).toEqual({ window: null, rope: { theta: 1_000_000, scaling: null } });
    const newer = {
      rope_theta: null,
      rope_local_base_freq: null,
      sliding_window_pattern: null,
      layer_types: spec.layers.map(({ window }) => (window === null ? 'full_attention' : 'sliding_attention')),
      rope_parameters: {
        full_attention: { rope_type: 'linear', factor: 8, rope_theta: 1_000_000 },
        sliding_attention: { rope_type: 'default', rope_theta: 10_000 },
      },
    };
    const layers = read('gemma 3', newer).layers;
    expect(layers[4]).toEqual(spec.layers[4]);
    expect(layers[5]!.rope).toEqual({ theta: 1_000_000, scaling: { type: 'linear', factor: 8 } });
  });
});

describe('readSpec', () => {
  const refused: [string, Record<string, unknown>, string][] = [
    ['llama 3', { model_type: 'qwen3_moe' }, 'model_type is "qwen3_moe"; supported: gemma2, gemma3_text, llama'],
    ['gemma 3', { model_type: 'gemma3' }, 'model_type is "gemma3"; supported'],
    ['mistral', { sliding_window: 0 }, 'sliding_window is 0'],
    ['mistral', { hidden_act: 'gelu' }, 'hidden_act is "gelu"'],
    ['qwen 2.5', { use_sliding_window: 'no' }, 'use_sliding_window is "no"'],
    [
      'qwen 2.5',
      { layer_types: Array.from({ length: 24 }, () => 'sliding_attention') },
      'layer_types has sliding_attention',
    ],
    ['qwen 3', { layer_types: ['full_attention'] }, 'layer_types is not a list of 28 entries'],
    [
      'qwen 3',
      { rope_scaling: { rope_type: 'dynamic', factor: 4 } },
      'rope_scaling asks for "dynamic"; supported: default, ',
    ],
    ['qwen 3', { rope_scaling: { rope_type: 'yarn' } }, 'rope_scaling: factor is undefined'],
    ['qwen 3', { rope_scaling: { rope_type: 'yarn', factor: 0.5 } }, 'rope_scaling: factor is 0.5; at least 1'],
    [
      'qwen 3',
      { rope_scaling: { type: 'yarn', factor: 4, beta_fast: 1 } },
      'rope_scaling: beta_fast is not above beta_slow (1)',
    ],
    ['qwen 3', { rope_scaling: { type: 'yarn', factor: 4, mscale: 1 } }, 'rope_scaling: mscale is not supported'],
    ['qwen 3', { rope_scaling: { type: 'yarn', factor: 4, truncate: false } }, 'rope_scaling: truncate is false'],
    [
      'qwen 3',
      { rope_scaling: { type: 'divisors', divisors: [1, -1] } },
      'rope_scaling: divisors is not a list of positive numbers',
    ],
    [
      'qwen 3',
      { rope_scaling: { type: 'divisors', divisors: [1, 2] } },
      'rope_scaling has a list of 2 numbers; 64 are needed',
    ],
    ['smollm 3', { no_rope_layers: [1, 2] }, 'no_rope_layers is not a list of 36 entries out of 0, 1'],
    ['smollm 3', { use_sliding_window: true }, 'use_sliding_window is true'],
    ['smollm 3', { mlp_bias: true }, 'mlp_bias is true'],
    [
      'phi 3',
      { rope_scaling: { type: 'longrope', short_factor: [1] } },
      'rope_scaling: long_factor is not a list of positive numbers',
    ],
    [
      'phi 3',
      { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } },
      'rope_scaling has a list of 1 numbers; 48 are needed',
    ],
    [
      'phi 3',
      { rope_scaling: { type: 'su' }, original_max_position_embeddings: null },
      'original_max_position_embeddings is undefined',
    ],
    ['phi 3', { partial_rotary_factor: 0.4 }, 'partial_rotary_factor leaves 38 of 96 channels'],
    ['phi 3', { partial_rotary_factor: 2 }, 'partial_rotary_factor leaves 192 of 96 channels'],
    ['gemma 2', { hidden_activation: 'relu' }, 'hidden_activation is "relu"'],
    ['gemma 2', { attn_logit_softcapping: -1 }, 'attn_logit_softcapping is -1'],
    ['gemma 2', { query_pre_attn_scalar: '256' }, 'query_pre_attn_scalar is "256"'],
    ['gemma 3', { use_bidirectional_attention: true }, 'use_bidirectional_attention is true'],
    ['gemma 3', { sliding_window_pattern: 1.5 }, 'sliding_window_pattern is 1.5'],
  ];
  it.each(refused)('refuses a %s with %o', (family, changes, message) => {
    expect(() => read(family, changes)).toThrow(`config.json: ${message}`);
  });
});

/** Logits of the reference after thirty tokens of a tiny checkpoint, computed as `changes` of its spec say. */
function tinyLogits(family: string, changes: (spec: ModelSpec) => Partial<ModelSpec>): Float32Array {
  const spec = readSpec(tinyConfig(family), 'config.json');
  const tensors = tinyTensors(tinyConfig(family), 99);
  const stored: WeightSource = {
    files: [],
    has: (name) => tensors.has(name),
    read: (name, dims) => ({ kind: 'float', name, dims: [...dims], data: tensors.get(name)!.data.slice() }),
  };
  const reference = new Reference(
    { ...spec, ...changes(spec) },
    spec.fusedMatrices ? splitFused(stored, spec) : stored,
  );
  const random = seededRandom(98);
  for (let i = 0; i < 29; i++) reference.next(Math.floor(random() * spec.vocabSize), false);
  return reference.next(7);
}

function withoutWindows({ layers }: ModelSpec): Partial<ModelSpec> {
  return { layers: layers.map((layer) => ({ ...layer, window: null })) };
}

function firstRope({ layers }: ModelSpec): Partial<ModelSpec> {
  return { layers: layers.map((layer) => ({ ...layer, rope: layers[0]!.rope })) };
}

describe('a tiny checkpoint', () => {
  const mechanisms: [string, string, (spec: ModelSpec) => Partial<ModelSpec>][] = [
    [
      'llama 3',
      'scaled rotary positions',
      (spec) => ({ layers: spec.layers.map((layer) => ({ ...layer, rope: { theta: 100, scaling: null } })) }),
    ],
    ['mistral', 'its window', withoutWindows],
    ['qwen 2.5', 'biases', () => ({ qkvBias: false })],
    ['qwen 3', 'normed heads', () => ({ qkNorm: false })],
    ['smollm 3', 'layers without positions', firstRope],
    ['phi 3', 'its window', withoutWindows],
    ['gemma 2', 'every second window', withoutWindows],
    ['gemma 2', 'capped scores', () => ({ scoreCap: null })],
    ['gemma 2', 'capped logits', () => ({ logitCap: null })],
    ['gemma 2', 'its query scale', (spec) => ({ queryScale: 1 / Math.sqrt(spec.headDim) })],
    ['gemma 2', 'scaled embeddings', () => ({ embeddingScale: 1 })],
    ['gemma 2', 'its activation', () => ({ activation: 'silu' })],
    ['gemma 3', 'normed heads', () => ({ qkNorm: false })],
    ['gemma 3', 'two rotary bases', firstRope],
  ];
  it.each(mechanisms)('of %s notices when %s are left out', (family, _, without) => {
    const expected = tinyLogits(family, () => ({}));
    const found = tinyLogits(family, without);
    const spread = Math.max(...expected) - Math.min(...expected);
    const worst = Math.max(...expected.map((value, i) => Math.abs(value - found[i]!)));
    // A hundred times what the graph may differ by.
    expect(worst / spread).toBeGreaterThan(2e-3);
  });
});
