import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FLUSH_WINDOW_MS, Limits } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { HEAD_WAIT_MS, LogWriter, type StreamRenderer } from '../../../src/http/log-writer.ts';
import { EventStream, PING_MS, STALL_MS } from '../../../src/http/sse.ts';
import { Responses } from '../../../src/responses/registry.ts';
import type { Response } from '../../../src/responses/response.ts';
import { FakeEngine } from '../support/fake-engine.ts';
import { fakeExchange } from './fake-response.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe('EventStream', () => {
  it('sends the headers that proxies need, at once', () => {
    const { exchange, response } = fakeExchange();
    const stream = new EventStream(exchange);
    expect(response.status).toBe('200 OK');
    expect(response.headers).toContainEqual(['content-type', 'text/event-stream; charset=utf-8']);
    expect(response.headers).toContainEqual(['cache-control', 'no-cache, no-transform']);
    expect(response.headers).toContainEqual(['x-accel-buffering', 'no']);
    stream.end();
  });

  it('breaks silence with a comment until it ends', () => {
    const { exchange, response } = fakeExchange();
    const stream = new EventStream(exchange);
    vi.advanceTimersByTime(PING_MS * 2 + 10);
    expect(response.body).toBe(': ping\n\n: ping\n\n');
    stream.end();
    vi.advanceTimersByTime(PING_MS * 5);
    expect(response.body).toBe(': ping\n\n: ping\n\n');
    expect(vi.getTimerCount()).toBe(0);
  });

  it('writes nothing into a full socket, and cuts a reader that never takes anything', () => {
    const { exchange, response } = fakeExchange();
    const stream = new EventStream(exchange);
    response.isFull = true;
    stream.write('data: 1\n\n');
    expect(stream.isBlocked).toBe(true);
    vi.advanceTimersByTime(STALL_MS - 1);
    expect(response.body).toBe('data: 1\n\n');
    expect(response.isClosed).toBe(false);
    vi.advanceTimersByTime(1);
    expect(response.isClosed).toBe(true);
    expect(stream.isOver).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('says when the socket takes data again', () => {
    const { exchange, response } = fakeExchange();
    const stream = new EventStream(exchange);
    let numUnblocked = 0;
    stream.onUnblocked = () => numUnblocked++;
    response.isFull = true;
    stream.write('data: 1\n\n');
    response.drain();
    expect(numUnblocked).toBe(1);
    expect(stream.isBlocked).toBe(false);
    vi.advanceTimersByTime(STALL_MS);
    expect(response.isClosed).toBe(false);
    stream.end();
  });

  it('ends its timers when the client goes', () => {
    const { exchange, response } = fakeExchange();
    const stream = new EventStream(exchange);
    response.abort();
    expect(vi.getTimerCount()).toBe(0);
    stream.write('data: late\n\n');
    stream.end();
    expect(response.body).toBe('');
  });
});

/** '<', the text, '>'. */
class PlainRenderer implements StreamRenderer {
  readonly #response: Response;
  seq = -1;
  isDone = false;

  constructor(response: Response) {
    this.#response = response;
  }

  next(limit: number): string {
    const opening = this.seq < 0 ? '<' : '';
    this.seq = Math.max(0, this.seq);
    const entries = this.#response.log.read(this.seq, limit);
    this.seq = entries.at(-1)?.seq ?? this.seq;
    this.isDone = entries.at(-1)?.event.kind === 'end';
    return opening + entries.map(({ event }) => (event.kind === 'text' ? event.text : '>')).join('');
  }
}

describe('LogWriter', () => {
  function start({ isBusy = false, script = ['a', 'b', 'c', 'd'] as FakeEngineScript } = {}) {
    const engine = new FakeEngine();
    engine.script = () => [...script];
    const responses = new Responses();
    engine.onStepEnd = () => responses.publish();
    const options = {
      session: null,
      class: 'chat' as const,
      tools: [],
      sampling: defaultSampling,
      cancelsUnwatched: true,
    };
    const prompt = { kind: 'tokens' as const, tokenIds: [1] };
    const generated = responses.create(engine, localCaller, { ...options, prompt });
    const { exchange, response } = fakeExchange();
    void new LogWriter({
      exchange,
      tracks: [{ response: generated, renderer: new PlainRenderer(generated) }],
      headWaitMs: HEAD_WAIT_MS,
      failsWithStatus: true,
      isBusy: () => isBusy,
      onWritten: () => {},
    });
    return { engine, generated, exchange, response };
  }
  type FakeEngineScript = ReturnType<FakeEngine['script']>;

  it('waits with the head for the first event, but not for long', () => {
    const early = start();
    expect(early.response.status).toBe('');
    early.engine.step();
    expect(early.response.body).toBe('<a');
    const late = start();
    vi.advanceTimersByTime(HEAD_WAIT_MS);
    expect(late.response.body).toBe('<');
    late.engine.run();
    expect(late.response.body).toBe('<abcd>');
  });

  it('writes each step when others do not need the cores', () => {
    const { engine, response } = start();
    engine.step();
    engine.step();
    expect(response.body).toBe('<ab');
    engine.run();
    expect(response.body).toBe('<abcd>');
    expect(response.isEnded).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('collects events of a busy server for one window, but never the first and never the end', () => {
    const { engine, response } = start({ isBusy: true });
    engine.step();
    expect(response.body).toBe('<a');
    engine.step();
    engine.step();
    expect(response.body).toBe('<a');
    vi.advanceTimersByTime(FLUSH_WINDOW_MS);
    expect(response.body).toBe('<abc');
    engine.step();
    engine.step();
    expect(response.body).toBe('<abcd>');
  });

  it('leaves the log alone while the socket is full and goes on from there', () => {
    const { engine, response } = start();
    response.isFull = true;
    engine.step();
    const written = response.body;
    engine.run();
    expect(response.body).toBe(written);
    response.drain();
    expect(response.body).toBe('<abcd>');
    expect(response.isEnded).toBe(true);
  });

  it('parks the response of a reader that stalls, and goes on when it reads', () => {
    const length = 2 * (Limits.creditEvents + Limits.parkBacklogEvents);
    const { engine, response } = start({ script: Array.from({ length }, () => 'x') });
    response.isFull = true;
    for (let step = 0; step < length; step++) engine.step();
    expect(engine.parkings).toEqual([['park', 1]]);
    response.drain();
    expect(engine.parkings).toEqual([
      ['park', 1],
      ['unpark', 1],
    ]);
    engine.run();
    expect(response.body).toBe(`<${'x'.repeat(length)}>`);
  });

  it('answers a failure before the first event with its status', () => {
    const error = new ServiceError('queue_timeout', 'Too long.');
    const { engine, response } = start({ script: [{ end: 'error', error }] });
    engine.step();
    expect(response.status).toMatch(/^503 /);
    expect(JSON.parse(response.body)).toMatchObject({ error: { code: 'queue_timeout' } });
  });

  it('cancels when the client goes and nobody else watches', () => {
    const { engine, generated, response } = start();
    engine.step();
    response.abort();
    engine.step();
    expect(generated.state).toMatchObject({ kind: 'ended', end: { reason: 'cancelled' } });
    expect(vi.getTimerCount()).toBe(0);
  });

  it('lets the response run on when somebody else watches', () => {
    const { engine, generated, response } = start();
    generated.subscribe({ notify: () => {} });
    response.abort();
    engine.run();
    expect(generated.state).toMatchObject({ kind: 'ended', end: { reason: 'stop' } });
  });
});
