// Answers to browsers that ask before a cross-origin request. Called by routes.ts after Origin and Host were accepted.
import type { Exchange } from './exchange.ts';

const EXPOSED = 'x-request-id, openai-processing-ms, retry-after, retry-after-ms, x-should-retry';
const PREFLIGHT_SECONDS = '600';

/** Lets the page of an accepted origin read the answer. */
export function setCorsHeaders(exchange: Exchange, origin: string): void {
  exchange.setHeader('access-control-allow-origin', origin);
  exchange.setHeader('access-control-expose-headers', EXPOSED);
  exchange.setHeader('vary', 'origin');
}

/** Answers OPTIONS, as a preflight or as a plain question. */
export function answerPreflight(exchange: Exchange, methods: readonly string[]): void {
  const allowed = [...methods, 'OPTIONS'].join(', ');
  const headers: [string, string][] = [['allow', allowed]];
  if (exchange.header('origin') !== '' && exchange.header('access-control-request-method') !== '') {
    headers.push(['access-control-allow-methods', allowed]);
    headers.push(['access-control-max-age', PREFLIGHT_SECONDS]);
    const asked = exchange.header('access-control-request-headers');
    // SDKs send headers of their own (x-stainless-…), so what is asked for is granted; the origin was checked.
    if (/^[\w\-, ]+$/.test(asked)) headers.push(['access-control-allow-headers', asked]);
    if (exchange.header('access-control-request-private-network') === 'true') {
      headers.push(['access-control-allow-private-network', 'true']);
    }
  }
  exchange.send(204, '', '', headers);
}
