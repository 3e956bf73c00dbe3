// Opens a compiled model in this thread, whatever kind it is. Called once by each engine worker.
import type { CompiledModel } from '../messages/models.ts';
import type { EngineShared, SlotLayout } from '../messages/shared.ts';
import { openFakeModel } from './fake.ts';
import type { Model } from './model.ts';
import type { OpenOptions } from './onnx-model.ts';

/**
 * Loads what `options.role` needs. Throws an Error when files, shared memory and layout do not fit together.
 * `shared.loadLock`, one Int32, makes threads with one environment (SHARE_ENV) load one at a time; see ort-binding.
 * ONNX Runtime is imported only here and only for real models: a fake one starts without the native library.
 */
export async function openModel(
  compiled: CompiledModel,
  shared: EngineShared,
  layout: SlotLayout,
  options: OpenOptions,
): Promise<Model> {
  if (compiled.kind === 'fake') return openFakeModel(compiled, shared, layout);
  const { OnnxModel } = await import('./onnx-model.ts');
  const loadLock = shared.loadLock === undefined ? undefined : new Int32Array(shared.loadLock);
  return new OnnxModel(compiled, shared.kv, layout, loadLock === undefined ? options : { loadLock, ...options });
}
