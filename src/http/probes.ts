// Endpoints for machines that watch the server: liveness, readiness, metrics.
import type { Services } from '../services.ts';
import type { Exchange } from './exchange.ts';

/** 200 as long as the event loop turns. Needs no key. */
export function healthz(exchange: Exchange): void {
  exchange.sendJson(200, { status: 'ok' });
}

/** 200 when every model is loaded and the server is not draining; else 503 with the reason. Needs no key. */
export function readyz(exchange: Exchange, services: Services): void {
  const { engines } = services;
  if (services.isDraining) {
    exchange.sendJson(503, { status: 'draining' });
  } else if (engines.isReady) {
    exchange.sendJson(200, { status: 'ready' });
  } else {
    exchange.sendJson(503, { status: 'loading', models: engines.progress }, [['retry-after', '1']]);
  }
}

/** Prometheus text. Needs a key where keys exist and others than this machine can connect. */
export async function metrics(exchange: Exchange, services: Services): Promise<void> {
  if (!services.isLoopback) services.keys.callerOfHeader(exchange.header('authorization'));
  const text = await services.metrics.render({
    engines: services.engines.engines,
    connections: () => services.connections(),
    embeddingInputs: () => services.engines.embeddings?.waiting ?? 0,
    retained: () => services.responses.retained,
    held: () => ({ responses: services.responses.active, sessions: services.numSessions() }),
  });
  exchange.send(200, services.metrics.contentType, text);
}
