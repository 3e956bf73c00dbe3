// GGUF models from the file to logits: every family as the same weights in safetensors form give them, every block form
// against the float reference, and text in and out.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { changes, scaled, writeTokenizer } from '../../../../bench/families.ts';
import { exportGguf } from '../../../../bench/peers/gguf-export.ts';
import type { CompiledModel } from '../../../../workers/messages/models.ts';
import { compileModel, type CompileOptions } from '../../../../workers/model/compile.ts';
import { TextModel } from '../../../../workers/text/text-model.ts';
import { chat } from '../../text/support.ts';
import { seededRandom, tinyTensors, writeSafetensors } from '../checkpoint.ts';
import { families, tinyConfig } from '../families.ts';
import { open, temporaryFolder, worstError } from '../kit.ts';
import { blockTypes, ggufBytes, randomBlocks, typed, type Meta, type RawTensor } from './write.ts';

const SEED = 20261122;
const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

function compile(model: string, options: Partial<CompileOptions> = {}): Promise<CompiledModel> {
  return compileModel({ model, cacheDir: path.join(root, 'cache'), maxContext: 64, quantization: 'f32', ...options });
}

function logits(compiled: CompiledModel): number[][] {
  const { model } = open(compiled, { numSlots: 1, maxLen: 64 });
  const random = seededRandom(SEED);
  const rows = Array.from({ length: 40 }, (_, past) => [...model.decode(0, 1, [Math.floor(random() * 300)], [past])]);
  model.dispose();
  return rows;
}

/** Gemma's norms are stored around one there, and some scalings as float32: their last bit may be another. */
const isRounded = (family: string): boolean => /^(gemma|llama 3)|longrope/.test(family);

