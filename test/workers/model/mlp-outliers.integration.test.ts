// The channels that stay float in the prefill graph's MLP: found where they are, and worth it.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { divergence } from '../../../workers/model/agreement.ts';
import { compileModel } from '../../../workers/model/compile.ts';
import { buildGraph } from '../../../workers/model/graph-builder.ts';
import { findMlpOutliers } from '../../../workers/model/mlp-outliers.ts';
import { quantizationPlan } from '../../../workers/model/quantize.ts';
import { readSpec } from '../../../workers/model/specs/families.ts';
import { openWeights } from '../../../workers/model/weights/open.ts';
import { selectColumns, selectRows } from '../../../workers/model/weights/select.ts';
import { tinyTensors, TINY_CONFIG, writeSafetensors } from './checkpoint.ts';
import { temporaryFolder } from './kit.ts';

const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

/** Channels whose up projection is a hundred times larger, and whose down projection is that much smaller. */
const LOUD = [
  [3, 77],
  [0, 127],
];
const FACTOR = 100;

/** A checkpoint that computes the same as without these channels' factors. */
function loudCheckpoint(): string {
  const tensors = tinyTensors(TINY_CONFIG, 31);
  const { hidden_size: hidden, intermediate_size: width } = TINY_CONFIG;
  for (const [layer, channels] of LOUD.entries()) {
    const up = tensors.get(`model.layers.${layer}.mlp.up_proj.weight`)!.data;
    const down = tensors.get(`model.layers.${layer}.mlp.down_proj.weight`)!.data;
    for (const channel of channels) {
      for (let i = 0; i < hidden; i++) {
        up[channel * hidden + i]! *= FACTOR;
        down[i * width + channel]! /= FACTOR;
      }
    }
  }
  const folder = path.join(root, 'loud');
  fs.mkdirSync(folder);
  writeSafetensors(folder, TINY_CONFIG, tensors, 'F32');
  return folder;
}

it('finds loud channels, and keeping them float brings the prefill graph back to the decode graph', async () => {
  const folder = loudCheckpoint();
  const stored = { maxContext: 64, quantization: 'q8', products: 'blocks' } as const;
  const compiled = await compileModel({ model: folder, cacheDir: root, ...stored });
  const { shape } = compiled;
  const steps = { file: compiled.decodePath, shape };
  expect(findMlpOutliers(steps, TINY_CONFIG.intermediate_size, 2, 1)).toEqual(LOUD);
  expect(fs.readdirSync(path.dirname(steps.file)).filter((name) => name.includes('watched'))).toEqual([]);

  const spec = readSpec(TINY_CONFIG, 'config.json');
  const build = async (name: string, mlpOutliers: number[][]): Promise<number> => {
    const file = path.join(root, `${name}.onnx`);
    const plan = quantizationPlan('q8', 1);
    const options = { spec, source: openWeights(folder, spec), plan, maxPositions: 64, dataPath: `${file}.data` };
    const graph = { ...options, form: 'chunks' as const, kvScales: null, mlpOutliers, onProgress: () => {} };
    fs.writeFileSync(file, await buildGraph(graph));
    return divergence(steps, { file, shape }, 1);
  };
  const [without, kept] = [await build('without', [[], []]), await build('with', LOUD)];
  expect(kept).toBeLessThan(without / 3);
  expect(kept).toBeLessThan(0.012);
});

it('selects rows and columns of integer and float matrices in the order asked for', () => {
  const data = Int8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  const tensor = { kind: 'integer' as const, name: 'w', dims: [2, 4], data };
  const whole = { ...tensor, scales: Float32Array.of(1, 2), blockSize: 4 };
  const halves = { ...tensor, scales: Float32Array.of(1, 2, 3, 4), blockSize: 2 };
  expect(selectRows(whole, [1])).toMatchObject({ dims: [1, 4], data: data.subarray(4), scales: Float32Array.of(2) });
  expect(selectRows(halves, [1, 0])).toMatchObject({ dims: [2, 4], scales: Float32Array.of(3, 4, 1, 2) });
  const columns = { kind: 'integer', dims: [2, 2], data: Int8Array.of(4, 2, 8, 6), scales: whole.scales, blockSize: 2 };
  expect(selectColumns(whole, [3, 1])).toMatchObject(columns);
  const floats = { kind: 'float', dims: [2, 1], data: Float32Array.of(6, 28) };
  expect(selectColumns(halves, [2])).toMatchObject(floats);
});
