// SIGTERM in the middle of many answers: one trial with its checks, for any model.
import { expect } from 'vitest';
import { Op } from '../../../protocol/messages.ts';
import { chat } from './http-client.ts';
import { NativeClient } from './native-client.ts';
import { TestServer } from './test-server.ts';

const SOCKETS = 3;
const STREAMS_PER_SOCKET = 4;
const HTTP_STREAMS = 12;

/** Starts a server, fills it with endless streams, ends it, and returns the milliseconds from SIGTERM to its exit. */
export async function drainUnderLoad(settings: Record<string, string>): Promise<number> {
  const server = await TestServer.start(settings);
  const clients = await Promise.all(Array.from({ length: SOCKETS }, () => NativeClient.connect(server.streamUrl)));
  const endless = { ignoreEos: true };
  const streams = clients.flatMap((client) =>
    Array.from({ length: STREAMS_PER_SOCKET }, (_, i) => client.say(`endless ${i}`, endless)),
  );
  const http = Array.from({ length: HTTP_STREAMS }, (_, i) =>
    chat(server.url, `endless ${i}`, { stream: true, ignore_eos: true }),
  );
  await Promise.all(streams.map((stream) => stream.hasText(20)));
  while ((await server.metric('requests_running')) < streams.length + HTTP_STREAMS) {
    expect(streams.every(({ ending }) => ending === null)).toBe(true);
  }

  const sentMs = performance.now();
  server.signal('SIGTERM');
  await Promise.all(clients.map((client) => client.next(Op.Goaway)));
  for (const client of clients) expect(await client.closed).toEqual({ code: 1012, reason: 'restart' });
  for (const stream of streams) expect((await stream.error()).code).toBe('shutting_down');
  for (const answer of await Promise.all(http)) {
    expect(answer).toMatchObject({ status: 200, error: 'shutting_down', isComplete: false });
    expect(answer.text.length).toBeGreaterThan(0);
  }
  expect(await server.exited).toEqual({ code: 0, signal: null });
  expect(clients.flatMap(({ violations }) => violations)).toEqual([]);
  expect(server.output).not.toMatch(/"level":[56]0/);
  return performance.now() - sentMs;
}
