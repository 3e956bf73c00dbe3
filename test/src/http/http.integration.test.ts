import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { rawRequest, statusOf } from './raw.ts';
import { startTestApp, until, type TestApp } from './test-app.ts';

let test: TestApp;
beforeAll(() => {
  test = startTestApp({ allowedOrigins: ['https://chat.example.org'] });
  test.play();
});
afterAll(() => test.stop());

const get = (path: string, init: RequestInit = {}) => fetch(test.url + path, init);
const post = (body: RequestInit['body'], headers: Record<string, string> = {}) =>
  get('/v1/chat/completions', { method: 'POST', body: body ?? null, headers });
const chat = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });

describe('HTTP', () => {
  it('lists models and finds one by id or alias', async () => {
    const list = await (await get('/v1/models')).json();
    expect(list).toMatchObject({ object: 'list', data: [{ id: 'fake', object: 'model', owned_by: 'tokenwire' }] });
    expect(await (await get('/v1/models/fake')).json()).toMatchObject({ id: 'fake', context_length: 4096 });
    expect((await get('/v1/models/default')).status).toBe(200);
    expect((await get('/v1/models/some/other%20model')).status).toBe(404);
    expect((await get('/v1/models/%ff')).status).toBe(404);
  });

  it('answers probes and metrics', async () => {
    expect(await (await get('/healthz')).json()).toEqual({ status: 'ok' });
    expect(await (await get('/readyz')).json()).toEqual({ status: 'ready' });
    await post(chat);
    const text = await (await get('/metrics')).text();
    for (const name of [
      'time_to_first_token_seconds',
      'inter_token_latency_seconds',
      'queue_time_seconds',
      'step_seconds',
      'batch_size',
      'kv_used_tokens',
      'kv_moved_tokens_total',
      'connections',
      'cancel_latency_seconds',
      'token_to_write_seconds',
      'worker_restarts_total',
      'hook_misses',
    ]) {
      expect(text).toContain(`# TYPE tokenwire_${name}`);
    }
    expect(text).toMatch(/tokenwire_generation_tokens_total\{model="fake"\} [1-9]/);
  });

  it('answers unknown paths and wrong methods as JSON errors', async () => {
    const unknown = await get('/v1/nothing');
    expect(unknown.status).toBe(404);
    expect(await unknown.json()).toMatchObject({ error: { code: 'not_found', type: 'invalid_request_error' } });
    const wrong = await get('/v1/chat/completions');
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get('allow')).toBe('POST, OPTIONS');
    expect((await get('/v1/models', { method: 'DELETE' })).status).toBe(405);
    expect((await get('/nothing', { method: 'POST' })).status).toBe(404);
  });

  it('ends JSON with a line break, so that a terminal goes on below it', async () => {
    expect((await (await get('/v1/models')).text()).endsWith('}\n')).toBe(true);
    expect((await (await get('/nothing')).text()).endsWith('}\n')).toBe(true);
  });

  it('answers HEAD like GET, without a body', async () => {
    const head = await get('/v1/models', { method: 'HEAD' });
    const full = await get('/v1/models');
    expect(head.status).toBe(200);
    expect(await head.text()).toBe('');
    expect(Number(head.headers.get('content-length'))).toBe((await full.text()).length);
  });

  it('gives every answer a request id of its own', async () => {
    const ids = await Promise.all([1, 2, 3].map(async () => (await get('/healthz')).headers.get('x-request-id')));
    expect(new Set(ids).size).toBe(3);
    expect(ids.every((id) => /^req_[0-9a-f]{24}$/.test(id ?? ''))).toBe(true);
  });

  it.each<[title: string, body: string | Uint8Array, message: RegExp]>([
    ['no body', '', /no body/],
    ['broken JSON', '{"messages": [', /cannot be read as JSON/],
    ['an array', '[]', /must be a JSON object/],
    ['a number', '5', /must be a JSON object/],
    ['invalid UTF-8', new Uint8Array([0x22, 0xff, 0xfe, 0x22]), /cannot be read as JSON/],
    ['JSON nested too deeply', `{"a":${'['.repeat(100_000)}`, /nested deeper than/],
    ['well-formed JSON nested too deeply', `{"a":${'['.repeat(1000)}${']'.repeat(1000)}}`, /nested deeper than/],
  ])('refuses %s with 400', async (_title, body, message) => {
    const answer = await post(body as RequestInit['body']);
    expect(answer.status).toBe(400);
    const { error } = (await answer.json()) as { error: { code: string; message: string } };
    expect(error.code).toBe('invalid_request');
    expect(error.message).toMatch(message);
    expect(answer.headers.get('x-should-retry')).toBe('false');
  });

  it('refuses an oversized body with 413, declared or streamed', async () => {
    const declared = await post(Buffer.alloc(Limits.httpBodyBytes + 1, 0x20));
    expect(declared.status).toBe(413);
    expect(await declared.json()).toMatchObject({ error: { code: 'too_large' } });
    const chunk = new Uint8Array(1 << 20).fill(0x20);
    let left = 10;
    const body = new ReadableStream({
      pull(controller) {
        if (left-- > 0) controller.enqueue(chunk);
        else controller.close();
      },
    });
    const streamed = await get('/v1/chat/completions', { method: 'POST', body, duplex: 'half' } as RequestInit);
    expect(streamed.status).toBe(413);
  });

  it('takes a message of 400,000 words', async () => {
    const content = 'word '.repeat(400_000);
    const answer = await post(JSON.stringify({ messages: [{ role: 'user', content }] }));
    expect(answer.status).toBe(200);
  });

  it('takes a body that arrives byte by byte', async () => {
    const bytes = `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${chat.length}\r\n\r\n`;
    const { connect } = await import('node:net');
    const socket = connect(test.app.server.port, '127.0.0.1');
    const answer = new Promise<string>((resolve) => socket.once('data', (data) => resolve(String(data))));
    socket.write(bytes);
    for (const byte of chat) {
      socket.write(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(statusOf(await answer)).toBe(200);
    socket.destroy();
  });

  it('serves a page with a strict policy, and a 304 to those who have it', async () => {
    test.app.services.web.set('/index.html', 'text/html', Buffer.from('<p>page'));
    const page = await get('/');
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
    const again = await get('/', { headers: { 'if-none-match': page.headers.get('etag')! } });
    expect(again.status).toBe(304);
    for (const path of ['/../package.json', '/%2e%2e/package.json', '//etc/passwd', '/index.html/../x', '/__proto__']) {
      const answer = await rawRequest(test.app.server.port, `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`, 50);
      expect(statusOf(answer)).toBe(404);
    }
  });
});

const getWithHost = (host: string) =>
  rawRequest(test.app.server.port, `GET /v1/models HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`, 50);

describe('Origin, Host and CORS', () => {
  const foreign = { origin: 'https://evil.example' };
  const listed = { origin: 'https://chat.example.org' };

  it('refuses posts from pages of other origins, before the body is read', async () => {
    const answer = await post(chat, foreign);
    expect(answer.status).toBe(403);
    expect(await answer.json()).toMatchObject({ error: { code: 'not_allowed', type: 'permission_error' } });
    expect(answer.headers.get('access-control-allow-origin')).toBeNull();
    expect((await post(chat, { origin: 'null' })).status).toBe(403);
  });

  it('refuses a Host that is not ours', async () => {
    expect(statusOf(await getWithHost('evil.example'))).toBe(403);
    expect(statusOf(await getWithHost('localhost:1'))).toBe(200);
    expect(statusOf(await getWithHost('chat.example.org'))).toBe(200);
  });

  it('lets probes ask under any name', async () => {
    const answer = await rawRequest(test.app.server.port, 'GET /readyz HTTP/1.1\r\nhost: pod-7.internal\r\n\r\n', 50);
    expect(statusOf(answer)).toBe(200);
  });

  it('lets no foreign page read what probes say, and tells metrics only under names of ours', async () => {
    for (const path of ['/readyz', '/healthz']) {
      const answer = await get(path, { headers: foreign });
      expect(answer.status).toBe(200);
      expect(answer.headers.get('access-control-allow-origin')).toBeNull();
      const allowed = await get(path, { headers: listed });
      expect(allowed.headers.get('access-control-allow-origin')).toBe(listed.origin);
    }
    const refused = await get('/metrics', { headers: foreign });
    expect(refused.status).toBe(403);
    expect(refused.headers.get('access-control-allow-origin')).toBeNull();
    // A page whose name was bound to this address sends no Origin, since it counts as of the same.
    const rebound = await rawRequest(test.app.server.port, 'GET /metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n', 50);
    expect(statusOf(rebound)).toBe(403);
  });

  it('serves its own pages and listed origins, and lets the latter read the answer', async () => {
    expect((await post(chat, { origin: test.url })).status).toBe(200);
    const answer = await post(chat, listed);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('access-control-allow-origin')).toBe(listed.origin);
    expect(answer.headers.get('vary')).toBe('origin');
    const failed = await post('{', listed);
    expect(failed.headers.get('access-control-allow-origin')).toBe(listed.origin);
  });

  it('answers preflights of listed origins only', async () => {
    const preflight = {
      method: 'OPTIONS',
      headers: {
        ...listed,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,content-type,x-stainless-os',
      },
    };
    const answer = await get('/v1/chat/completions', preflight);
    expect(answer.status).toBe(204);
    expect(answer.headers.get('access-control-allow-methods')).toContain('POST');
    expect(answer.headers.get('access-control-allow-headers')).toBe('authorization,content-type,x-stainless-os');
    const refused = await get('/v1/chat/completions', { ...preflight, headers: { ...preflight.headers, ...foreign } });
    expect(refused.status).toBe(403);
    expect((await get('/v1/models', { method: 'OPTIONS' })).headers.get('allow')).toBe('GET, HEAD, OPTIONS');
  });
});

