// Threads and processes that die while others are being served: who hears of it, and how soon the service is back.
import { afterEach, describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import { chat } from './support/http-client.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const MODEL = 'fake:stepMs=2;faults=1';
/** Short, so that a test need not wait for the half minute of production; a busy machine may halt a good thread too. */
const HANG_MS = 3000;

let server: TestServer | null = null;

async function start(script: 'main' | 'supervisor', settings: Record<string, string> = {}): Promise<TestServer> {
  server = await TestServer.start({ MODEL, WORKERS: '2', DRAIN_TIMEOUT: '1', ...settings }, { script });
  return server;
}

afterEach(async () => {
  await server?.stop();
  server = null;
});

/** Orders act in the first decode step, which an early end token would spare. */
const fault = { ignoreEos: true };
const sampling = { temperature: 0, ignoreEos: true, maxTokens: 500 };

describe('A worker thread that dies', () => {
  it('ends the responses it held with worker_lost, harms no others, and is replaced', async () => {
    const { streamUrl, url } = await start('main');
    const client = await NativeClient.connect(streamUrl);
    const reference = client.say('a stream', sampling);
    await reference.done();
    const streams = Array.from({ length: 6 }, () => client.say('a stream', sampling));
    await Promise.all(streams.map((stream) => stream.hasText(30)));

    await client.openLane(7);
    const culprit = client.say('!!throw !!', fault, 7);
    expect(await culprit.error()).toMatchObject({ code: 'worker_lost', retryable: true });
    const diedMs = performance.now();
    const next = client.say('!!say alive !!', {}, 7);
    await next.done();
    console.log(`the next answer was whole after ${Math.round(performance.now() - diedMs)} ms (goal: 2,000)`);
    expect(next.text).toBe('alive ');

    const ends = await Promise.all(streams.map((stream) => stream.done()));
    const whole = streams.filter((_, i) => ends[i]!.reason === 'length');
    // The two threads share them; only those of the dead one are lost.
    expect(whole.length).toBeGreaterThan(0);
    for (const { text } of whole) expect(text).toBe(reference.text);
    for (const { error } of ends.filter(({ reason }) => reason === 'error')) expect(error?.code).toBe('worker_lost');
    expect(client.violations).toEqual([]);
    expect(await server!.metric('worker_restarts_total')).toBe(1);
    // The same over HTTP: a status before the first token, or an error event after it.
    const http = await chat(url, '!!throw !!', { stream: true, ignore_eos: true });
    expect(http.error).toBe('worker_lost');
    expect(http.status === 503 || !http.isComplete).toBe(true);
    expect((await chat(url, '!!say alive !!')).text).toBe('alive ');
    expect(server!.serverPids).toHaveLength(1);
    await server!.idle();
  });

  it('while it prefills loses nothing that another thread decodes', async () => {
    const { streamUrl } = await start('main');
    const client = await NativeClient.connect(streamUrl);
    const reference = client.say('a stream', sampling);
    await reference.done();
    const streams = Array.from({ length: 4 }, () => client.say('a stream', sampling));
    await Promise.all(streams.map((stream) => stream.hasText(30)));
    expect(await client.say('!!prefill-throw !!').error()).toMatchObject({ code: 'worker_lost', retryable: true });
    await Promise.all(streams.map((stream) => stream.ended));
    const whole = streams.filter(({ ending }) => ending?.kind === 'done' && ending.reason === 'length');
    expect(whole.length).toBeGreaterThan(0);
    for (const { text } of whole) expect(text).toBe(reference.text);
    expect(client.violations).toEqual([]);
    await server!.idle();
  });
});

describe('A process that cannot go on', () => {
  it('tells its sockets, kills itself when a thread hangs, and is started again', async () => {
    const { streamUrl, url } = await start('supervisor', { HANG_TIMEOUT_MS: String(HANG_MS) });
    const client = await NativeClient.connect(streamUrl);
    const stream = client.say('a stream', { ...sampling, maxTokens: 4000 });
    await stream.hasText(30);
    const http = chat(url, 'a stream', { stream: true, ignore_eos: true, max_tokens: 4000 }).catch(() => 'cut');
    const sentMs = performance.now();
    client.say('!!hang !!', fault);
    expect((await client.next(Op.Goaway))[2]).toBe('worker_lost');
    expect((await client.closed).code).toBe(1012);
    console.log(`closed after ${Math.round(performance.now() - sentMs)} ms, ${HANG_MS} of them of hope`);
    // A stream that was cut must not look complete.
    const cut = await http;
    if (cut !== 'cut') expect(cut).toMatchObject({ isComplete: false });
    await server!.says(/was ended by SIGKILL; starting again/);
    await server!.ready();
    const again = await NativeClient.connect(streamUrl);
    const answer = again.say('!!say alive !!');
    await answer.done();
    expect(answer.text).toBe('alive ');
    expect(new Set(server!.serverPids).size).toBe(2);
    await again.close();
  });

  it('is started again when native code aborts it', async () => {
    const { streamUrl, url } = await start('supervisor');
    const client = await NativeClient.connect(streamUrl);
    const stream = client.say('a stream', { ...sampling, maxTokens: 4000 });
    await stream.hasText(30);
    client.say('!!abort !!', fault);
    // Nobody was left to say goodbye.
    expect((await client.closed).code).toBe(1006);
    await server!.says(/was ended by SIGABRT; starting again/);
    await server!.ready();
    expect((await chat(url, '!!say alive !!')).text).toBe('alive ');
    const again = await NativeClient.connect(streamUrl);
    await again.say('!!say alive !!').done();
    await again.close();
  });

  it('ends after too many deaths of its threads, and is started again', async () => {
    const { url } = await start('supervisor');
    for (let i = 0; i < 6; i++) {
      const answer = await chat(url, '!!prefill-throw !!').catch(() => ({ error: 'worker_lost' }));
      expect(answer.error).toBe('worker_lost');
    }
    await server!.says(/starting again/);
    await server!.ready();
    expect((await chat(url, '!!say alive !!')).text).toBe('alive ');
  });

  it('is not started again for a setting that is wrong: one clear line and exit code 2', async () => {
    for (const settings of [{ SLOTS: 'many' }, { MODEL: 'fake:speed=9' }] as Record<string, string>[]) {
      const wrong = await TestServer.start(settings, { script: 'supervisor', waits: false });
      expect(await wrong.exited).toEqual({ code: 2, signal: null });
      const lines = wrong.output.split('\n').filter((line) => line !== '' && !/"level":30/.test(line));
      expect(lines).toHaveLength(1);
      expect(lines[0]).toMatch(/SLOTS must be .*got "many"|unknown setting .*speed/);
      expect(wrong.output).not.toContain('starting again');
    }
  });
});
