import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { decode, encode } from '../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import { ListenError } from '../../src/server.ts';
import { startTestApp, until, type TestApp, type TestAppOptions } from './http/test-app.ts';

const started: TestApp[] = [];
const start = (options: TestAppOptions = {}): TestApp => {
  const test = startTestApp(options);
  started.push(test);
  return test;
};
afterEach(async () => {
  for (const test of started.splice(0)) await test.stop();
});

interface Opened {
  socket: WebSocket;
  closed: Promise<number>;
}

/** Resolves with the open socket, or with the status the upgrade was refused with. */
function open(test: TestApp, protocols: string[] = [], headers: Record<string, string> = {}): Promise<Opened | number> {
  const socket = new WebSocket(`${test.url.replace('http', 'ws')}/v1/stream`, protocols, {
    headers,
    rejectUnauthorized: false,
  });
  const closed = new Promise<number>((resolve) => socket.on('close', resolve));
  return new Promise((resolve) => {
    socket.on('open', () => resolve({ socket, closed }));
    socket.on('unexpected-response', (_request, answer) => {
      resolve(answer.statusCode ?? 0);
      socket.terminate();
    });
    socket.on('error', () => {});
  });
}

async function mustOpen(...args: Parameters<typeof open>): Promise<Opened> {
  const opened = await open(...args);
  if (typeof opened === 'number') throw new Error(`refused with ${opened}`);
  return opened;
}

/** Says hello and returns what came back. */
function greet({ socket }: Opened, token?: string): Promise<unknown[]> {
  return new Promise((resolve) => {
    socket.on('message', (data: Buffer) => resolve(decode(data) as unknown[]));
    socket.send(encode([Op.Hello, 0, PROTOCOL_VERSION, token === undefined ? {} : { token }]));
  });
}

describe('WS /v1/stream', () => {
  it('selects the subprotocol when it is offered, and none otherwise', async () => {
    const test = start();
    expect((await mustOpen(test, ['other', SUBPROTOCOL])).socket.protocol).toBe(SUBPROTOCOL);
    expect((await mustOpen(test)).socket.protocol).toBe('');
  });

  it('speaks the native protocol', async () => {
    const test = start();
    const welcome = await greet(await mustOpen(test, [SUBPROTOCOL]));
    expect(welcome.slice(0, 3)).toEqual([Op.Welcome, 0, PROTOCOL_VERSION]);
  });

  it('refuses with a status line that strict clients can read', async () => {
    const test = start();
    const { port, hostname } = new URL(test.url);
    const socket = connect(Number(port), hostname);
    socket.write(
      `GET /v1/stream HTTP/1.1\r\nHost: ${hostname}:${port}\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\n` +
        'Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );
    const [data] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    expect(data.toString().split('\r\n')[0]).toBe('HTTP/1.1 403 Forbidden');
  });

  it('refuses foreign pages and foreign names before the upgrade', async () => {
    const test = start({ allowedOrigins: ['https://chat.example.org'] });
    expect(await open(test, [], { origin: 'https://evil.example' })).toBe(403);
    expect(await open(test, [], { host: 'evil.example' })).toBe(403);
    expect(typeof (await open(test, [], { origin: 'https://chat.example.org' }))).toBe('object');
    expect(typeof (await open(test, [], { origin: test.url }))).toBe('object');
  });

  it('takes a key from the header or from hello, and refuses wrong ones', async () => {
    const test = start({ apiKeys: [{ tenant: 'team', key: 'right' }] });
    expect(await open(test, [], { authorization: 'Bearer wrong' })).toBe(401);
    const withHeader = await mustOpen(test, [], { authorization: 'Bearer right' });
    expect((await greet(withHeader))[0]).toBe(Op.Welcome);
    expect((await greet(await mustOpen(test), 'right'))[0]).toBe(Op.Welcome);
    const wrong = await mustOpen(test);
    void greet(wrong, 'wrong');
    expect(await wrong.closed).toBe(1008);
    const missing = await mustOpen(test);
    void greet(missing);
    expect(await missing.closed).toBe(1008);
  });

  it('cuts a message beyond the transport limit and serves the others', async () => {
    const test = start();
    const big = await mustOpen(test);
    const other = await mustOpen(test);
    big.socket.send(Buffer.alloc(6 << 20));
    expect(await big.closed).toBe(1006);
    expect((await greet(other))[0]).toBe(Op.Welcome);
  });

  it('ends with goaway and 1012 when the server stops, and refuses newcomers meanwhile', async () => {
    const test = start();
    const opened = await mustOpen(test);
    await greet(opened);
    const frames: unknown[][] = [];
    opened.socket.on('message', (data: Buffer) => frames.push(decode(data) as unknown[]));
    test.engine.script = () => Array.from({ length: 1e6 }, () => 'x');
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });
    const running = fetch(`${test.url}/v1/chat/completions`, { method: 'POST', body }).catch(() => null);
    await until('it runs', () => test.engine.active.size === 1);
    const stopped = test.app.stop(200);
    expect(await open(test)).toBe(503);
    test.play();
    expect(await opened.closed).toBe(1012);
    expect(frames.map((frame) => frame[0])).toContain(Op.Goaway);
    await Promise.all([stopped, running]);
    test.pause();
    started.length = 0;
  });
});

