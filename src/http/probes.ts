// Endpoints for machines that watch the server: liveness, readiness, metrics.
import type { Services } from '../services.ts';
import type { Exchange } from './exchange.ts';

/** 200 as long as the event loop turns. Needs no key. */
export function healthz(exchange: Exchange): void {
  exchange.sendJson(200, { status: 'ok' });
}

/** 200 when every model of the start is loaded, there still is one, and the server is not draining; else 503 with the reason. Needs no key. */
export function readyz(exchange: Exchange, services: Services): void {
  const { engines } = services;
  if (services.isDraining) {
    exchange.sendJson(503, { status: 'draining' });
  } else if (engines.isReady) {
    exchange.sendJson(200, { status: 'ready' });
  } else {
    const models = engines.progress;
    const status = models.length > 0 ? 'loading' : 'no model';
    exchange.sendJson(503, { status, models }, [['retry-after', '1']]);
  }
}

/**
 * Prometheus text. Needs a key where keys exist and others than this machine can connect. Elsewhere whoever reaches the
 * address may ask, so it has to be asked under a name of ours: a page that had its own name bound to 127.0.0.1 could
 * read the names of tenants.
 */
export async function metrics(exchange: Exchange, services: Services): Promise<void> {
  if (services.isLoopback) services.origins.check(exchange.header('origin'), exchange.header('host'));
  else services.keys.callerOfHeader(exchange.header('authorization'));
  const text = await services.metrics.render({
    engines: services.engines.engines,
    connections: () => services.connections(),
    embeddingInputs: () => services.engines.embeddings?.waiting ?? 0,
    retained: () => services.responses.retained,
    held: () => ({ responses: services.responses.active, sessions: services.numSessions() }),
  });
  exchange.send(200, services.metrics.contentType, text);
}
