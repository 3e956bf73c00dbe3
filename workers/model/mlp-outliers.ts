// Which channels of an MLP, between gate and down, grow far beyond the others: measured once, when a model is compiled, on
// text the model writes itself. Called by build-entry with the packed decode graph; chunk-mlp uses the answer.
import fs from 'node:fs';
import type { Graph } from './agreement.ts';
import { gatedName } from './graph-builder.ts';
import { DataType, valueInfo } from './onnx-writer.ts';
import { tensor, type Tensors } from './ort-binding.ts';
import { bytesField, concat, copyField, readFields } from './protobuf.ts';
import { openRows, withSession, writeTexts, type OnStep } from './self-text.ts';

const ROWS = 4;
const MAX_LENGTH = 64;

/**
 * For each layer the `count` channels with the largest values, ascending. `graph` must be one that graph-builder made
 * for steps; a copy that also hands out the MLPs' inner values stands beside it meanwhile.
 */
export function findMlpOutliers(
  graph: Graph,
  width: number,
  count: number,
  firstToken: number,
  onStep?: OnStep,
): number[][] {
  const { file, shape } = graph;
  const { numLayers, vocabSize } = shape;
  const length = Math.min(MAX_LENGTH, shape.maxPositions);
  const options = { numRows: ROWS, length, vocabSize, firstToken };
  const texts = withSession(file, (session) => writeTexts(openRows(session, shape, ROWS, length), options, onStep));

  const names = Array.from({ length: numLayers }, (_, layer) => gatedName(layer));
  const watched = `${file}.watched`;
  fs.writeFileSync(watched, withOutputs(fs.readFileSync(file), names, width));
  try {
    const values = names.map(() => new Float32Array(length * width));
    const also: Tensors = Object.fromEntries(
      names.map((name, layer) => [name, tensor('float32', values[layer]!, [1, length, width])]),
    );
    const largest = names.map(() => new Float32Array(width));
    withSession(watched, (session) => {
      const rows = openRows(session, shape, 1, length, also);
      for (const text of texts) {
        onStep?.();
        rows.run(text, 0, [length - 1]);
        for (const [layer, found] of values.entries()) keepLargest(largest[layer]!, found);
      }
    });
    return largest.map((channels) => {
      const order = Array.from(channels.keys()).sort((a, b) => channels[b]! - channels[a]!);
      return order.slice(0, count).sort((a, b) => a - b);
    });
  } finally {
    fs.rmSync(watched);
  }
}

/** Magnitudes of values [any, width], by channel. */
function keepLargest(largest: Float32Array, values: Float32Array): void {
  for (let start = 0; start < values.length; start += largest.length) {
    for (let i = 0; i < largest.length; i++) {
      const magnitude = Math.abs(values[start + i]!);
      if (magnitude > largest[i]!) largest[i] = magnitude;
    }
  }
}

/** The model with float tensors [B, S, width] among its outputs. */
function withOutputs(model: Uint8Array, names: readonly string[], width: number): Uint8Array {
  const outputs = names.map((name) => bytesField(12, valueInfo(name, DataType.float32, ['B', 'S', width])));
  const parts = Array.from(readFields(model), (field) => {
    if (field.number !== 7) return copyField(field);
    return bytesField(7, concat([...Array.from(readFields(field.bytes), copyField), ...outputs]));
  });
  return concat(parts);
}
