// The least server that speaks streamed Chat Completions: one per peer process, in front of a library that has none.
// The wrappers give it a model; it ends with its parent. It refuses what it does not understand instead of guessing.
import http from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ChatRequest {
  messages: { role: string; content: string }[];
  maxTokens: number;
  ignoreEos: boolean;
}

export interface PeerModel {
  name: string;
  /** Greedy answer. `onText` takes text as it comes; an abort ends it as soon as the library allows, with any result. */
  answer(request: ChatRequest, onText: (text: string) => void, signal: AbortSignal): Promise<PeerAnswer>;
}

export interface PeerAnswer {
  promptTokens: number;
  completionTokens: number;
}

/** The wrapper process tells its parent one of these, once. */
export type PeerStarted = { url: string } | { error: string };

const MAX_BODY_BYTES = 1 << 22;

/** Listens on a free port of 127.0.0.1. The caller closes it. */
export async function listen(model: PeerModel): Promise<{ server: http.Server; url: string }> {
  const server = http.createServer((request, response) => {
    handle(model, request, response).catch((error: unknown) => refuse(response, 500, String(error)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function tell(message: PeerStarted): void {
  process.send?.(message);
}

/** What a wrapper does as a process: loads, listens, says where, and ends when its parent is gone. */
export function runPeer(load: () => Promise<PeerModel>): void {
  process.on('disconnect', () => process.exit());
  load()
    .then(listen)
    .then(
      ({ url }) => tell({ url }),
      (error: unknown) => tell({ error: error instanceof Error ? error.message : String(error) }),
    );
}

async function handle(model: PeerModel, request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
  if (request.method === 'GET' && request.url === '/v1/models') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ object: 'list', data: [{ id: model.name, object: 'model' }] }));
    return;
  }
  if (request.method !== 'POST' || request.url !== '/v1/chat/completions') {
    refuse(response, 404, 'only POST /v1/chat/completions and GET /v1/models');
    return;
  }
  const chat = parseChat(await readBody(request));
  if (typeof chat === 'string') {
    refuse(response, 400, chat);
    return;
  }
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  response.socket?.setNoDelay(true);
  // Set, not sent: what fails before its first text can still be answered with a status.
  response.setHeader('content-type', 'text/event-stream');
  const send = (choices: object[], more: object = {}): void => {
    if (!gone.signal.aborted) {
      const chunk = { id: 'chatcmpl-peer', object: 'chat.completion.chunk', model: model.name, choices, ...more };
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    }
  };
  const onText = (content: string): void => send([{ index: 0, delta: { content }, finish_reason: null }]);
  const { promptTokens, completionTokens } = await model.answer(chat, onText, gone.signal);
  if (gone.signal.aborted) return;
  const reason = completionTokens < chat.maxTokens ? 'stop' : 'length';
  send([{ index: 0, delta: {}, finish_reason: reason }]);
  const total = promptTokens + completionTokens;
  send([], { usage: { prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: total } });
  response.end('data: [DONE]\n\n');
}

async function readBody(request: http.IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    length += piece.length;
    if (length > MAX_BODY_BYTES) return '';
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

/** The request, or why it is refused. */
function parseChat(body: string): ChatRequest | string {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    return 'the body is no JSON';
  }
  if (typeof json !== 'object' || json === null) return 'the body is no object';
  const {
    messages,
    max_tokens: maxTokens,
    ignore_eos: ignoreEos,
    stream,
    temperature,
  } = json as Record<string, unknown>;
  if (stream !== true) return 'stream has to be true';
  if (temperature !== 0) return 'temperature has to be 0';
  if (!Number.isInteger(maxTokens) || (maxTokens as number) < 1) return 'max_tokens has to be a positive whole number';
  if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isMessage)) {
    return 'messages has to be a list of role and content';
  }
  return { messages, maxTokens: maxTokens as number, ignoreEos: ignoreEos === true };
}

function isMessage(value: unknown): value is ChatRequest['messages'][number] {
  const { role, content } = (value ?? {}) as Record<string, unknown>;
  return typeof role === 'string' && typeof content === 'string';
}

function refuse(response: http.ServerResponse, status: number, message: string): void {
  if (response.headersSent) {
    // Mid-stream there is no other way left to say that it failed.
    response.destroy();
    return;
  }
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: { message, type: 'invalid_request_error' } }));
}
