// Every family on a tiny seeded checkpoint: the float reference's logits, and the identities that serving relies on.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import { compileModel, type CompileOptions } from '../../../workers/model/compile.ts';
import { seededRandom, tinyTensors, writeOnnxDirectory, writeSafetensors, type OnnxKind } from './checkpoint.ts';
import { families, tinyConfig } from './families.ts';
import { copyPrefix, open, temporaryFolder, worstError } from './kit.ts';

const SEED = 20261122;
const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

function checkpoint(family: string, changes: Record<string, unknown> = {}): string {
  const directory = fs.mkdtempSync(path.join(root, 'm-'));
  const config = { ...tinyConfig(family), ...changes };
  writeSafetensors(directory, config, tinyTensors(config, SEED), 'F32');
  return directory;
}

function compile(model: string, options: Partial<CompileOptions> = {}): Promise<CompiledModel> {
  return compileModel({ model, cacheDir: path.join(model, 'cache'), maxContext: 64, ...options });
}

// Shares of the logits' spread: float32 rounding; 8-bit weights and activations; 8-bit KV memory too.
const TOLERANCE = { f32: 2e-5, q8: 0.06, kv: 0.12 };

const ids = (count: number, seed: number): number[] => {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => Math.floor(random() * 320));
};

const longrope = {
  type: 'longrope',
  long_factor: [1, 1.2, 1.5, 2, 3, 4, 6, 9],
  short_factor: [1, 1, 1.1, 1.1, 1.2, 1.2, 1.3, 1.3],
};

/** What the published files of these families leave unused. */
const variants: [string, Record<string, unknown>][] = [
  ['llama 3', { attention_bias: true, rope_scaling: { type: 'linear', factor: 4 } }],
  ['qwen 2.5', { use_sliding_window: true, sliding_window: 6, max_window_layers: 1 }],
  ['phi 3', { hidden_size: 128, partial_rotary_factor: 0.5 }],
  // Served are 64 tokens: beyond what the model first saw, and within it.
  ['phi 3', { original_max_position_embeddings: 32, rope_scaling: longrope }],
  ['phi 3', { original_max_position_embeddings: 96, rope_scaling: longrope }],
  ['qwen 3', { rope_theta: 100, rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 256 } }],
  ['llama 3', { rope_scaling: { rope_type: 'divisors', divisors: [1, 1, 1.5, 2, 3, 5, 8, 8] } }],
  ['gemma 3', { attention_bias: true, final_logit_softcapping: 3, tie_word_embeddings: false }],
];

