// A directory's weights in whatever format it has, under the names the spec uses. Called by compile.
import type { ModelSpec } from '../specs/spec.ts';
import { openTextFolder } from '../gguf/text-folder.ts';
import { splitFused } from './fused.ts';
import { ggufWeights } from './gguf.ts';
import { openOnnxWeights } from './onnx.ts';
import { openSafetensors } from './safetensors.ts';
import type { WeightSource } from './source.ts';

/** Throws an Error naming the directory when there are no weights, or the file when they are broken. */
export function openWeights(directory: string, spec: ModelSpec): WeightSource {
  const source = openSafetensors(directory) ?? openGguf(directory, spec) ?? openOnnx(directory, spec);
  if (source === null) {
    throw new Error(`${directory}: no weights found (model.safetensors, its index, or onnx/model*.onnx)`);
  }
  return spec.fusedMatrices ? splitFused(source, spec) : source;
}

function openGguf(directory: string, spec: ModelSpec): WeightSource | null {
  const model = openTextFolder(directory);
  return model === null ? null : ggufWeights(model, spec);
}

function openOnnx(directory: string, spec: ModelSpec): WeightSource | null {
  const source = openOnnxWeights(directory);
  // Some exporters add the one to the norms' weights, others leave it to a node, and the constants do not tell.
  if (source !== null && spec.normOffset !== 0) {
    throw new Error(
      `${directory}: ONNX weights of a family with norm weights around zero cannot be read; use safetensors`,
    );
  }
  return source;
}
