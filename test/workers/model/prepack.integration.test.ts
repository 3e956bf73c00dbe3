// The packed form: every blob on a page boundary, refused when it computes something else; and a hook that is lost.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { CompiledModel } from '../../../workers/messages/models.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { readOnnx } from '../../../workers/model/onnx-reader.ts';
import { PAGE } from '../../../workers/model/onnx-writer.ts';
import { installHook } from '../../../workers/model/ort-binding.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { open, temporaryFolder } from './kit.ts';

type Files = { model: string; data: string };
const damage = vi.hoisted(() => ({ isOn: false }));
// What ONNX Runtime did to packed weights before they were aligned, made to happen: a packed file with other contents.
vi.mock('../../../workers/model/align.ts', async (original) => {
  const { alignModel } = await original<{ alignModel(from: Files, to: Files): number }>();
  return {
    alignModel(from: Files, to: Files): number {
      const bytes = alignModel(from, to);
      if (damage.isOn) {
        const data = fs.readFileSync(to.data);
        fs.writeFileSync(to.data, data.fill(1, data.length >> 1));
      }
      return bytes;
    },
  };
});

const root = temporaryFolder();
const tensors = tinyTensors(TINY_CONFIG, 12);
writeSafetensors(root, TINY_CONFIG, tensors, 'F32');
afterAll(() => fs.rmSync(root, { recursive: true }));

function compile(name: string): Promise<CompiledModel> {
  return compileModel({ model: root, cacheDir: `${root}/${name}`, maxContext: 64 });
}

function prompt(compiled: CompiledModel): { logits: Float32Array; misses: number } {
  const { model } = open(compiled, { numSlots: 1, maxLen: 32 });
  try {
    model.prefill(0, [1, 2, 3, 4, 5], 0, true);
    return { logits: model.decode(0, 1, [6], [5]).slice(), misses: model.hookMisses };
  } finally {
    model.dispose();
  }
}

describe('prepack', () => {
  it('puts every blob on a page boundary, packed ones included', async () => {
    const { decodePath } = await compile('aligned');
    const places = [...readOnnx(decodePath).tensors.values()].filter(({ place }) => place?.file.endsWith('.data'));
    expect(places.length).toBeGreaterThan(10);
    expect(places.filter(({ place }) => place!.offset % PAGE !== 0)).toEqual([]);
    const packed = [...fs.readFileSync(decodePath, 'latin1').matchAll(/\|(\d+);(\d+)/g)];
    expect(packed.length).toBeGreaterThanOrEqual(9);
    expect(packed.filter(([, offset]) => Number(offset) % PAGE !== 0)).toEqual([]);
  });

  it('is given up with a warning when it computes something else, and the plain model serves', async () => {
    const expected = prompt(await compile('good'));
    const warnings = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    damage.isOn = true;
    const compiled = await compile('damaged');
    damage.isOn = false;
    expect(warnings).toHaveBeenCalledWith(expect.stringContaining('packed form'), 'TokenwireWarning');
    warnings.mockRestore();
    expect(prompt(compiled)).toEqual(expected);
    let isBuilt = false;
    await compileModel({
      model: root,
      cacheDir: `${root}/damaged`,
      maxContext: 64,
      onProgress: () => (isBuilt = true),
    });
    expect(isBuilt).toBe(false);
  });
});

describe('the no-copy hook', () => {
  it('works in this thread', () => {
    expect(installHook()).toEqual({ noCopy: true, reason: '' });
  });

  // Last in this file: nothing restores the hook of a thread.
  it('may be lost later on: results stay right and the misses are counted', async () => {
    const compiled = await compile('good');
    const expected = prompt(compiled);
    const require = createRequire(import.meta.url);
    const { binding } = require('onnxruntime-node/dist/binding.js') as {
      binding: { initOrtOnce(level: number, tensor: unknown, isMain: boolean): void };
    };
    binding.initOrtOnce(4, (require('onnxruntime-common') as { Tensor: unknown }).Tensor, true);
    expect(prompt(compiled)).toEqual({ logits: expected.logits, misses: 2 });
  });
});
