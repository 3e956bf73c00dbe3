// One streamed Chat Completions request of a load generator over node:http with kept-alive connections.
import http from 'node:http';

export interface SseObserver {
  /** Text of one chunk; how many tokens it holds is not said. */
  onText(atMs: number, text: string): void;
  onDone(atMs: number, promptTokens: number, completionTokens: number): void;
  onError(message: string): void;
}

interface Chunk {
  choices?: { delta?: { content?: string } }[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
}

/** Exactly one of onDone and onError follows. Returns what cuts the request off; then nothing follows. */
export function sseRequest(url: string, agent: http.Agent, body: object, observer: SseObserver): () => void {
  const payload = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
  let isOver = false;
  const fail = (message: string): void => {
    if (isOver) return;
    isOver = true;
    observer.onError(message);
  };
  const request = http.request(`${url}/v1/chat/completions`, { method: 'POST', agent, headers }, (answer) => {
    answer.setEncoding('utf8');
    let rest = '';
    let usage: Chunk['usage'] = null;
    answer.on('data', (data: string) => {
      const now = performance.now();
      rest += data;
      if (answer.statusCode !== 200 || isOver) return;
      for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
        const event = rest.slice('data: '.length, end);
        // Comments keep connections alive.
        if (!rest.startsWith('data: ')) continue;
        if (event === '[DONE]') {
          isOver = true;
          observer.onDone(now, usage?.prompt_tokens ?? 0, usage?.completion_tokens ?? 0);
          continue;
        }
        const chunk = JSON.parse(event) as Chunk;
        usage = chunk.usage ?? usage;
        const text = chunk.choices?.[0]?.delta?.content;
        if (text) observer.onText(now, text);
      }
    });
    answer.on('end', () => fail(`status ${answer.statusCode}: ${rest.slice(0, 200)}`));
  });
  request.on('error', (error) => fail(error.message));
  request.end(payload);
  return () => {
    isOver = true;
    request.destroy();
  };
}
