// GET /v1/models and GET /v1/models/{id}, in OpenAI's form with a few fields of ours.
import { ServiceError } from '../../protocol/errors.ts';
import type { Engine } from '../engine/types.ts';
import type { Services } from '../services.ts';
import type { Exchange } from './exchange.ts';

/** Unix seconds. A model exists, as far as clients can tell, since the process does. */
const CREATED = Math.floor(performance.timeOrigin / 1000);

function modelObject({ model }: Engine) {
  return {
    id: model.id,
    object: 'model',
    created: CREATED,
    owned_by: 'tokenwire',
    aliases: model.aliases,
    context_length: model.contextLength,
    tools: model.tools,
    description: model.note,
  };
}

export function listModels(exchange: Exchange, services: Services): void {
  services.keys.callerOfHeader(exchange.header('authorization'));
  exchange.sendJson(200, { object: 'list', data: services.engines.engines.map(modelObject) });
}

export function getModel(exchange: Exchange, services: Services, id: string): void {
  services.keys.callerOfHeader(exchange.header('authorization'));
  const engine = services.engines.engines.find(({ model }) => model.id === id || model.aliases.includes(id));
  if (!engine)
    throw new ServiceError('unknown_model', `There is no model "${id.slice(0, 200)}" here.`, { param: 'model' });
  exchange.sendJson(200, modelObject(engine));
}
