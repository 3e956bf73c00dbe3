// Turns a plain graph into the form workers map: weights already packed for this CPU, in one file all threads share.
// The packed file is believed only after one prompt gave the same bits as the plain one; else the plain one is used.
// Called by compile.
import fs from 'node:fs';
import path from 'node:path';
import { kvArray } from '../messages/models.ts';
import type { CompiledModel, KvArray, ModelShape } from '../messages/models.ts';
import { alignModel } from './align.ts';
import { OnnxModel } from './onnx-model.ts';
import { OrtSession } from './ort-binding.ts';
import type { OnStep } from './self-text.ts';

export interface ModelFiles {
  model: string;
  data: string;
}

/**
 * Writes `to` from `from`. Returns false, having removed `to`, when the packed model does not compute exactly what
 * the plain one does. Throws when ONNX Runtime refuses the plain model, and what `onStep` throws.
 */
export function prepack(from: ModelFiles, to: ModelFiles, shape: ModelShape, onStep: OnStep): boolean {
  const packed: ModelFiles = { model: `${to.model}.unaligned`, data: `${to.data}.unaligned` };
  try {
    new OrtSession(from.model, {
      threads: 1,
      prepackTo: { path: packed.model, dataName: path.basename(packed.data) },
    }).dispose();
    onStep();
    alignModel(packed, to);
  } finally {
    for (const file of Object.values(packed)) fs.rmSync(file, { force: true });
  }
  // Once more on a difference: a session loaded elsewhere in this process may have changed the attention kernel's
  // flag between the two loads (see ort-binding, withFlashDisabled).
  for (let attempt = 0; attempt < 2; attempt++) if (sameResults(from.model, to.model, shape, onStep)) return true;
  for (const file of Object.values(to)) fs.rmSync(file, { force: true });
  return false;
}

const CHUNK = 12;
const STEPS = 2;

/** A prompt of `CHUNK` tokens and a few single tokens (another kernel path) through both; logits and KV bit for bit. */
function sameResults(plain: string, packed: string, shape: ModelShape, onStep: OnStep): boolean {
  onStep();
  const expected = probe(plain, shape);
  onStep();
  const found = probe(packed, shape);
  return expected.every((part, i) => {
    const other = found[i]!;
    return part.every((value, j) => value === other[j] && !Number.isNaN(value));
  });
}

function probe(file: string, shape: ModelShape): KvArray[] {
  const maxLen = Math.min(32, shape.maxPositions);
  const kv = Array.from({ length: 2 * shape.numLayers }, () => {
    return kvArray(shape.kvType, shape.numKvHeads * maxLen * shape.headDim);
  });
  const compiled = { kind: 'onnx', shape, decodePath: file, prefillPath: file } as CompiledModel;
  // One session only: each session of the plain model has its own packed copy of all weights.
  const model = new OnnxModel(compiled, kv, { numSlots: 1, maxLen }, { threads: 1, role: 'prefill' });
  try {
    const length = Math.min(CHUNK, maxLen - STEPS);
    const ids = Array.from({ length }, (_, i) => (i * 7919 + 3) % shape.vocabSize);
    const results = [model.prefill(0, ids, 0, true)!.slice()];
    for (let step = 0; step < STEPS; step++) {
      results.push(model.prefill(0, [(step * 104729 + 5) % shape.vocabSize], length + step, true)!.slice());
    }
    return [...results, ...kv];
  } finally {
    model.dispose();
  }
}
