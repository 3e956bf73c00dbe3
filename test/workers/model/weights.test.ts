// Readers of checkpoints: right values from every form, and a clear refusal of files that lie.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readOnnx } from '../../../workers/model/onnx-reader.ts';
import { DataType, OnnxWriter } from '../../../workers/model/onnx-writer.ts';
import { bytesField, concat, intField } from '../../../workers/model/protobuf.ts';
import { openOnnxWeights } from '../../../workers/model/weights/onnx.ts';
import { openSafetensors } from '../../../workers/model/weights/safetensors.ts';
import { toFloats } from '../../../workers/model/weights/source.ts';
import {
  safetensors,
  tinyTensors,
  TINY_CONFIG,
  writeOnnxDirectory,
  writeSafetensors,
  type OnnxKind,
} from './checkpoint.ts';
import { temporaryFolder } from './kit.ts';

const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));
let numFolders = 0;
function folder(): string {
  const name = path.join(root, `w${++numFolders}`);
  fs.mkdirSync(name);
  return name;
}

const tensors = tinyTensors(TINY_CONFIG, 99);
const Q = 'model.layers.1.self_attn.q_proj.weight';

function spoiled(edit: (header: Record<string, Record<string, unknown>>) => void): () => unknown {
  const directory = folder();
  fs.writeFileSync(path.join(directory, 'model.safetensors'), safetensors(tensors, 'F32', edit));
  return () => openSafetensors(directory)!.read(Q, [64, 64]);
}

function withBytes(bytes: Uint8Array): () => unknown {
  const directory = folder();
  fs.writeFileSync(path.join(directory, 'model.safetensors'), bytes);
  return () => openSafetensors(directory);
}

function withIndex(index: object): () => unknown {
  const directory = folder();
  fs.writeFileSync(path.join(directory, 'model.safetensors.index.json'), JSON.stringify(index));
  return () => openSafetensors(directory);
}

const entry = (key: string, value: string): Uint8Array =>
  bytesField(13, concat([bytesField(1, key), bytesField(2, value)]));

function withEntry(location: string, offset: string, length: string): () => unknown {
  const directory = folder();
  const tensor = concat([
    intField(1, 64),
    intField(2, DataType.float32),
    bytesField(8, 'model.norm.weight'),
    entry('location', location),
    entry('offset', offset),
    entry('length', length),
    intField(14, 1),
  ]);
  const node = concat([bytesField(2, 'y'), bytesField(4, 'Relu')]);
  fs.writeFileSync(path.join(directory, 'weights.bin'), Buffer.alloc(256));
  fs.writeFileSync(
    path.join(directory, 'model.onnx'),
    bytesField(7, concat([bytesField(1, node), bytesField(5, tensor)])),
  );
  return () => openOnnxWeights(directory)!.read('model.norm.weight', [64]);
}

const named = (why: string): RegExp => new RegExp(`model\\.safetensors: tensor ${Q.replaceAll('.', '\\.')}.*${why}`);

describe('openSafetensors', () => {
  it.each([
    ['F32', 0],
    ['F16', 2 ** -11],
    ['BF16', 2 ** -7],
  ] as const)('reads %s values', (dtype, relative) => {
    const directory = folder();
    writeSafetensors(directory, TINY_CONFIG, tensors, dtype, 2);
    const source = openSafetensors(directory)!;
    expect(source.files).toHaveLength(2);
    for (const [name, { dims, data }] of tensors) {
      const values = toFloats(source.read(name, dims));
      const isClose = (value: number, i: number): boolean =>
        Math.abs(value - data[i]!) <= Math.abs(data[i]!) * relative + (relative && 2 ** -24);
      expect(values.every(isClose)).toBe(true);
    }
  });

  it('returns null for a directory without safetensors', () => {
    expect(openSafetensors(folder())).toBeNull();
  });

  it('refuses entries that lie, naming file and tensor', () => {
    expect(spoiled((h) => (h[Q]!['data_offsets'] = [0, 1e9]))).toThrow(named('outside'));
    expect(spoiled((h) => (h[Q]!['data_offsets'] = [16384, 0]))).toThrow(named('outside'));
    expect(spoiled((h) => (h[Q]!['data_offsets'] = [-4, 8]))).toThrow(named('data_offsets'));
    expect(spoiled((h) => (h[Q]!['data_offsets'] = '0'))).toThrow(named('data_offsets'));
    expect(spoiled((h) => (h[Q]!['dtype'] = 'I64'))).toThrow(named('I64'));
    expect(spoiled((h) => (h[Q]!['dtype'] = 'F16'))).toThrow(named('bytes'));
    expect(spoiled((h) => (h[Q]!['shape'] = [64, 63]))).toThrow(named('shape \\[64, 63\\]'));
    expect(spoiled((h) => (h[Q]!['shape'] = [64, -1]))).toThrow(named('shape is not'));
    expect(spoiled((h) => delete h[Q])).toThrow('no safetensors file holds');
    expect(
      spoiled((h) => (h[Q]!['data_offsets'] = (h[Q]!['data_offsets'] as number[]).map((offset) => offset - 64))),
    ).toThrow('overlaps tensor');
  });

  it('refuses headers that are too long, cut off or no JSON', () => {
    expect(withBytes(Uint8Array.of(1, 2, 3))).toThrow('shorter than');
    expect(withBytes(new Uint8Array(16).fill(255))).toThrow('header claims');
    expect(withBytes(Uint8Array.of(100, 0, 0, 0, 0, 0, 0, 0, 123))).toThrow('header claims 100 bytes, the file has 9');
    expect(withBytes(Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 123))).toThrow('not JSON');
    expect(withBytes(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 91, 93))).toThrow('not an object');
  });

  it('refuses an index that leaves the directory or names missing shards', () => {
    expect(withIndex({})).toThrow('weight_map is missing');
    expect(withIndex({ weight_map: { a: '../other.safetensors' } })).toThrow('not a file beside');
    expect(withIndex({ weight_map: { a: 7 } })).toThrow('not a file beside');
    expect(withIndex({ weight_map: { a: 'gone.safetensors' } })).toThrow('shard gone.safetensors is missing');
  });
});

