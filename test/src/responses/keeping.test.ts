// What is kept of responses, and for whom: unkept, removed, unwatched.
import { describe, expect, it } from 'vitest';
import { defaultSampling } from '../../../protocol/sampling.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { Responses, type CreateResponse } from '../../../src/responses/registry.ts';
import { FakeEngine } from '../support/fake-engine.ts';

function setUp(options: Partial<CreateResponse> = {}) {
  const engine = new FakeEngine();
  const responses = new Responses();
  engine.onStepEnd = () => responses.publish();
  const create = (more: Partial<CreateResponse> = {}) =>
    responses.create(engine, localCaller, {
      session: null,
      class: 'chat',
      tools: [],
      sampling: defaultSampling,
      prompt: {
        kind: 'chat',
        messages: [{ role: 'user', content: 'Hi' }],
        tools: [],
        history: null,
        truncation: 'error',
      },
      ...options,
      ...more,
    });
  return { engine, responses, create };
}

describe('Responses', () => {
  it('forgets an unkept response at its end, when its readers have been told', async () => {
    let numForgotten = 0;
    const { engine, responses, create } = setUp({ isKept: false, requestKey: 'k', onForgotten: () => numForgotten++ });
    const response = create();
    let read = 0;
    response.subscribe({ notify: ({ log }) => (read = log.head) });
    engine.step();
    expect(responses.get(response.id, localCaller)).toBe(response);
    engine.run();
    expect(responses.get(response.id, localCaller)).toBeUndefined();
    expect(responses.byRequest('k')).toBeUndefined();
    expect(responses.retained).toEqual({ count: 0, bytes: 0 });
    expect(responses.active).toBe(0);
    expect(read).toBe(response.log.head);
    expect(numForgotten).toBe(1);
    expect((await response.ended).reason).toBe('stop');
  });

  it('removes a response once and for all, also one that runs', () => {
    const forgotten: string[] = [];
    const { engine, responses, create } = setUp();
    const ended = create({ onForgotten: () => forgotten.push('ended') });
    engine.run();
    const running = create({ requestKey: 'k', onForgotten: () => forgotten.push('running') });
    responses.remove(ended);
    responses.remove(ended);
    responses.remove(running);
    expect(responses.get(ended.id, localCaller)).toBeUndefined();
    expect(responses.get(running.id, localCaller)).toBeUndefined();
    expect(responses.byRequest('k')).toBeUndefined();
    expect(responses.active).toBe(1);
    engine.run();
    expect(running.state).toMatchObject({ kind: 'ended', end: { reason: 'cancelled' } });
    expect(responses.active).toBe(0);
    expect(responses.retained).toEqual({ count: 0, bytes: 0 });
    expect(forgotten).toEqual(['ended', 'running']);
  });

  it('cancels what nobody reads any more, where that was asked for', () => {
    const { engine, create } = setUp();
    const reader = { notify: () => {} };
    const [plain, watched] = [create(), create({ cancelsUnwatched: true })];
    for (const response of [plain, watched]) response.subscribe(reader)();
    const unsubscribe = watched.subscribe(reader);
    unsubscribe();
    unsubscribe();
    expect(engine.cancelled.length).toBe(1);
    engine.run();
    expect(plain.state).toMatchObject({ end: { reason: 'stop' } });
    expect(watched.state).toMatchObject({ end: { reason: 'cancelled' } });
  });

  it('counts what is kept along with a response, and asks the engine to keep its conversation', () => {
    const { engine, responses, create } = setUp();
    create();
    engine.run();
    const plain = responses.retained.bytes;
    const response = create({ extraBytes: 5000, conversation: 'conv_1' });
    engine.run();
    expect(engine.submitted.map(({ session }) => session)).toEqual(['', 'conv_1']);
    expect(response.promptTokenIds).toHaveLength(2);
    expect(responses.retained.bytes).toBe(2 * plain + 5000 + response.promptTokenIds!.byteLength);
  });
});
