// Which path does what. server.ts hands every HTTP request here; this file checks Host and Origin, answers preflights,
// 404 and 405, and calls the handler. A new endpoint is one row in `table` and a handler elsewhere.
import { ServiceError } from '../../protocol/errors.ts';
import { chatCompletions } from '../dialects/chat-completions.ts';
import { createEmbeddings } from '../dialects/embeddings.ts';
import { cancelResponse, countInputTokens, deleteResponse } from '../dialects/response-reads.ts';
import { getResponse, listInputItems } from '../dialects/response-reads.ts';
import { createResponse } from '../dialects/responses.ts';
import type { Services } from '../services.ts';
import { listAdminModels, loadModel, reloadModels, unloadModel } from './admin.ts';
import { ClientGone } from './body.ts';
import { answerPreflight, setCorsHeaders } from './cors.ts';
import type { Exchange } from './exchange.ts';
import { getModel, listModels } from './models.ts';
import { healthz, metrics, readyz } from './probes.ts';

type Method = 'GET' | 'POST' | 'DELETE';
/** `id` is what stands for `{id}` in the path, decoded. May throw or reject with ServiceError. */
export type Handler = (exchange: Exchange, services: Services, id: string) => void | Promise<void>;

interface Row {
  methods: Partial<Record<Method, Handler>>;
  /** Probes come from machines that know neither our names nor our pages. */
  isProbe?: true;
}

const table = new Map<string, Row>([
  ['/v1/chat/completions', { methods: { POST: chatCompletions } }],
  ['/v1/embeddings', { methods: { POST: createEmbeddings } }],
  ['/v1/responses', { methods: { POST: createResponse } }],
  ['/v1/responses/input_tokens', { methods: { POST: countInputTokens } }],
  ['/v1/responses/{id}', { methods: { GET: getResponse, DELETE: deleteResponse } }],
  ['/v1/responses/{id}/cancel', { methods: { POST: cancelResponse } }],
  ['/v1/responses/{id}/input_items', { methods: { GET: listInputItems } }],
  ['/v1/models', { methods: { GET: listModels } }],
  ['/v1/models/{id}', { methods: { GET: getModel } }],
  ['/v1/admin/models', { methods: { GET: listAdminModels } }],
  ['/v1/admin/models/load', { methods: { POST: loadModel } }],
  ['/v1/admin/models/unload', { methods: { POST: unloadModel } }],
  ['/v1/admin/models/reload', { methods: { POST: reloadModels } }],
  ['/healthz', { methods: { GET: healthz }, isProbe: true }],
  ['/readyz', { methods: { GET: readyz }, isProbe: true }],
  ['/metrics', { methods: { GET: metrics }, isProbe: true }],
]);
const patterns = [...table].flatMap(([path, row]) => {
  if (!path.includes('{id}')) return [];
  // Model ids of hubs hold slashes; those of responses never do.
  const id = path.startsWith('/v1/models/') ? '(.+)' : '([^/]+)';
  return { pattern: new RegExp(`^${path.replace('{id}', id)}$`), row };
});

/** Paths of the HTTP API. The README is tested against them. */
export const httpPaths: readonly string[] = [...table.keys()];

/** Answers one request. Never throws and never rejects. */
export async function handleRequest(exchange: Exchange, services: Services): Promise<void> {
  exchange.onAnswered = (status) => {
    services.metrics.onHttpAnswer(status);
    const ms = Math.round(performance.now() - exchange.startedAt);
    services.log.debug(
      { requestId: exchange.requestId, status, ms },
      `${exchange.method} ${exchange.path.slice(0, 200)}`,
    );
  };
  try {
    await route(exchange, services);
  } catch (error) {
    if (error instanceof ClientGone) return;
    if (!(error instanceof ServiceError)) {
      services.log.error({ err: error, requestId: exchange.requestId }, 'a request failed because of a bug');
    }
    exchange.sendError(error);
  }
}

function route(exchange: Exchange, services: Services): void | Promise<void> {
  const found = find(exchange.path);
  const origin = exchange.header('origin');
  const host = exchange.header('host');
  if (services.isDraining) exchange.closeAfterwards();
  if (!found?.row.isProbe) services.origins.check(origin, host);
  if (origin !== '' && services.origins.isOriginAllowed(origin, host)) setCorsHeaders(exchange, origin);
  if (!found) {
    if (exchange.method === 'OPTIONS') return answerPreflight(exchange, ['GET', 'HEAD']);
    if (exchange.method !== 'GET' && exchange.method !== 'HEAD') throw notFound(exchange);
    if (!services.web.serve(exchange)) throw notFound(exchange);
    return;
  }
  const { methods } = found.row;
  const allowed = Object.keys(methods).flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
  if (exchange.method === 'OPTIONS') return answerPreflight(exchange, allowed);
  const handler = methods[(exchange.method === 'HEAD' ? 'GET' : exchange.method) as Method];
  if (!handler) {
    exchange.setHeader('allow', [...allowed, 'OPTIONS'].join(', '));
    throw new ServiceError('method_not_allowed', `${exchange.path} answers ${allowed.join(', ')}.`);
  }
  return handler(exchange, services, found.id);
}

function find(path: string): { row: Row; id: string } | null {
  const row = path.includes('{') ? undefined : table.get(path);
  if (row) return { row, id: '' };
  for (const { pattern, row: patternRow } of patterns) {
    const id = pattern.exec(path)?.[1];
    if (id === undefined) continue;
    try {
      return { row: patternRow, id: decodeURIComponent(id) };
    } catch {
      return null;
    }
  }
  return null;
}

function notFound(exchange: Exchange): ServiceError {
  return new ServiceError(
    'not_found',
    `There is no ${exchange.method.slice(0, 16)} ${exchange.path.slice(0, 200)} here.`,
  );
}