describe('openOnnxWeights', () => {
  const kinds: [OnnxKind, number][] = [
    ['float', 0],
    ['int8', 0.5 / 127],
    ['uint8', 0.5 / 127],
    ['int8-columns', 0.5 / 127],
    ['blocks8', 0.5 / 127],
    ['blocks4', 0.5 / 6],
    ['blocks4-zeros', 0.5 / 6],
  ];
  it.each(kinds)('reads the values of %s matrices under their canonical names', (kind, relative) => {
    const directory = folder();
    writeOnnxDirectory(directory, TINY_CONFIG, tensors, kind);
    const source = openOnnxWeights(directory)!;
    for (const [name, { dims, data }] of tensors) {
      const values = toFloats(source.read(name, dims));
      const largest = data.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      const worst = values.reduce((a, value, i) => Math.max(a, Math.abs(value - data[i]!)), 0);
      expect(worst).toBeLessThanOrEqual(largest * relative * 1.001);
    }
  });

  it('returns null for a directory without ONNX files, and names what a graph lacks', () => {
    expect(openOnnxWeights(folder())).toBeNull();
    const directory = folder();
    writeOnnxDirectory(directory, TINY_CONFIG, tensors, 'int8');
    const source = openOnnxWeights(directory)!;
    expect(() => source.read('model.layers.7.mlp.up_proj.weight', [1, 1])).toThrow('model.layers.7.mlp.up_proj.weight');
    expect(() => source.read(Q, [64, 32])).toThrow(`tensor ${Q} has shape [64, 64]`);
  });

  it('refuses files that are cut off anywhere, without reading past their end', () => {
    const directory = folder();
    writeOnnxDirectory(directory, TINY_CONFIG, tensors, 'int8');
    const bytes = fs.readFileSync(path.join(directory, 'onnx', 'model.onnx'));
    const file = path.join(directory, 'cut.onnx');
    for (const share of [0, 0.001, 0.3, 0.7, 0.999]) {
      fs.writeFileSync(file, bytes.subarray(0, Math.floor(bytes.length * share)));
      expect(() => readOnnx(file)).toThrow(`${file}: not a readable ONNX file`);
    }
    fs.writeFileSync(file, Buffer.alloc(4096, 255));
    expect(() => readOnnx(file)).toThrow(`${file}: not a readable ONNX file`);
  });

  it('never follows a data file out of the directory or past its end', () => {
    expect(withEntry('weights.bin', '0', '256')).not.toThrow();
    expect(withEntry('../../secret', '0', '256')).toThrow('model.norm.weight: its data file');
    expect(withEntry('..', '0', '256')).toThrow('model.norm.weight: its data file');
    expect(withEntry('weights.bin', '4', '256')).toThrow('model.norm.weight: bytes 4 to 260 lie beyond');
    expect(withEntry('weights.bin', '-4', '256')).toThrow('not a place in a file');
    expect(withEntry('weights.bin', 'x', '256')).toThrow('not a place in a file');
    expect(withEntry('weights.bin', '0', '128')).toThrow('has 128 bytes, its shape needs 256');
  });

  it('refuses constants of the wrong type', () => {
    const directory = folder();
    const w = new OnnxWriter(null);
    w.tensor('model.norm.weight', DataType.int64, [2], BigInt64Array.of(1n, 2n));
    w.node('Relu', ['x'], 'y');
    fs.writeFileSync(path.join(directory, 'model.onnx'), w.finish());
    expect(() => openOnnxWeights(directory)!.read('model.norm.weight', [2])).toThrow('ONNX type 7, where a float');
  });
});
