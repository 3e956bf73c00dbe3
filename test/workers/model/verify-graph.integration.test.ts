// Verifying graphs of tiny checkpoints in every storage form: what the compiler keeps is single steps to the bit.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { compileModel } from '../../../workers/model/compile.ts';
import { DataType, OnnxWriter } from '../../../workers/model/onnx-writer.ts';
import { verifyGraph } from '../../../workers/model/verify-graph.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { open, temporaryFolder } from './kit.ts';

const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

describe('verifyGraph', () => {
  it.each(['q8', 'q8 in rows', 'q4', 'f32'] as const)(
    'is kept for %s only where it gives single steps to the bit',
    async (stored) => {
      const directory = path.join(root, stored);
      fs.mkdirSync(directory);
      writeSafetensors(directory, TINY_CONFIG, tinyTensors(TINY_CONFIG, 5), 'F32');
      const cacheDir = path.join(directory, 'cache');
      const products = stored === 'q8 in rows' ? 'rows' : 'blocks';
      const quantization = stored === 'q8 in rows' ? 'q8' : stored;
      const compiled = await compileModel({ model: directory, cacheDir, maxContext: 64, quantization, products });
      console.log(`${stored}: ${compiled.verifyGraphs.map(({ numTokens }) => numTokens).join(', ') || 'none'} kept`);
      if (quantization === 'q8') expect(compiled.verifyGraphs.map(({ numTokens }) => numTokens)).toEqual([2, 4, 8]);
      const { model } = open(compiled, { numSlots: 2, maxLen: 64 }, { verify: true });
      for (const size of model.verifySizes) {
        const tokens = Array.from({ length: size }, (_, i) => 3 + 7 * i);
        for (const slot of [0, 1]) model.prefill(slot, [4, 5, 6, 7, 8], 0, false);
        const singles = tokens.flatMap((token, i) => [...model.decode(0, 1, [token], [5 + i])]);
        expect([...model.verify(1, tokens, 5)]).toEqual(singles);
      }
      model.dispose();
    },
  );

  it('refuses what is no decode graph', () => {
    expect(() => verifyGraph(new Uint8Array(0), 2)).toThrow('0 graphs');
    expect(() => verifyGraph(Uint8Array.of(0x3a, 0xff), 2)).toThrow();
    const writer = new OnnxWriter(null);
    writer.input('qkv', DataType.float32, [1, 1, 48]);
    writer.node('GroupQueryAttention', ['qkv', '', '', 'k', 'v', 'other', 'total_len'], ['out', 'pk', 'pv'], {});
    expect(() => verifyGraph(writer.finish(), 2)).toThrow('attention node of unknown form');
  });
});
