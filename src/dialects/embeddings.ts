// POST /v1/embeddings: OpenAI's Embeddings. embedding-request.ts reads the request, engine/embedder.ts computes it; the
// vectors come back as JSON text, because writing two thousand of them here would hold up every stream.
import { ServiceError } from '../../protocol/errors.ts';
import { parseJsonObject, readBody } from '../http/body.ts';
import type { Exchange } from '../http/exchange.ts';
import { requestHints } from '../http/request-hints.ts';
import { EmbeddingCancelled } from '../engine/embedder.ts';
import { shuttingDown, type Services } from '../services.ts';
import { checkAgainst, parseEmbeddingRequest } from './embedding-request.ts';

export async function createEmbeddings(exchange: Exchange, services: Services): Promise<void> {
  const caller = services.keys.callerOfHeader(exchange.header('authorization'));
  const { deadlineMs } = requestHints(exchange, caller);
  if (services.isDraining) throw shuttingDown();
  const request = parseEmbeddingRequest(parseJsonObject(await readBody(exchange)));
  if (exchange.isOver) return;
  const { embeddings } = services.engines;
  if (embeddings === null) throw new ServiceError('unknown_model', 'This server has no embedding model.');
  const info = embeddings.find(request.model?.slice(0, 256));
  checkAgainst(info, request);
  const { inputs, dimensions, form } = request;
  const job = embeddings.submit({ inputs, dimensions, form, tenant: caller.tenant, deadlineMs });
  exchange.onGone(() => job.cancel());
  try {
    const { vectors, promptTokens } = await job.result;
    const data = vectors.map((vector, index) => `{"object":"embedding","index":${index},"embedding":${vector}}`);
    const usage = JSON.stringify({ prompt_tokens: promptTokens, total_tokens: promptTokens });
    const model = JSON.stringify(info.id);
    exchange.send(
      200,
      'application/json; charset=utf-8',
      `{"object":"list","data":[${data.join(',')}],"model":${model},"usage":${usage}}`,
    );
    services.metrics.onEmbeddings(info.id, performance.now() - exchange.startedAt);
  } catch (error) {
    if (!(error instanceof EmbeddingCancelled)) throw error;
  }
}
