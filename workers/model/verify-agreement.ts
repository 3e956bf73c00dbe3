// Tries verifying graphs against single steps of the decode graph, on this machine: guessed tokens may never change an
// answer, so nothing less than the same bits will do. Called by build-entry, which drops the graphs that differ.
import { kvArray, type CompiledModel, type KvArray, type ModelShape } from '../messages/models.ts';
import { OnnxModel } from './onnx-model.ts';
import type { OnStep } from './self-text.ts';

/** Tokens over which verifying graphs are compared: a multiple of all their sizes. */
const COMPARED = 40;

/**
 * Sizes of the verifying graphs whose logits and KV memory are those of single steps, bit for bit, over a text of
 * `COMPARED` tokens from the first position on.
 */
export function agreeingSizes(
  files: Pick<CompiledModel, 'decodePath' | 'prefillPath' | 'verifyGraphs'>,
  shape: ModelShape,
  firstToken: number,
  onStep?: OnStep,
): number[] {
  const layout = { numSlots: 2, maxLen: Math.min(COMPARED, shape.maxPositions) };
  const slotLength = shape.numKvHeads * layout.maxLen * shape.headDim;
  const kv = Array.from({ length: 2 * shape.numLayers }, () => kvArray(shape.kvType, 2 * slotLength));
  const compiled = { kind: 'onnx', shape, ...files } as CompiledModel;
  const model = new OnnxModel(compiled, kv, layout, { threads: 1, role: 'decode', verify: true });
  try {
    const ids = Array.from({ length: layout.maxLen }, (_, i) => (firstToken + i * 7919) % shape.vocabSize);
    const expected = ids.map((id, past) => {
      onStep?.();
      return model.decode(0, 1, [id], [past]).slice();
    });
    return model.verifySizes.filter((size) => {
      let past = 0;
      for (; past + size <= ids.length; past += size) {
        onStep?.();
        const found = model.verify(1, ids.slice(past, past + size), past);
        for (let i = 0; i < size; i++) {
          const row = found.subarray(i * shape.vocabSize, (i + 1) * shape.vocabSize);
          if (!isSame(row, expected[past + i]!)) return false;
        }
      }
      return past === ids.length
        ? kv.every((view) => isSame(view.subarray(0, slotLength), view.subarray(slotLength)))
        : true;
    });
  } finally {
    model.dispose();
  }
}

/** Equal and numbers. */
function isSame(a: KvArray, b: KvArray): boolean {
  return a.every((value, i) => value === b[i]);
}
