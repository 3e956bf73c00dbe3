// Graphs of large vocabularies hand out the likeliest tokens of each row beside the logits.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { compileModel } from '../../../workers/model/compile.ts';
import type { TopRows } from '../../../workers/sampling/top-rows.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { open, temporaryFolder } from './kit.ts';

const SEED = 47;
const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

function compile(vocabSize: number) {
  const directory = path.join(root, String(vocabSize));
  fs.mkdirSync(directory);
  const config = { ...TINY_CONFIG, vocab_size: vocabSize };
  const tensors = tinyTensors(config, SEED);
  // Every head row ten times or more, so that there are ties, also at the border of what is selected.
  const { data } = tensors.get('lm_head.weight')!;
  const distinct = 3000 * config.hidden_size;
  for (let i = distinct; i < data.length; i++) data[i] = data[i % distinct]!;
  writeSafetensors(directory, config, tensors, 'F32');
  return compileModel({ model: directory, cacheDir: path.join(directory, 'cache'), maxContext: 64 });
}

/** By sorting: largest first, the lower id first among equals. */
function expectTop(top: TopRows, row: number, logits: Float32Array): void {
  const best = Array.from(logits, (value, id) => ({ value, id })).sort((a, b) => b.value - a.value || a.id - b.id);
  const place = (values: Float32Array | Int32Array) =>
    Array.from(values.subarray(row * top.size, (row + 1) * top.size));
  expect(place(top.values)).toEqual(best.slice(0, top.size).map(({ value }) => value));
  expect(place(top.ids)).toEqual(best.slice(0, top.size).map(({ id }) => id));
}

describe('a large vocabulary', () => {
  it.each([false, true])(
    `has its likeliest tokens selected by the graph (outputs copied: %s, seed ${SEED})`,
    async (forceCopy) => {
      const compiled = await compile(forceCopy ? 32_000 : 40_000);
      const { vocabSize } = compiled.shape;
      const { model } = open(compiled, { numSlots: 5, maxLen: 64 }, { forceCopy });
      for (let slot = 0; slot < 5; slot++) {
        const ids = [slot, 3 * slot + 1, 17, 30_000 + slot];
        expect(model.prefill(slot, ids.slice(0, 2), 0, false)).toBeUndefined();
        const logits = model.prefill(slot, ids.slice(2), 2, true)!;
        expectTop(model.top!, 0, logits);
      }
      for (const [first, n] of [
        [0, 5],
        [1, 2],
        [3, 1],
      ] as const) {
        const tokens = Array.from({ length: n }, (_, i) => 100 * (first + i));
        const logits = model.decode(
          first,
          n,
          tokens,
          Array.from({ length: n }, () => 4),
        );
        for (let row = 0; row < n; row++) {
          expectTop(model.top!, row, logits.subarray(row * vocabSize, (row + 1) * vocabSize));
        }
      }
      model.dispose();
    },
  );

  it('is not what a vocabulary of 31,999 is', async () => {
    const { model } = open(await compile(31_999), { numSlots: 1, maxLen: 64 });
    model.prefill(0, [1, 2], 0, true);
    expect(model.top).toBeNull();
    model.dispose();
  });
});
