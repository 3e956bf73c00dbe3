// Weights as a graph in 4 bits knows them.
import { expect, it } from 'vitest';
import { createPacked, packRows } from '../../../workers/model/quantize.ts';
import { EMBEDDING, HEAD, layerTensor } from '../../../workers/model/specs/spec.ts';
import { RoundedSource } from '../../../workers/model/weights/rounded.ts';
import { toFloats, type WeightSource } from '../../../workers/model/weights/source.ts';
import { seededRandom } from './checkpoint.ts';

const FOUR = { bits: 4, blockSize: 32 } as const;

it('rounds the layers’ matrices to the blocks that 4 bits hold, and nothing else (seed 5)', () => {
  const random = seededRandom(5);
  const values = Float32Array.from({ length: 3 * 64 }, () => random() - 0.5);
  const source: WeightSource = {
    files: ['weights'],
    has: (name) => name === HEAD,
    read: (name, dims) => ({ kind: 'float', name, dims: [...dims], data: values.slice(0, dims[0]! * (dims[1] ?? 1)) }),
  };
  const rounded = new RoundedSource(source, FOUR);
  expect([rounded.files, rounded.has(HEAD), rounded.has(EMBEDDING)]).toEqual([['weights'], true, false]);
  for (const name of [EMBEDDING, HEAD]) expect(rounded.read(name, [3, 64])).toEqual(source.read(name, [3, 64]));
  const norm = layerTensor(0, 'input_layernorm');
  expect(rounded.read(norm, [64])).toEqual(source.read(norm, [64]));

  const matrix = layerTensor(0, 'mlp.up_proj');
  const found = rounded.read(matrix, [3, 64]);
  for (const [i, value] of toFloats(found).entries()) expect(Math.abs(value - values[i]!)).toBeLessThan(0.5 / 8);
  // Packed again it is what the checkpoint packs to, to the bit.
  const [once, twice] = [source.read(matrix, [3, 64]), found].map((tensor) => {
    const packed = createPacked(3, 64, FOUR);
    packRows(packed, 0, tensor, 0.125);
    return packed;
  });
  expect(twice).toEqual(once);
});
