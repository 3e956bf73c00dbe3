// One HTTP request on a connection of its own. A soak's clients may be late by seconds on a busy machine, and a kept-alive
// connection that the server has just closed for idleness would look like a fault of the server.
import http from 'node:http';

export interface Answer {
  status: number;
  text: string;
}

/** With `body`, a POST of that text. Rejects when the connection ends early or `signal` aborts. */
export function request(
  url: string,
  { method, body, signal }: { method?: string; body?: string; signal?: AbortSignal } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) };
    const headers = { 'content-type': 'application/json', ...length };
    const options = { method: method ?? (body === undefined ? 'GET' : 'POST'), headers, agent: false as const };
    const outgoing = http.request(url, signal === undefined ? options : { ...options, signal }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (piece: string) => (text += piece));
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }));
      answer.on('error', reject);
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
