// What operators see of a model, read off it at this moment. Used by models.ts.
import type { ModelView } from './model-admin.ts';
import type { ServedModel } from './served-model.ts';

export function viewOf(model: ServedModel, isDefault: boolean): ModelView {
  const { compiled, gauges } = model;
  const { id, aliases, contextLength } = model.model;
  return {
    id,
    aliases,
    spec: model.source.spec,
    origin: compiled?.origin ?? '',
    state: model.state,
    isDefault,
    progress: model.progress,
    failure: model.failure === '' ? null : model.failure,
    contextLength,
    quantization: compiled?.quantization ?? '',
    weightsBytes: compiled?.weightsBytes ?? 0,
    kvType: compiled?.shape.kvType ?? '',
    kvBytes: model.kvBytes,
    kvUsedBytes: gauges.kvReservedBytes,
    running: gauges.running,
    waiting: gauges.waiting,
    active: model.numActive,
    retired: model.numRetired,
    readyAtMs: model.readyAtMs || null,
    lastUsedMs: model.lastUsedMs || null,
  };
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
