// GET /v1/models and GET /v1/models/{id}, in OpenAI's form with a few fields of ours.
import { ServiceError } from '../../protocol/errors.ts';
import type { ModelInfo } from '../../protocol/messages.ts';
import type { EmbeddingModelInfo } from '../../workers/messages/cpu-tasks.ts';
import type { Services } from '../services.ts';
import type { Exchange } from './exchange.ts';

/** Unix seconds. A model exists, as far as clients can tell, since the process does. */
const CREATED = Math.floor(performance.timeOrigin / 1000);

type ListedModel = Pick<ModelInfo, 'id' | 'note'> & { aliases: readonly string[]; object: object };

function chatModel({ id, aliases, note, contextLength, tools }: ModelInfo): ListedModel {
  return { id, aliases, note, object: { context_length: contextLength, tools } };
}

function embeddingModel({ id, aliases, note, maxTokens, dimensions }: EmbeddingModelInfo): ListedModel {
  return { id, aliases, note, object: { context_length: maxTokens, tools: false, dimensions } };
}

/** Chat models first, in their order; those that cannot be asked yet are not among them. */
function allModels({ engines }: Services): ListedModel[] {
  const embeddings = engines.embeddings?.info;
  const ready = engines.engines.filter(({ isReady }) => isReady);
  return [...ready.map(({ model }) => chatModel(model)), ...(embeddings ? [embeddingModel(embeddings)] : [])];
}

function modelObject({ id, aliases, note, object }: ListedModel): object {
  return { id, object: 'model', created: CREATED, owned_by: 'tokenwire', aliases, ...object, description: note };
}

export function listModels(exchange: Exchange, services: Services): void {
  services.keys.callerOfHeader(exchange.header('authorization'));
  exchange.sendJson(200, { object: 'list', data: allModels(services).map(modelObject) });
}

export function getModel(exchange: Exchange, services: Services, id: string): void {
  services.keys.callerOfHeader(exchange.header('authorization'));
  const model = allModels(services).find((each) => each.id === id || each.aliases.includes(id));
  if (!model)
    throw new ServiceError('unknown_model', `There is no model "${id.slice(0, 200)}" here.`, { param: 'model' });
  exchange.sendJson(200, modelObject(model));
}
