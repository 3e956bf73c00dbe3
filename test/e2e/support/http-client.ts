// Chat Completions over HTTP as scripts use it, and TCP sockets for what no HTTP library would send or leave unread.
import { connect } from 'node:net';
import type { Socket } from 'node:net';

export interface HttpAnswer {
  status: number;
  text: string;
  /** finish_reason of a complete answer. */
  reason: string | null;
  /** The error's code, as status or inside a stream. */
  error: string | null;
  /** A stream ended with [DONE]. */
  isComplete: boolean;
}

interface Body {
  choices?: { message?: { content: string | null }; delta?: { content?: string }; finish_reason: string | null }[];
  error?: { code: string };
}

/** Sends a chat request; `stream: true` in the fields reads events. Rejects when the connection is cut. */
export async function chat(url: string, content: string, fields: Record<string, unknown> = {}): Promise<HttpAnswer> {
  const messages = [{ role: 'user', content }];
  const answer = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages, ...fields }),
  });
  const raw = await answer.text();
  const isStream = answer.headers.get('content-type')?.startsWith('text/event-stream') === true;
  const events = isStream ? raw.split('\n\n').filter((event) => event.startsWith('data: ')) : [`data: ${raw}`];
  const result: HttpAnswer = { status: answer.status, text: '', reason: null, error: null, isComplete: !isStream };
  for (const event of events.map((line) => line.slice('data: '.length))) {
    if (event === '[DONE]') {
      result.isComplete = true;
      continue;
    }
    const body = JSON.parse(event) as Body;
    const choice = body.choices?.[0];
    result.text += choice?.message?.content ?? choice?.delta?.content ?? '';
    result.reason = choice?.finish_reason ?? result.reason;
    result.error = body.error?.code ?? result.error;
  }
  return result;
}

/** A streaming chat request on a bare socket that reads nothing until it is resumed. */
export async function stalledChat(port: number, content: string, fields: object): Promise<Socket> {
  const body = JSON.stringify({ messages: [{ role: 'user', content }], stream: true, ...fields });
  const socket = await tcp(port);
  socket.pause();
  const length = Buffer.byteLength(body);
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${length}\r\n\r\n${body}`);
  return socket;
}

export function tcp(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket));
    socket.once('error', reject);
    socket.on('error', () => undefined);
  });
}

/** Writes this and returns what came until the server closes, or is silent for `silentMs`. */
export async function exchange(port: number, bytes: string | Uint8Array, silentMs = 300): Promise<string> {
  const socket = await tcp(port);
  return new Promise((resolve) => {
    let answer = '';
    const finish = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(finish, silentMs);
    socket.on('data', (data) => {
      answer += data.toString('latin1');
      timer.refresh();
    });
    socket.on('close', finish);
    socket.write(bytes);
  });
}
