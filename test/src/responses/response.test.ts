import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Response } from '../../../src/responses/response.ts';
import type { CreateResponse } from '../../../src/responses/registry.ts';
import { House, settle } from '../support/house.ts';

const options: CreateResponse = { session: null, class: 'chat', tools: [], sampling: defaultSampling };
const prompt = { kind: 'tokens' as const, tokenIds: [1, 2, 3] };

function begin(house: House, more: Partial<CreateResponse> = {}): Response {
  return house.responses.create(house.engine, localCaller, { ...options, ...more, prompt });
}

describe('Response', () => {
  it('goes from queued over prefilling and running to ended, and keeps text, ids and counts', async () => {
    const house = new House();
    house.engine.script = () => ['Hel', '', 'lo', { text: '!' }];
    const response = begin(house);
    expect(response.id).toMatch(/^resp_[0-9a-f]{32}$/);
    expect(response.state.kind).toBe('queued');
    house.engine.active.get(1)!.sink.onPrefill(2);
    expect(response.state.kind).toBe('prefilling');
    house.engine.step();
    expect(response.state.kind).toBe('running');
    house.engine.run();
    const end = await response.ended;
    expect(response.state).toMatchObject({ kind: 'ended', end });
    expect(end.reason).toBe('stop');
    expect(response.text).toBe('Hello!');
    expect(response.tokenIds).toHaveLength(3);
    expect(end.usage).toEqual({ promptTokens: 3, cachedTokens: 2, completionTokens: 3, droppedMessages: 0 });
    // A token without text is counted but is no event: three texts and the end.
    expect(response.log.head).toBe(4);
    house.stop();
  });

  it('measures queue, prefill, first token and total', () => {
    const house = new House();
    const response = begin(house);
    const { sink } = house.engine.active.get(1)!;
    house.nowMs += 10;
    sink.onPrefill(0);
    house.nowMs += 20;
    expect(response.timings).toEqual({ queuedMs: 10, prefillMs: 20, ttftMs: 0, totalMs: 30 });
    sink.onToken(1, 'a', house.nowMs);
    house.nowMs += 5;
    sink.onEnd('stop', null);
    house.nowMs += 1000;
    expect(response.timings).toEqual({ queuedMs: 10, prefillMs: 20, ttftMs: 30, totalMs: 35 });
    house.stop();
  });

  it('never says that the first token came before its wait was over', () => {
    const house = new House();
    const response = begin(house);
    const { sink } = house.engine.active.get(1)!;
    // The worker began and sampled within 2 ms; this thread was busy and heard of both after 15.
    const sampledAtMs = house.nowMs + 2;
    house.nowMs += 15;
    sink.onPrefill(0);
    sink.onToken(1, 'a', sampledAtMs);
    sink.onEnd('stop', null);
    expect(response.timings).toEqual({ queuedMs: 2, prefillMs: 0, ttftMs: 2, totalMs: 15 });
    house.stop();
  });

  it('has zero for phases it never reached', () => {
    const house = new House();
    const response = begin(house);
    house.nowMs += 7;
    house.engine.active.get(1)!.sink.onEnd('error', new ServiceError('queue_timeout', 'Too late.'));
    expect(response.timings).toEqual({ queuedMs: 7, prefillMs: 0, ttftMs: 0, totalMs: 7 });
    house.stop();
  });

  it('ends exactly once: a second end or an event after it is an assertion and changes nothing', () => {
    const house = new House();
    const response = begin(house);
    const { sink } = house.engine.active.get(1)!;
    house.engine.run();
    const { head } = response.log;
    expect(() => sink.onEnd('stop', null)).toThrow('after its end');
    expect(() => sink.onToken(1, 'x', 0)).toThrow('after its end');
    expect(() => sink.onText('x')).toThrow('after its end');
    expect(() => sink.onToolBegin(0, 'f')).toThrow('after its end');
    expect(response.log.head).toBe(head);
    expect(response.tokenIds).toHaveLength(3);
    house.stop();
  });

  it('cancels idempotently, and ends as cancelled with exact usage', async () => {
    const house = new House();
    const response = begin(house);
    house.engine.step();
    response.cancel();
    response.cancel();
    expect(house.engine.cancelled).toEqual([1]);
    expect(response.isEnded).toBe(false);
    house.engine.step();
    expect(await response.ended).toMatchObject({ reason: 'cancelled', usage: { completionTokens: 1 } });
    response.cancel();
    expect(response.log.head).toBe(2);
    house.stop();
  });

  it('ends with our error when we cancelled it on our own account', async () => {
    const house = new House();
    const response = begin(house);
    house.engine.step();
    const done = house.responses.cancelAll('shutting_down', 'Bye.');
    house.engine.step();
    await done;
    expect(await response.ended).toMatchObject({ reason: 'error', error: { code: 'shutting_down' } });
    house.stop();
  });

  it('keeps its own finish when it ended before our cancel took effect', async () => {
    const house = new House();
    house.engine.script = () => [];
    const response = begin(house);
    response.fail(new ServiceError('shutting_down', 'Bye.'));
    house.engine.active.get(1)!.isCancelled = false;
    house.engine.step();
    expect(await response.ended).toMatchObject({ reason: 'stop', error: null });
    house.stop();
  });

  it('gathers tool calls with ids of their own', () => {
    const house = new House();
    house.engine.script = () => [
      { toolBegin: 'f', index: 0 },
      { toolDelta: '{"a":', index: 0 },
      { toolDelta: '1}', index: 0 },
      { toolEnd: 0 },
      { toolBegin: 'g', index: 1 },
      { toolDelta: '{}', index: 1 },
      { toolEnd: 1 },
      { end: 'tool_calls' },
    ];
    const response = begin(house, { tools: [{ name: 'f' }, { name: 'g' }] });
    house.engine.run();
    expect(house.engine.submitted[0]!.toolNames).toEqual(['f', 'g']);
    expect(response.toolCalls.map(({ name, arguments: args }) => [name, args])).toEqual([
      ['f', '{"a":1}'],
      ['g', '{}'],
    ]);
    expect(new Set(response.toolCalls.map((call) => call.id)).size).toBe(2);
    for (const { id } of response.toolCalls) expect(id).toMatch(/^call_[0-9a-f]{24}$/);
    house.stop();
  });

  it('asserts that tool calls begin in order and before their pieces', () => {
    const house = new House();
    begin(house);
    const { sink } = house.engine.active.get(1)!;
    expect(() => sink.onToolDelta(0, '{')).toThrow('without a beginning');
    expect(() => sink.onToolEnd(0)).toThrow('without a beginning');
    expect(() => sink.onToolBegin(1, 'f')).toThrow('out of order');
    house.stop();
  });

  it('tells subscribers once per step, and a late one of what is there already', async () => {
    const house = new House();
    house.engine.script = () => ['a', 'b'];
    const response = begin(house);
    let early = 0;
    const stop = response.subscribe({ notify: () => void early++ });
    house.engine.active.get(1)!.sink.onText('x');
    house.engine.active.get(1)!.sink.onText('y');
    expect(early).toBe(0);
    house.engine.step();
    expect(early).toBe(1);
    stop();
    expect(response.numSubscribers).toBe(0);
    let late = '';
    response.subscribe({ notify: (of) => void (late = of.text) });
    await settle();
    expect(late).toBe('xya');
    house.engine.run();
    expect(early).toBe(1);
    house.stop();
  });

  it('refuses to start after its deadline, and hands the engine what is left of it', () => {
    const house = new House();
    begin(house, { deadlineMs: 500 });
    expect(house.engine.submitted[0]!.deadlineMs).toBe(500);
    const start = (waitMs: number): unknown =>
      house.responses.createWith(house.engine, localCaller, { ...options, deadlineMs: 500 }, (response) => {
        house.nowMs += waitMs;
        response.start(prompt);
      });
    start(200);
    expect(house.engine.submitted[1]!.deadlineMs).toBe(300);
    expect(() => start(500)).toThrow('deadline');
    house.stop();
  });
});