describe.each([...Object.keys(families).map((name) => [name, {}] as const), ...variants])(
  'a tiny %s, %o',
  (family, changes) => {
    const directory = checkpoint(family, changes);

    it('gives the float reference’s logits, in float32 and in 8 bits', async () => {
      const float = worstError(await compile(directory, { quantization: 'f32' }), directory);
      const small = worstError(await compile(directory), directory);
      console.log(`${family}, seed ${SEED}: f32 ${float.toExponential(2)}, q8 ${small.toExponential(2)}`);
      expect(float).toBeLessThan(TOLERANCE.f32);
      expect(small).toBeLessThan(TOLERANCE.q8);
    });

    it.each(['float32', 'int8'] as const)(
      'keeps rows, chunks, copied beginnings and runs of guesses identical with %s KV memory',
      async (type) => {
        const compiled = await compile(directory, { kv: { type, memoryBytes: 0 } });
        expect(worstError(compiled, directory)).toBeLessThan(type === 'int8' ? TOLERANCE.kv : TOLERANCE.q8);
        expect(compiled.verifyGraphs.map(({ numTokens }) => numTokens)).toEqual([2, 4, 8]);
        const opened = open(compiled, { numSlots: 4, maxLen: 64 });
        const { model } = opened;
        const prompts = [ids(5, 1), ids(30, 2), ids(17, 3)];
        const alone = prompts.map((prompt, slot) => {
          model.prefill(slot, prompt, 0, false);
          return ids(12, 50 + slot).map((id, i) => [...model.decode(slot, 1, [id], [prompt.length + i])]);
        });
        for (const [slot, prompt] of prompts.entries()) {
          for (let past = 0; past < prompt.length; past += 5) {
            const chunk = prompt.slice(past, past + 5);
            // A single token takes another path through the kernels.
            model.prefill(
              slot,
              chunk.length === 1 ? prompt.slice(past - 1) : chunk,
              chunk.length === 1 ? past - 1 : past,
              false,
            );
          }
        }
        for (let i = 0; i < 12; i++) {
          const tokens = prompts.map((_, slot) => ids(12, 50 + slot)[i]!);
          const past = prompts.map((prompt) => prompt.length + i);
          const rows = model.decode(0, 3, tokens, past);
          for (const slot of [0, 1, 2])
            expect([...rows.subarray(slot * 320, (slot + 1) * 320)]).toEqual(alone[slot]![i]);
        }
        // A fork: the beginning of a conversation that went on, copied to where another one goes on from there.
        const [shared, tail] = [prompts[1]!.slice(0, 18), ids(9, 77)];
        copyPrefix(opened, compiled, 1, 3, shared.length);
        model.prefill(3, tail, shared.length, false);
        model.prefill(2, [...shared, ...tail], 0, false);
        for (const [i, id] of ids(6, 78).entries()) {
          const past = shared.length + tail.length + i;
          const fresh = [...model.decode(2, 1, [id], [past])];
          expect([...model.decode(3, 1, [id], [past])]).toEqual(fresh);
        }
        model.dispose();
      },
    );
  },
);

describe('a transformers.js directory', () => {
  const kinds: [string, OnnxKind, 'f32' | 'q4', number][] = [
    ['qwen 2.5', 'float', 'f32', TOLERANCE.f32],
    ['qwen 3', 'float', 'f32', TOLERANCE.f32],
    ['phi 3', 'float', 'f32', TOLERANCE.f32],
    // Carried over unchanged, 4-bit weights are exact: only 8-bit activations are left to differ.
    ['phi 3', 'blocks4', 'q4', TOLERANCE.q8],
    ['mistral', 'blocks4', 'q4', TOLERANCE.q8],
  ];
  it.each(kinds)(
    'of a tiny %s with %s weights gives the reference’s logits as %s',
    async (family, kind, quantization, most) => {
      const directory = fs.mkdtempSync(path.join(root, 'o-'));
      writeOnnxDirectory(directory, tinyConfig(family), tinyTensors(tinyConfig(family), SEED), kind);
      expect(worstError(await compile(directory, { quantization }), directory)).toBeLessThan(most);
    },
  );

  it('of a Gemma is refused: its norms may or may not have their one already', async () => {
    const directory = fs.mkdtempSync(path.join(root, 'o-'));
    writeOnnxDirectory(directory, tinyConfig('gemma 2'), tinyTensors(tinyConfig('gemma 2'), SEED), 'float');
    await expect(compile(directory)).rejects.toThrow('norm weights around zero cannot be read; use safetensors');
  });

  it('or a checkpoint without the biases or stacked matrices of its family is refused by the tensor’s name', async () => {
    for (const [family, missing, reported] of [
      ['qwen 2.5', 'model.layers.1.self_attn.k_proj.bias', 'model.layers.1.self_attn.k_proj.bias'],
      ['phi 3', 'model.layers.2.mlp.gate_up_proj.weight', 'model.layers.2.mlp.gate_up_proj.weight'],
      ['qwen 3', 'model.layers.0.self_attn.q_norm.weight', 'model.layers.0.self_attn.q_norm.weight'],
    ] as const) {
      const directory = fs.mkdtempSync(path.join(root, 'b-'));
      const tensors = tinyTensors(tinyConfig(family), SEED);
      expect(tensors.delete(missing)).toBe(true);
      writeSafetensors(directory, tinyConfig(family), tensors, 'F32');
      await expect(compile(directory)).rejects.toThrow(reported);
    }
  });
});