describe('keys', () => {
  it('are asked for on every endpoint but the probes', async () => {
    const keyed = startTestApp({ apiKeys: [{ tenant: 'team', key: 'right' }] });
    keyed.play();
    const ask = (path: string, key: string, body?: string) =>
      fetch(keyed.url + path, {
        method: body ? 'POST' : 'GET',
        body: body ?? null,
        headers: key ? { authorization: `Bearer ${key}` } : {},
      });
    for (const key of ['', 'wrong']) {
      const answer = await ask('/v1/chat/completions', key, chat);
      expect(answer.status).toBe(401);
      expect(answer.headers.get('www-authenticate')).toBe('Bearer');
      expect(await answer.json()).toMatchObject({ error: { code: 'invalid_api_key' } });
      expect((await ask('/v1/models', key)).status).toBe(401);
    }
    expect((await ask('/v1/chat/completions', 'right', chat)).status).toBe(200);
    expect(keyed.engine.submitted.at(-1)?.tenant).toBe('team');
    for (const path of ['/healthz', '/readyz', '/metrics']) expect((await ask(path, '')).status).toBe(200);
    await keyed.stop();
  });
});

describe('a server that is not ready', () => {
  it('listens, is alive, says how far it is and asks to come back', async () => {
    const loading = startTestApp({ isReady: false });
    const ready = await fetch(`${loading.url}/readyz`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toEqual({
      status: 'loading',
      models: [{ model: 'fake', phase: 'compiling', done: 0.5 }],
    });
    expect((await fetch(`${loading.url}/healthz`)).status).toBe(200);
    const answer = await fetch(`${loading.url}/v1/chat/completions`, { method: 'POST', body: chat });
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('1');
    expect(await answer.json()).toMatchObject({ error: { code: 'model_loading' } });
    await loading.stop();
  });
});

describe('junk', () => {
  it('does not hurt the server: 10,000 bad requests of every kind, then a good one', async () => {
    const { port } = test.app.server;
    const kinds = [
      'GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n{"a',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15\r\n\r\n{"messages":[]}',
      'DELETE /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 2\r\n\r\n{}',
      'GET /v1/models/%%% HTTP/1.1\r\nhost: localhost\r\n\r\n',
      `GET /${'a'.repeat(3000)} HTTP/1.1\r\nhost: localhost\r\n\r\n`,
      'BREW /coffee HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\nx',
      `GET / HTTP/1.1\r\nhost: localhost\r\nx-huge: ${'b'.repeat(20_000)}\r\n\r\n`,
      'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n',
      'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      '\u0000\u0001\u0002\u0003\r\n\r\n',
      'GET / HTTP/1.1\r\n\r\n',
    ];
    let next = 0;
    const answers = new Map<number, number>();
    const client = async (): Promise<void> => {
      while (next < 10_000) {
        const request = kinds[next++ % kinds.length]!;
        const status = statusOf(await firstAnswer(port, request));
        answers.set(status, (answers.get(status) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: 50 }, client));
    // Whatever it was, nothing of it was a success or a fault of ours (505 is the transport's word for garbage).
    for (const status of answers.keys()) expect([0, 400, 403, 404, 405, 413, 431, 505]).toContain(status);
    expect((await post(chat)).status).toBe(200);
    expect(test.logLines.filter((line) => line.includes('"level":50'))).toEqual([]);
    await until('no request is left behind', () => test.engine.active.size === 0);
    expect(test.app.services.responses.active).toBe(0);
  });
});

/** The first bytes the server answers; '' when it closes without a word or is silent for half a second. */
async function firstAnswer(port: number, request: string): Promise<string> {
  const { connect } = await import('node:net');
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    const finish = (answer: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => finish(''), 500);
    socket.once('data', (data) => finish(data.toString('latin1')));
    socket.once('error', () => finish(''));
    socket.once('close', () => finish(''));
    socket.write(request);
  });
}
