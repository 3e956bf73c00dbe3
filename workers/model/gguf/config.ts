// From GGUF metadata to the config.json that the families' readers take (specs/): what the file says, and what its
// architecture's code in llama.cpp leaves unsaid. Called by text-folder.ts. The readers judge the values; here is refused
// what they have no field for.
import type { Config } from '../specs/config-reader.ts';
import type { GgufMeta, GgufModel } from './model.ts';
import { tensorNames } from './tensor-names.ts';

/** Entries that change the computation of no family read here, below the architecture's name, with what means "not". */
const unsupported: readonly [key: string, harmless: number][] = [
  ['expert_count', 0],
  ['attention.clamp_kqv', 0],
  ['attention.max_alibi_bias', 0],
  ['logit_scale', 1],
  ['embedding_scale', 1],
  ['residual_scale', 1],
  ['attention.scale', 0],
];

/** Throws an Error naming the file and what of it is not supported. */
export function ggufConfig(model: GgufModel): Config {
  const { architecture, meta, tensors } = model;
  const family = Object.hasOwn(families, architecture) ? families[architecture] : undefined;
  if (family === undefined) {
    const known = Object.keys(families).join(', ');
    return meta.fail('general.architecture', `is ${JSON.stringify(architecture)}; supported: ${known}`);
  }
  const own = (key: string): string => `${architecture}.${key}`;
  for (const [key, harmless] of unsupported) {
    const value = meta.number(own(key), harmless);
    if (value !== harmless) meta.fail(own(key), `is ${value}, which is not supported`);
  }
  const embedding = tensors.get(tensorNames.embedding);
  if (embedding === undefined) return meta.fail(tensorNames.embedding, 'is missing');
  const hidden = meta.natural(own('embedding_length'));
  const heads = meta.commonNatural(own('attention.head_count'));
  // The readers judge it where it does not divide.
  const headDim = meta.naturalOrNull(own('attention.key_length')) ?? hidden / heads;
  const valueDim = meta.naturalOrNull(own('attention.value_length')) ?? headDim;
  if (valueDim !== headDim) meta.fail(own('attention.value_length'), `is ${valueDim}, keys have ${headDim}`);
  const common: Config = {
    hidden_size: hidden,
    intermediate_size: meta.commonNatural(own('feed_forward_length')),
    num_hidden_layers: meta.natural(own('block_count')),
    num_attention_heads: heads,
    num_key_value_heads: meta.commonNatural(own('attention.head_count_kv'), heads),
    head_dim: headDim,
    rms_norm_eps: shortened(meta.number(own('attention.layer_norm_rms_epsilon'))),
    rope_theta: meta.number(own('rope.freq_base'), 10_000),
    max_position_embeddings: meta.natural(own('context_length')),
    vocab_size: embedding.dims[0],
    tie_word_embeddings: !tensors.has(tensorNames.head),
    ...partialRotary(meta.naturalOrNull(own('rope.dimension_count')) ?? headDim, headDim),
    ...scaling(model, own),
    ...tokenIds(meta),
  };
  return { ...common, ...family(model, own, common) };
}