describe('server', () => {
  it('counts open sockets of both kinds and forgets those that went', async () => {
    const test = start();
    const { server } = test.app;
    const first = await mustOpen(test);
    await mustOpen(test);
    const plain = connect(server.port, '127.0.0.1');
    await until('all are counted', () => server.connections().websocket === 2 && server.connections().http === 1);
    first.socket.terminate();
    plain.destroy();
    await until('two went', () => server.connections().websocket === 1 && server.connections().http === 0);
  });

  it('answers 503 beyond the connection limit, closes what comes far beyond, and recovers', async () => {
    const test = start({ maxConnections: 20 });
    const sockets: Opened[] = [];
    for (let i = 0; i < 20; i++) sockets.push(await mustOpen(test));
    expect(await open(test)).toBe(503);
    const refused = await fetch(`${test.url}/healthz`);
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: 'too_many_connections' } });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);

    const idle: Socket[] = [];
    let numClosed = 0;
    for (let i = 0; i < 300; i++) {
      const socket = connect(test.app.server.port, '127.0.0.1');
      socket.on('close', () => numClosed++);
      socket.on('error', () => {});
      idle.push(socket);
    }
    await until('the excess is closed', () => numClosed >= 190);
    const { http, websocket } = test.app.server.connections();
    expect(http + websocket).toBeLessThanOrEqual(120);
    for (const socket of idle) socket.destroy();
    for (const { socket } of sockets.slice(10)) socket.terminate();
    await until('room again', () => test.app.server.connections().websocket === 10);
    await until('idle ones are gone', () => test.app.server.connections().http <= 2);
    expect((await fetch(`${test.url}/healthz`)).status).toBe(200);
  });

  it('refuses a port that is taken, before any engine starts', async () => {
    const first = start();
    expect(() => startTestApp({ port: first.app.server.port })).toThrow(ListenError);
    expect(() => startTestApp({ port: first.app.server.port })).toThrow(/port \d+: the port is taken/);
  });

  it('keeps a bug of one request from the others, and tells the client only that it happened', async () => {
    const test = start();
    test.engine.script = () => {
      throw new Error('secret detail');
    };
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });
    const answer = await fetch(`${test.url}/v1/chat/completions`, { method: 'POST', body });
    expect(answer.status).toBe(500);
    expect(await answer.text()).not.toContain('secret detail');
    expect(test.logLines.join('')).toContain('secret detail');
    expect((await fetch(`${test.url}/healthz`)).status).toBe(200);
  });

  it('serves HTTPS and WSS with a certificate', async (context) => {
    const dir = mkdtempSync(join(tmpdir(), 'tokenwire-tls-'));
    const tlsKey = join(dir, 'key.pem');
    const tlsCert = join(dir, 'cert.pem');
    try {
      try {
        const what = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', '/CN=localhost'];
        execFileSync('openssl', [...what, '-keyout', tlsKey, '-out', tlsCert], { stdio: 'ignore' });
      } catch {
        context.skip('no openssl here to make a certificate');
      }
      const test = start({ tlsCert, tlsKey });
      expect(test.url).toMatch(/^https:/);
      expect((await greet(await mustOpen(test, [SUBPROTOCOL])))[0]).toBe(Op.Welcome);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
