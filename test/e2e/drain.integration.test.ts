// The end of the process under load: always in order, always exit code 0, and every client knows what happened to it.
// TRIALS sets how often it is tried.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import { drainUnderLoad } from './support/drain.ts';
import { chat } from './support/http-client.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

/** A context of 4,096 tokens: "endless" takes at least a quarter of a minute. */
const MODEL = 'fake:stepMs=4';
const TRIALS = Number(process.env.TRIALS ?? 20);

async function endBySecondSignal(server: TestServer): Promise<void> {
  // A second delivery of the same Ctrl-C would come sooner.
  await sleep(500);
  server.signal('SIGTERM');
  expect(await server.exited).toEqual({ code: 0, signal: null });
}

describe('SIGTERM under load', () => {
  it(`tells every client and exits 0, ${TRIALS} times in a row`, { timeout: TRIALS * 60_000 }, async () => {
    const times: number[] = [];
    for (let trial = 0; trial < TRIALS; trial++) times.push(await drainUnderLoad({ MODEL, DRAIN_TIMEOUT: '0.5' }));
    console.log(`exit after SIGTERM: ${times.map((ms) => ms.toFixed(0)).join(' ')} ms (500 ms of them drain)`);
  });

  it('refuses who comes during the drain, over both doors', async () => {
    const server = await TestServer.start({ MODEL, DRAIN_TIMEOUT: '60' });
    const client = await NativeClient.connect(server.streamUrl);
    const answer = client.say('endless', { ignoreEos: true });
    await answer.hasText(20);
    server.signal('SIGTERM');
    await client.next(Op.Goaway);
    expect(await client.say('too late').error()).toMatchObject({ code: 'shutting_down', retryable: true });
    const ready = await fetch(`${server.url}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([503, { status: 'draining' }]);
    expect(await chat(server.url, 'too late')).toMatchObject({ status: 503, error: 'shutting_down' });
    await expect(NativeClient.connect(server.streamUrl)).rejects.toThrow('503');
    expect(answer.ending).toBeNull();
    await endBySecondSignal(server);
    expect((await answer.error()).code).toBe('shutting_down');
    expect(client.violations).toEqual([]);
  });

  it('lets answers finish that can within the drain', async () => {
    const server = await TestServer.start({ MODEL, DRAIN_TIMEOUT: '20' });
    const client = await NativeClient.connect(server.streamUrl);
    const answers = Array.from({ length: 8 }, () => client.say('short', { ignoreEos: true, maxTokens: 200 }));
    await Promise.all(answers.map((answer) => answer.hasText()));
    server.signal('SIGTERM');
    for (const answer of answers) expect((await answer.done()).reason).toBe('length');
    expect((await client.closed).code).toBe(1012);
    expect(await server.exited).toEqual({ code: 0, signal: null });
    expect(client.violations).toEqual([]);
  });

  it('ends at once when it comes a second time', async () => {
    const server = await TestServer.start({ MODEL, DRAIN_TIMEOUT: '60' });
    const client = await NativeClient.connect(server.streamUrl);
    const answer = client.say('endless', { ignoreEos: true });
    await answer.hasText(20);
    server.signal('SIGTERM');
    await server.says(/SIGTERM: draining/);
    await endBySecondSignal(server);
    // Long before its own end and that of the drain.
    expect((await answer.error()).code).toBe('shutting_down');
    expect((await client.closed).code).toBe(1012);
  });

  it('ends a server that is still loading', async () => {
    const server = await TestServer.start({ MODEL }, { waits: false });
    await server.says(/listens on/);
    expect(await server.stop()).toEqual({ code: 0, signal: null });
  });
});
