// Responses that run without a connection.
import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { until } from '../http/test-app.ts';
import { client, collect, model, runningId, test, textOf } from '../support/openai-front.ts';

describe('A background response', () => {
  it('answers at once and runs on without a connection', async () => {
    const created = await client.responses.create({ model, input: 'Hi', background: true });
    expect(created).toMatchObject({ status: 'queued', background: true, output: [], usage: null });
    test.engine.step();
    const running = await client.responses.retrieve(created.id);
    expect(running).toMatchObject({ status: 'in_progress', output: [{ status: 'in_progress' }] });
    expect(running.output_text).toBe('Hello');
    test.engine.run();
    expect(await client.responses.retrieve(created.id)).toMatchObject({
      status: 'completed',
      output_text: 'Hello world.',
    });
  });

  it('survives its stream and resumes at any event, once each', async () => {
    const stream = await client.responses.create({ model, input: 'Hi', background: true, stream: true });
    const first = await collect(stream, 2);
    expect(first.map((event) => event.type)).toEqual(['response.created', 'response.queued']);
    const { id } = (first[0] as { response: { id: string } }).response;
    test.engine.step();
    const resumed = await client.responses.retrieve(id, { stream: true, starting_after: 1 });
    const rest = collect(resumed);
    test.play();
    const events = [...first, ...(await rest)];
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    expect(textOf(events)).toBe('Hello world.');
    expect(events.at(-1)?.type).toBe('response.completed');
    const again = await collect(await client.responses.retrieve(id, { stream: true }));
    expect(again).toEqual(events);
  });

  it('tells of a failure in its stream, since its id must be known', async () => {
    test.play();
    const error = new ServiceError('context_too_long', 'Too long.');
    test.engine.script = () => [{ end: 'error', error }];
    const events = await collect(await client.responses.create({ model, input: 'Hi', background: true, stream: true }));
    expect(events.map((event) => event.type)).toEqual([
      'response.created',
      'response.queued',
      'response.in_progress',
      'response.failed',
    ]);
    expect(events.at(-1)).toMatchObject({ response: { error: { code: 'invalid_prompt' } } });
  });

  it('is cancelled by id, and its stream ends as incomplete with status cancelled', async () => {
    const stream = await client.responses.create({ model, input: 'Hi', background: true, stream: true });
    const events = collect(stream);
    await until('it runs', () => test.engine.active.size === 1);
    test.engine.step();
    const id = runningId();
    test.play();
    const cancelled = await client.responses.cancel(id);
    expect(cancelled).toMatchObject({ status: 'cancelled', error: null, incomplete_details: null });
    expect(cancelled.usage?.output_tokens).toBeGreaterThan(0);
    expect((await events).at(-1)).toMatchObject({ type: 'response.incomplete', response: { status: 'cancelled' } });
    expect(await client.responses.cancel(id)).toMatchObject({ status: 'cancelled' });
  });
});
