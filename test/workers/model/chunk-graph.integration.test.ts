// The prefill graph: kept where it agrees with the decode graph, left out where it does not or was not asked for, and
// weights packed per channel.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { divergence } from '../../../workers/model/agreement.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { packColumns } from '../../../workers/model/row-int8.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { open, temporaryFolder } from './kit.ts';

const gate = vi.hoisted(() => ({ says: null as number | null }));
vi.mock('../../../workers/model/agreement.ts', async (original) => {
  const real = await original<{ divergence: typeof divergence }>();
  return { divergence: (...args: Parameters<typeof divergence>) => gate.says ?? real.divergence(...args) };
});

const root = temporaryFolder();
writeSafetensors(root, TINY_CONFIG, tinyTensors(TINY_CONFIG, 31), 'F32');
afterAll(() => fs.rmSync(root, { recursive: true }));

const compile = (name: string, quantization: 'q8' | 'q4' | 'f32' = 'q8') =>
  compileModel({ model: root, cacheDir: path.join(root, name), maxContext: 64, quantization, products: 'blocks' });

describe('the prefill graph', () => {
  it('is another file than the decode graph, agrees with it, and chunks of any length give the same bits', async () => {
    const compiled = await compile('kept');
    expect(compiled.prefillPath).not.toBe(compiled.decodePath);
    const { shape } = compiled;
    const [steps, chunks] = [compiled.decodePath, compiled.prefillPath].map((file) => ({ file, shape }));
    const found = divergence(steps!, chunks!, 1);
    expect(found).toBeGreaterThan(0);
    expect(found).toBeLessThan(0.012);
    expect(divergence(steps!, steps!, 1)).toBe(0);
    const { model } = open(compiled, { numSlots: 2, maxLen: 64 });
    const ids = Array.from({ length: 48 }, (_, i) => (i * 31 + 7) % compiled.shape.vocabSize);
    const whole = model.prefill(0, ids, 0, true)!.slice();
    for (const chunk of [2, 3, 5, 16, 46]) {
      let last: Float32Array | undefined;
      for (let at = 0; at < ids.length; at += chunk) last = model.prefill(1, ids.slice(at, at + chunk), at, true);
      expect(last).toEqual(whole);
    }
    model.dispose();
  });

  it.each([0.5, NaN])('is left out where the divergence is %d, and the cache remembers', async (says) => {
    gate.says = says;
    const compiled = await compile(`refused-${says}`);
    gate.says = null;
    expect(compiled.prefillPath).toBe(compiled.decodePath);
    const files = fs.readdirSync(path.dirname(compiled.decodePath));
    expect(files.filter((file) => file.startsWith('prefill'))).toEqual([]);
    expect((await compile(`refused-${says}`)).prefillPath).toBe(compiled.decodePath);
  });

  it('is not built for f32', async () => {
    const compiled = await compile('other', 'f32');
    expect(compiled.prefillPath).toBe(compiled.decodePath);
  });

  it('has the weights of the decode graph in 4 bits, so that only activations divide the two', async () => {
    const compiled = await compile('four', 'q4');
    expect(compiled.prefillPath).not.toBe(compiled.decodePath);
    const { shape } = compiled;
    const [steps, chunks] = [compiled.decodePath, compiled.prefillPath].map((file) => ({ file, shape }));
    const found = divergence(steps!, chunks!, 1);
    expect(found).toBeLessThan(0.01);
    const exact = await compile('kept');
    expect(divergence(steps!, { file: exact.prefillPath, shape }, 1)).toBeGreaterThan(3 * found);
  });

  it('is built again when its data is cut short', async () => {
    const { prefillPath } = await compile('kept');
    const { size } = fs.statSync(`${prefillPath}.data`);
    fs.truncateSync(`${prefillPath}.data`, 5000);
    await compile('kept');
    expect(fs.statSync(`${prefillPath}.data`).size).toBe(size);
  });
});

describe('packColumns', () => {
  it('carries integers of one scale per channel over, transposed and scaled', () => {
    const data = Int8Array.of(1, -2, 3, -128, 127, 0);
    const tensor = {
      kind: 'integer',
      name: 'w',
      dims: [2, 3],
      data,
      scales: Float32Array.of(2, 4),
      blockSize: 3,
    } as const;
    const into = new Int8Array(9);
    const scales = new Float32Array(3);
    packColumns({ ...tensor, dims: [2, 3] }, into, scales, { first: 1, rows: 3, factor: 0.5 });
    expect([...into]).toEqual([0, 1, -128, 0, -2, 127, 0, 3, 0]);
    expect([...scales]).toEqual([0, 1, 2]);
  });

  it('gives the largest magnitude of a channel ±127 and a channel of zeros zeros', () => {
    const data = Float32Array.of(-1, 0.5, 0, 0);
    const into = new Int8Array(4);
    const scales = new Float32Array(2);
    packColumns({ kind: 'float', name: 'w', dims: [2, 2], data }, into, scales, { first: 0, rows: 2, factor: 1 });
    expect([...into]).toEqual([-127, 0, 64, 0]);
    expect([...scales]).toEqual([Math.fround(1 / 127), 0]);
  });
});