describe('A GGUF file', () => {
  const cases = [...Object.keys(families), ...Object.keys(scaled)];
  it.each(cases)('gives the logits of the same %s checkpoint in safetensors', async (family) => {
    const directory = fs.mkdtempSync(path.join(root, 'm-'));
    const [base, more] = scaled[family] ?? [family, {}];
    const config = { ...tinyConfig(base), ...changes[base], ...more };
    writeSafetensors(directory, config, tinyTensors(config, SEED), 'F32');
    writeTokenizer(directory, Number(config['vocab_size']));
    const file = path.join(directory, 'Tiny Model.F32.gguf');
    exportGguf(directory, file, 'f32');
    // Longer than what the scaled ones first saw.
    const fromGguf = await compile(file, { maxContext: 128 });
    expect(fromGguf.id).toBe('tiny-model.f32');
    expect(fromGguf.origin).toBe(`GGUF file ${file}`);
    const [found, expected] = [logits(fromGguf), logits(await compile(directory, { maxContext: 128 }))];
    if (!isRounded(family)) expect(found).toEqual(expected);
    const spread = Math.max(...expected.flat()) - Math.min(...expected.flat());
    const worst = found.flatMap((row, r) => row.map((value, i) => Math.abs(value - expected[r]![i]!) / spread));
    expect(Math.max(...worst)).toBeLessThan(1e-5);
  });

  const [hidden, wide, vocab] = [256, 512, 264];
  const tokens = Array.from({ length: vocab }, (_, id) =>
    id < 3
      ? ['<unk>', '<s>', '</s>'][id]!
      : id < 259
        ? `<0x${(id - 3).toString(16).padStart(2, '0').toUpperCase()}>`
        : '',
  );
  tokens.splice(259, 5, '\u2581', 'a', 'b', '\u2581a', 'ab');
  const kinds = tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1));
  const meta: Meta = {
    'general.architecture': 'llama',
    'llama.embedding_length': hidden,
    'llama.feed_forward_length': wide,
    'llama.block_count': 2,
    'llama.context_length': 128,
    'llama.attention.head_count': 8,
    'llama.attention.head_count_kv': 4,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.scores': tokens.map((_, id) => (id < 259 ? 0 : 258 - id)),
    'tokenizer.ggml.token_type': kinds,
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.chat_template': '{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}',
  };

  /** Matrices of one block type with entries of about 1/sqrt(columns), norms around one. */
  function model(type: number, scale: number): RawTensor[] {
    let seed = SEED + type;
    const block = blockTypes.find(([id]) => id === type)![1];
    const matrix = (name: string, rows: number, cols: number): RawTensor => {
      const numBlocks = (rows * cols) / block.blockValues;
      return { name: `${name}.weight`, dims: [rows, cols], type, bytes: randomBlocks(type, numBlocks, seed++, scale) };
    };
    const random = seededRandom(SEED);
    const norm = (name: string): RawTensor => {
      const values = Float32Array.from({ length: hidden }, () => 0.5 + random());
      return { name: `${name}.weight`, dims: [hidden], type: 0, bytes: new Uint8Array(values.buffer) };
    };
    const layers = [0, 1].flatMap((l) => [
      norm(`blk.${l}.attn_norm`),
      norm(`blk.${l}.ffn_norm`),
      matrix(`blk.${l}.attn_q`, hidden, hidden),
      matrix(`blk.${l}.attn_k`, hidden / 2, hidden),
      matrix(`blk.${l}.attn_v`, hidden / 2, hidden),
      matrix(`blk.${l}.attn_output`, hidden, hidden),
      matrix(`blk.${l}.ffn_gate`, wide, hidden),
      matrix(`blk.${l}.ffn_up`, wide, hidden),
      matrix(`blk.${l}.ffn_down`, hidden, wide),
    ]);
    return [matrix('token_embd', vocab, hidden), norm('output_norm'), ...layers];
  }

  /** Makes the root mean square of random blocks about a sixteenth, one over the square root of their columns. */
  const scales: Record<string, number> = {
    Q4_0: 0.01,
    Q4_1: 0.004,
    Q5_0: 0.005,
    Q5_1: 0.003,
    Q8_0: 6e-4,
    Q2_K: 0.003,
    Q3_K: 0.001,
    Q4_K: 1e-4,
    Q5_K: 1e-4,
    Q6_K: 2e-5,
    IQ2_XXS: 4e-4,
    IQ4_NL: 7e-4,
    IQ4_XS: 4e-5,
  };

  it.each(blockTypes)(
    '%i of blocks: float32 and 8 bits of it agree with the float reference',
    async (type, { name }) => {
      const file = path.join(root, `${name}.gguf`);
      fs.writeFileSync(file, ggufBytes(meta, model(type, scales[name]!)));
      const float = await compile(file);
      expect(worstError(float, float.textDir)).toBeLessThan(2e-5);
      const small = await compile(file, { quantization: 'q8' });
      expect(worstError(small, small.textDir)).toBeLessThan(0.06);
    },
  );

  it('has the tokenizer, template and ends of its metadata', async () => {
    const file = path.join(root, 'text.gguf');
    fs.writeFileSync(file, ggufBytes(meta, model(8, 1e-3)));
    const compiled = await compile(file);
    expect(compiled.eosTokenIds).toEqual([2]);
    const text = TextModel.load(compiled.textDir);
    expect(text.encode('ab a é')).toEqual([262, 261, 262, 259, 3 + 0xc3, 3 + 0xa9].map((id) => id));
    const prompt = text.encodePrompt(chat([{ role: 'user', content: 'a</s>' }]), 64).tokenIds;
    // The begin token is not in the template, and the file's reader adds it by default; the caller's </s> stays text.
    expect([...prompt].slice(0, 2)).toEqual([1, 262]);
    expect([...prompt].filter((id) => id === 2)).toHaveLength(1);
    expect(text.decode([262, 263, 3 + 0xc3, 3 + 0xa9])).toBe(' aabé');
  });

  const without = (key: string): Meta => Object.fromEntries(Object.entries(meta).filter(([name]) => name !== key));
  const good = model(8, 1e-3);
  it.each<[what: string, meta: Meta, tensors: RawTensor[], why: string]>([
    [
      'an unknown architecture',
      { ...meta, 'general.architecture': 'rwkv' },
      good,
      'general.architecture is "rwkv"; supported: llama, qwen2',
    ],
    ['no architecture', without('general.architecture'), good, 'general.architecture is missing; a text is needed'],
    ['no sizes', without('llama.embedding_length'), good, 'llama.embedding_length is missing'],
    [
      'a mixture of experts',
      { ...meta, 'llama.expert_count': 8 },
      good,
      'llama.expert_count is 8, which is not supported',
    ],
    [
      'heads that differ',
      { ...meta, 'llama.attention.head_count_kv': [4.5, 2.5] },
      good,
      'differs from layer to layer',
    ],
    ['values unlike keys', { ...meta, 'llama.attention.value_length': 64 }, good, 'value_length is 64, keys have 32'],
    ['an unknown scaling', { ...meta, 'llama.rope.scaling.type': 'new' }, good, 'rope_scaling asks for "new"'],
    [
      'a tensor too many',
      meta,
      [...good, { ...good[1]!, name: 'blk.0.ffn_gate_inp.weight' }],
      'tensor blk.0.ffn_gate_inp.weight is no part of llama',
    ],
    ['a tensor too few', meta, good.slice(0, -1), 'tensor blk.1.ffn_down.weight is missing'],
    [
      'a tensor of another shape',
      meta,
      good.map((t) => (t.name === 'output_norm.weight' ? { ...t, dims: [128], bytes: t.bytes.subarray(0, 512) } : t)),
      'output_norm.weight has shape [128], but config.json asks for [256]',
    ],
    ['no embedding', meta, good.slice(1), 'token_embd.weight is missing'],
    [
      'another tokenizer',
      { ...meta, 'tokenizer.ggml.model': 't5' },
      good,
      'tokenizer.ggml.model is "t5"; "gpt2" and "llama"',
    ],
    ['no scores', without('tokenizer.ggml.scores'), good, 'tokenizer.ggml.scores has 0 entries for 264 tokens'],
    ['too few kinds', { ...meta, 'tokenizer.ggml.token_type': [1.5] }, good, 'token_type has 1 entries for 264'],
    [
      'an end beyond the tokens',
      { ...meta, 'tokenizer.ggml.eos_token_id': 264 },
      good,
      'eos_token_id is 264, but there are 264',
    ],
    [
      'an unknown cut',
      { ...meta, 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'new' },
      good,
      'tokenizer.ggml.pre is "new"; supported: gpt-2',
    ],
    [
      'no pairs',
      { ...meta, 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'qwen2' },
      good,
      'tokenizer.ggml.merges is missing',
    ],
    [
      'a pair of one',
      {
        ...meta,
        'tokenizer.ggml.model': 'gpt2',
        'tokenizer.ggml.pre': 'qwen2',
        'tokenizer.ggml.merges': ['a b', 'ab'],
      },
      good,
      'merges has "ab", which is no pair',
    ],
    [
      'a number where text is',
      { ...meta, 'tokenizer.chat_template': 7 },
      good,
      'tokenizer.chat_template is 7; a text is needed',
    ],
    ['no fitting sizes', { ...meta, 'llama.attention.head_count': 3 }, good, 'head_dim is 85.33'],
    ['a base of zero', { ...meta, 'llama.rope.freq_base': typed.f32(0) }, good, 'rope_theta is 0; a positive number'],
  ])('is refused with %s, by name', async (what, entries, tensors, why) => {
    const file = path.join(root, `${what.replaceAll(' ', '-')}.gguf`);
    fs.writeFileSync(file, ggufBytes(entries, tensors));
    await expect(compile(file)).rejects.toThrow(why);
  });
});
