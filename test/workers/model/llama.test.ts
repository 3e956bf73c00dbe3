// config.json of Llama models: what is read, what is assumed, what is refused.
import { describe, expect, it } from 'vitest';
import { llamaSpec } from '../../../workers/model/specs/llama.ts';
import { numParameters } from '../../../workers/model/specs/spec.ts';
import { TINY_CONFIG } from './checkpoint.ts';

function read(changes: Record<string, unknown>): () => ReturnType<typeof llamaSpec> {
  return () => llamaSpec({ ...TINY_CONFIG, ...changes }, 'config.json');
}

describe('llamaSpec', () => {
  it('fills what older configs leave out', () => {
    const spec = read({ num_key_value_heads: undefined, head_dim: undefined, rope_theta: undefined })();
    expect(spec).toMatchObject({ numKvHeads: 4, headDim: 16, ropeTheta: 10_000, tiedEmbeddings: false });
    expect(read({ rope_theta: undefined, rope_parameters: { rope_type: 'default', rope_theta: 5 } })().ropeTheta).toBe(
      5,
    );
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
    [{ attention_bias: true }, 'attention_bias is true'],
    [{ mlp_bias: true }, 'mlp_bias is true'],
    [{ rope_scaling: { rope_type: 'llama3' } }, 'rope_scaling is set'],
    [{ rope_parameters: { rope_type: 'yarn' } }, 'rope_parameters asks for "yarn"'],
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
