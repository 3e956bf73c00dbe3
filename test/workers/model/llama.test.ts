// config.json of Llama models: what is read, what is assumed, what is refused.
import { describe, expect, it } from 'vitest';
import { llamaSpec } from '../../../workers/model/specs/llama.ts';
import { numParameters } from '../../../workers/model/specs/spec.ts';
import { TINY_CONFIG } from './checkpoint.ts';

function read(changes: Record<string, unknown>): () => ReturnType<typeof llamaSpec> {
  return () => llamaSpec({ ...TINY_CONFIG, ...changes }, 'config.json');
}

const LLAMA3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};

describe('llamaSpec', () => {
  it('fills what older configs leave out', () => {
    const spec = read({ num_key_value_heads: undefined, head_dim: undefined, rope_theta: undefined })();
    expect(spec).toMatchObject({ numKvHeads: 4, headDim: 16, tiedEmbeddings: false });
    expect(spec.layers[0]).toEqual({ window: null, rope: { theta: 10_000, scaling: null } });
    const newer = read({ rope_theta: undefined, rope_parameters: { rope_type: 'default', rope_theta: 5 } })();
    expect(newer.layers[1]!.rope).toEqual({ theta: 5, scaling: null });
  });

  it('counts parameters', () => {
    const mini = read({
      hidden_size: 512,
      intermediate_size: 1408,
      num_hidden_layers: 8,
      num_attention_heads: 8,
      num_key_value_heads: 2,
      head_dim: 64,
      vocab_size: 6400,
      tie_word_embeddings: true,
    });
    expect(numParameters(mini())).toBe(25_829_888);
  });

  const refused: [Record<string, unknown>, string][] = [
    [{ model_type: 'mistral' }, 'model_type is "mistral"'],
    [{ model_type: undefined }, 'model_type is null'],
    [{ hidden_act: 'gelu' }, 'hidden_act is "gelu"'],
    [{ attention_bias: 1 }, 'attention_bias is 1; true or false'],
    [{ mlp_bias: true }, 'mlp_bias is true'],
    [{ rope_scaling: { rope_type: 'dynamic', factor: 4 } }, 'rope_scaling asks for "dynamic"'],
    [{ rope_scaling: { factor: 4 } }, 'rope_scaling asks for undefined'],
    [{ rope_scaling: 4 }, 'rope_scaling is not an object'],
    [{ rope_scaling: { type: 'linear', factor: 0 } }, 'rope_scaling: factor is 0'],
    [{ rope_scaling: { ...LLAMA3, high_freq_factor: 1 } }, 'rope_scaling: high_freq_factor is not above'],
    [{ rope_scaling: { ...LLAMA3, original_max_position_embeddings: null } }, 'rope_scaling: original_max_position'],
    [{ rope_parameters: { rope_type: 'dynamic' } }, 'rope_parameters asks for "dynamic"'],
    [{ hidden_size: 0 }, 'hidden_size is 0'],
    [{ hidden_size: '64' }, 'hidden_size is "64"'],
    [{ hidden_size: 72 }, 'hidden_size is not a multiple of 32'],
    [{ num_hidden_layers: 1e9 }, 'num_hidden_layers is 1000000000'],
    [{ num_hidden_layers: undefined }, 'num_hidden_layers is undefined'],
    [{ head_dim: undefined, num_attention_heads: 3, num_key_value_heads: 1 }, 'head_dim is 21.3'],
    [{ head_dim: 8 }, 'head_dim is 8; a multiple of 16'],
    [{ num_key_value_heads: 3 }, 'num_key_value_heads does not divide'],
    [{ rms_norm_eps: 0 }, 'rms_norm_eps is 0'],
    [{ rope_theta: -1 }, 'rope_theta is -1'],
    [{ vocab_size: 1.5 }, 'vocab_size is 1.5'],
  ];
  it.each(refused)('refuses %o', (changes, message) => {
    expect(read(changes)).toThrow(`config.json: ${message}`);
  });
});
