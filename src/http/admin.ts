// /v1/admin/models: which models are there and how they are, load, unload and reload. For callers with the scope admin.
// A load goes on when its client goes; who asks again joins it.
import { ServiceError } from '../../protocol/errors.ts';
import { boolean, integer, list, refuse, string } from '../../protocol/fields.ts';
import { unsupported } from '../dialects/fields.ts';
import type { LoadOptions, ModelSource, ModelView } from '../engine/model-admin.ts';
import { messageOf } from '../engine/model-view.ts';
import { isModelName, readModelsFile } from '../engine/models-file.ts';
import { shuttingDown, type Services } from '../services.ts';
import { parseJsonObject, readBody } from './body.ts';
import { errorBody, toServiceError } from './errors.ts';
import type { Exchange } from './exchange.ts';
import { dataEvent, DONE_EVENT, EventStream } from './sse.ts';

const MAX_BODY_BYTES = 64 << 10;
const MAX_SPEC = 1024;
const MAX_NAME = 128;
const MAX_ALIASES = 16;
const MAX_CONTEXT = 1 << 20;

interface Body {
  /** Read as `name` of its field. */
  [field: string]: (value: unknown, param: string) => unknown;
}

const name = (value: unknown, param: string): string => {
  const text = string(1, MAX_NAME)(value, param);
  return isModelName(text) ? text : refuse(param, 'a name without blanks, quotes and commas, and not default');
};

const loadFields = {
  model: string(1, MAX_SPEC),
  id: name,
  aliases: list(name, 0, MAX_ALIASES),
  context_length: integer(16, MAX_CONTEXT),
  replace: string(1, MAX_NAME),
  default: boolean,
  stream: boolean,
} satisfies Body;

const unloadFields = { model: string(1, MAX_SPEC), force: boolean } satisfies Body;

/** GET /v1/admin/models */
export function listAdminModels(exchange: Exchange, services: Services): void {
  services.keys.operatorOfHeader(exchange.header('authorization'));
  const { admin } = services.engines;
  const { totalBytes, freeBytes } = admin.kvMemory;
  exchange.sendJson(200, {
    object: 'list',
    data: admin.list().map(modelObject),
    kv_memory: { total_bytes: totalBytes, free_bytes: freeBytes },
    memory: { available_bytes: process.availableMemory(), resident_bytes: process.memoryUsage.rss() },
  });
}

/** POST /v1/admin/models/load: answers when it serves, or with `stream` with an event for each progress. */
export async function loadModel(exchange: Exchange, services: Services): Promise<void> {
  const body = await readFields(exchange, services, loadFields);
  if (exchange.isOver) return;
  const source: ModelSource = {
    spec: body.model ?? refuse('model', 'given'),
    ...(body.id === undefined ? {} : { id: body.id }),
    ...(body.aliases === undefined ? {} : { aliases: body.aliases }),
    ...(body.context_length === undefined ? {} : { contextLength: body.context_length }),
  };
  const options: LoadOptions = {
    ...(body.replace === undefined ? {} : { replace: body.replace }),
    ...(body.default === undefined ? {} : { isDefault: body.default }),
  };
  const { admin } = services.engines;
  if (body.stream !== true) {
    exchange.sendJson(200, modelObject(await admin.load(source, options)));
    return;
  }
  await streamLoad(exchange, (onProgress) => admin.load(source, { ...options, onProgress }));
}

/** POST /v1/admin/models/unload: answers when its last answer has ended. */
export async function unloadModel(exchange: Exchange, services: Services): Promise<void> {
  const { model, force = false } = await readFields(exchange, services, unloadFields);
  if (exchange.isOver) return;
  const view = await services.engines.admin.unload(model ?? refuse('model', 'given'), { isForced: force });
  exchange.sendJson(200, { id: view.id, object: 'model', unloaded: true });
}

/** POST /v1/admin/models/reload: reads MODELS_FILE again and applies what has changed. */
export async function reloadModels(exchange: Exchange, services: Services): Promise<void> {
  await readFields(exchange, services, {});
  if (exchange.isOver) return;
  exchange.sendJson(200, { object: 'reload', ...(await reload(services)) });
}

/** Also what SIGUSR2 does. Rejects with `invalid_request` when the file cannot be read; nothing has changed then. */
export async function reload({ engines, modelsFile }: Pick<Services, 'engines' | 'modelsFile'>) {
  if (modelsFile === '') return engines.admin.reload();
  let sources: ModelSource[];
  try {
    sources = readModelsFile(modelsFile);
  } catch (error) {
    throw new ServiceError('invalid_request', `MODELS_FILE ${messageOf(error)}`, { cause: error });
  }
  return engines.admin.reload(sources);
}

async function streamLoad(
  exchange: Exchange,
  load: (onProgress: (view: ModelView) => void) => Promise<ModelView>,
): Promise<void> {
  let stream: EventStream | null = null;
  let last = '';
  const send = (value: object): void => {
    stream ??= new EventStream(exchange);
    const event = dataEvent(value);
    // A reader that is behind gets the next news only; the same again is none.
    if (stream.isOver || stream.isBlocked || event === last) return;
    last = event;
    stream.write(event);
  };
  try {
    const view = await load((progress) => send(modelObject(progress)));
    send(modelObject(view));
    if (!exchange.isOver) exchange.write(DONE_EVENT);
  } catch (error) {
    // Before the first event it is a status; after it, as in other streams, an event that nothing follows.
    if (stream === null) throw error;
    send(errorBody(toServiceError(error)));
  }
  const opened = stream as EventStream | null;
  if (opened !== null && !opened.isOver) opened.end();
}

/** Fields of the body, each read by its parser. Throws what is wrong with the caller before what is wrong with the body. */
async function readFields<F extends Body>(
  exchange: Exchange,
  services: Services,
  fields: F,
): Promise<{ [K in keyof F]?: ReturnType<F[K]> }> {
  services.keys.operatorOfHeader(exchange.header('authorization'));
  if (services.isDraining) throw shuttingDown();
  const bytes = await readBody(exchange, MAX_BODY_BYTES);
  const body = bytes.byteLength === 0 ? {} : parseJsonObject(bytes);
  const read: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(body)) {
    if (value === null || value === undefined) continue;
    if (!Object.hasOwn(fields, field)) unsupported(field.slice(0, 64));
    read[field] = fields[field]!(value, field);
  }
  return read as { [K in keyof F]?: ReturnType<F[K]> };
}

function modelObject(view: ModelView): object {
  return {
    id: view.id,
    object: 'model',
    aliases: view.aliases,
    source: view.spec,
    origin: view.origin,
    state: view.state,
    default: view.isDefault,
    progress: view.progress,
    failure: view.failure,
    context_length: view.contextLength,
    quantization: view.quantization,
    weights_bytes: view.weightsBytes,
    kv_type: view.kvType,
    kv_bytes: view.kvBytes,
    kv_used_bytes: view.kvUsedBytes,
    running: view.running,
    waiting: view.waiting,
    active: view.active,
    retired: view.retired,
    ready_at: seconds(view.readyAtMs),
    last_used_at: seconds(view.lastUsedMs),
  };
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : Math.floor(ms / 1000);
}
