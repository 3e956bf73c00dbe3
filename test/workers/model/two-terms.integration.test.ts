// Products in rows of two terms: one graph's weights for steps, prefill and verification, nearer to the float reference
// than blocks, the same bits however tokens are divided, and blocks where the two differ.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { KvType, ProductChoice } from '../../../workers/messages/models.ts';
import type { divergence } from '../../../workers/model/agreement.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { hasTiles } from '../../../workers/model/processor.ts';
import { boundOfNorm, boundOfProduct } from '../../../workers/model/two-terms.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { open, temporaryFolder, worstError } from './kit.ts';

const gate = vi.hoisted(() => ({ says: null as number | null }));
vi.mock('../../../workers/model/agreement.ts', async (original) => {
  const real = await original<{ divergence: typeof divergence }>();
  return { divergence: (...args: Parameters<typeof divergence>) => gate.says ?? real.divergence(...args) };
});

const root = temporaryFolder();
writeSafetensors(root, TINY_CONFIG, tinyTensors(TINY_CONFIG, 31), 'F32');
afterAll(() => fs.rmSync(root, { recursive: true }));

const compile = (products: ProductChoice, options: { name?: string; kvType?: KvType; quantization?: 'q4' } = {}) => {
  const { name = 'cache', kvType = 'float32', quantization = 'q8' } = options;
  const kv = { type: kvType, memoryBytes: 0 };
  return compileModel({ model: root, cacheDir: path.join(root, name), maxContext: 64, quantization, kv, products });
};

const filesOf = (decodePath: string): string[] => fs.readdirSync(path.dirname(decodePath));

describe.each(['float32', 'int8'] as const)('products in rows over %s KV memory', (kvType) => {
  it('have one file of weights for all graphs, and are nearer to the float reference than blocks', async () => {
    const rows = await compile('rows', { kvType });
    expect(path.basename(rows.decodePath)).toBe('rows.onnx');
    expect(rows.prefillPath).not.toBe(rows.decodePath);
    expect(rows.verifyGraphs.map(({ numTokens }) => numTokens)).toEqual([2, 4, 8]);
    expect(filesOf(rows.decodePath).filter((file) => file.endsWith('.data'))).toEqual(['rows.onnx.data']);
    expect(rows.quantization).toBe('8-bit, a scale per channel');
    const errors = [rows, await compile('blocks', { kvType })].map((compiled) => worstError(compiled, root));
    console.log(`${kvType}: rows ${errors[0]!.toExponential(2)}, blocks ${errors[1]!.toExponential(2)} of the spread`);
    expect(errors[0]).toBeLessThan(kvType === 'float32' ? 0.02 : 0.1);
  });

  it('give a row the same bits alone, in a batch, in chunks of any length and on two threads', async () => {
    const compiled = await compile('rows', { kvType });
    const { model } = open(compiled, { numSlots: 6, maxLen: 64 }, { threadsAlone: 2, decodeAlone: true, verify: true });
    const { vocabSize } = compiled.shape;
    const ids = Array.from({ length: 48 }, (_, i) => (i * 31 + 7) % vocabSize);
    const whole = model.prefill(0, ids, 0, true)!.slice();
    for (const chunk of [1, 2, 3, 5, 16, 46]) {
      for (let at = 0; at < ids.length; at += chunk) {
        const last = model.prefill(1, ids.slice(at, at + chunk), at, at + chunk >= ids.length, chunk % 2 === 0);
        if (last !== undefined) expect(last).toEqual(whole);
      }
    }
    const past = [3, 9, 20, 33, 47, 48];
    for (const [slot, length] of past.entries()) model.prefill(slot, ids.slice(0, length), 0, false);
    const tokens = [5, 6, 7, 8, 9, 10];
    for (const isAlone of [false, true]) {
      const batch = model.decode(0, 6, tokens, past, isAlone).slice();
      for (const [slot, token] of tokens.entries()) {
        const alone = model.decode(slot, 1, [token], [past[slot]!]);
        expect(alone).toEqual(batch.subarray(slot * vocabSize, (slot + 1) * vocabSize));
      }
      for (const size of model.verifySizes) {
        const run = Array.from({ length: size }, (_, i) => 3 + 7 * i);
        const singles = run.flatMap((token, i) => [...model.decode(0, 1, [token], [3 + i])]);
        expect([...model.verify(0, run, 3, isAlone)]).toEqual(singles);
      }
    }
    expect(model.hookMisses).toBe(0);
    model.dispose();
  });
});

describe('products in rows', () => {
  it.each([0.5, NaN])('give way to blocks where the divergence is %d, and leave nothing behind', async (says) => {
    gate.says = says;
    const compiled = await compile('rows', { name: `refused-${says}` });
    gate.says = null;
    expect(path.basename(compiled.decodePath)).toBe('model.onnx');
    expect(filesOf(compiled.decodePath).filter((file) => file.startsWith('rows'))).toEqual([]);
    expect(compiled.quantization).toContain('block');
  });

  it('are for models in 8 bits only', async () => {
    const { decodePath } = await compile('rows', { quantization: 'q4' });
    expect(path.basename(decodePath)).toBe('model.onnx');
  });

  it('are chosen by themselves where the processor multiplies in tiles', async () => {
    const [auto, chosen] = [await compile('auto'), await compile(hasTiles() ? 'rows' : 'blocks')];
    expect(auto.decodePath).toBe(chosen.decodePath);
    expect([hasTiles('sse4_2 avx2 amx_int8 amx_tile'), hasTiles('avx512_vnni'), hasTiles('')]).toEqual([
      true,
      false,
      false,
    ]);
  });
});

describe('bounds', () => {
  it('are reached by the worst row there is and never passed', () => {
    const weights = Float32Array.of(0.5, -2, 1, 0);
    expect(boundOfNorm(weights)).toBe(4);
    // A row of length 2, which is what norming over four channels leaves, all along the matrix's row.
    expect(boundOfProduct(Float32Array.of(0, 0, 0, 5, 3, 1, 0, 0), weights)).toBeCloseTo(2 * Math.hypot(1.5, 2), 5);
  });
});
