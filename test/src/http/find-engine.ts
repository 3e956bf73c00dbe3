// How an EngineSet of one scripted engine answers `find`.
import { ServiceError } from '../../../protocol/errors.ts';
import type { FakeEngine } from '../support/fake-engine.ts';

export function findFakeEngine(engine: FakeEngine, model: string | undefined): FakeEngine {
  const isMeant = model === undefined || model === engine.model.id || engine.model.aliases.includes(model);
  if (!isMeant) throw new ServiceError('unknown_model', `there is no model "${model}"`, { param: 'model' });
  if (!engine.isReady) throw new ServiceError('model_loading', 'the model is loading', { retryAfterMs: 1000 });
  return engine;
}