type Own = (key: string) => string;
/** What a family has beyond the common fields. */
const families: Readonly<Record<string, (model: GgufModel, own: Own, common: Config) => Config>> = {
  llama({ meta, tensors }, own) {
    const window = meta.naturalOrNull(own('attention.sliding_window'));
    if (window !== null && window > 0) return { model_type: 'mistral', sliding_window: window };
    return { model_type: 'llama', attention_bias: tensors.has('blk.0.attn_q.bias') };
  },
  qwen2: () => ({ model_type: 'qwen2' }),
  qwen3: ({ tensors }) => ({ model_type: 'qwen3', attention_bias: tensors.has('blk.0.attn_q.bias') }),
  smollm3: ({ tensors }) => ({ model_type: 'smollm3', attention_bias: tensors.has('blk.0.attn_q.bias') }),
  phi3({ meta }, own) {
    const window = meta.natural(own('attention.sliding_window'), 0);
    return { model_type: 'phi3', sliding_window: window === 0 ? null : window };
  },
  gemma2({ meta }, own, common) {
    return {
      ...gemma(common, 46),
      model_type: 'gemma2',
      sliding_window: meta.natural(own('attention.sliding_window'), 4096),
      attn_logit_softcapping: meta.number(own('attn_logit_softcapping'), 50),
      final_logit_softcapping: meta.number(own('final_logit_softcapping'), 30),
    };
  },
  gemma3({ meta }, own, common) {
    const cap = meta.number(own('final_logit_softcapping'), 0);
    return {
      ...gemma(common, 62),
      model_type: 'gemma3_text',
      sliding_window: meta.natural(own('attention.sliding_window')),
      sliding_window_pattern: meta.commonNatural(own('attention.sliding_window_pattern'), 6),
      rope_local_base_freq: meta.number(own('rope.freq_base_swa'), 10_000),
      final_logit_softcapping: cap === 0 ? null : cap,
    };
  },
};

/** The scale of queries is part of llama.cpp's code: of the largest model, told by its layers, it is another one. */
function gemma(common: Config, largestLayers: number): Config {
  const isLargest = common['num_hidden_layers'] === largestLayers;
  const perHead = (common['hidden_size'] as number) / (common['num_attention_heads'] as number);
  const query_pre_attn_scalar = isLargest ? perHead : common['head_dim'];
  return { hidden_activation: 'gelu_pytorch_tanh', query_pre_attn_scalar };
}

function partialRotary(rotaryDim: number, headDim: number): Config {
  return rotaryDim === headDim ? {} : { partial_rotary_factor: rotaryDim / headDim };
}

/** Rotary scaling by name, or as the divisors of every frequency that llama3's formula was turned into. */
function scaling({ meta, tensors }: GgufModel, own: Own): Config {
  const original = meta.naturalOrNull(own('rope.scaling.original_context_length'));
  const divisors = (name: string): number[] | undefined => {
    const tensor = tensors.get(name);
    if (tensor === undefined) return undefined;
    const values = tensor.type.read(tensor.file.read(tensor.offset, tensor.bytes));
    return values.kind === 'float' ? [...values.data] : meta.fail(name, `is of type ${tensor.type.name}`);
  };
  const common = divisors(tensorNames.divisors);
  if (common !== undefined) return { rope_scaling: { rope_type: 'divisors', divisors: common } };
  const long = divisors(tensorNames.longDivisors);
  const short = divisors(tensorNames.shortDivisors);
  if (long !== undefined || short !== undefined) {
    const attention = meta.number(own('rope.scaling.attn_factor'), 1);
    const factors = { long_factor: long, short_factor: short, attention_factor: attention };
    return {
      original_max_position_embeddings: original,
      rope_scaling: { rope_type: 'longrope', ...factors },
    };
  }
  const type = meta.text(own('rope.scaling.type'), 'none');
  const factor = meta.number(own('rope.scaling.factor'), meta.number(own('rope.scale_linear'), 1));
  if (type === 'none' || (type === 'linear' && (factor === 0 || factor === 1))) {
    return factor > 1 ? { rope_scaling: { rope_type: 'linear', factor } } : {};
  }
  return {
    rope_scaling: {
      rope_type: type,
      factor,
      ...(original === null ? {} : { original_max_position_embeddings: original }),
    },
  };
}

function tokenIds(meta: GgufMeta): Config {
  const ids: Config = {};
  for (const kind of ['bos', 'eos'] as const) {
    const id = meta.naturalOrNull(`tokenizer.ggml.${kind}_token_id`);
    if (id !== null) ids[`${kind}_token_id`] = id;
  }
  return ids;
}

/** The decimal number that was meant by a float32. */
function shortened(value: number): number {
  return Number(value.toPrecision(7));
}
