// POST /v1/responses as the official client sees it: answers, streams, calls, continuing, failures.
import type OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { until } from '../http/test-app.ts';
import { callScript } from '../support/fake-engine.ts';
import { client, collect, errorOf, model, post, test } from '../support/openai-front.ts';

const look = { type: 'function' as const, name: 'look', parameters: { type: 'object' }, strict: false };

describe('POST /v1/responses', () => {
  it('answers the official client in one piece', async () => {
    test.play();
    const answer = await client.responses.create({
      model,
      input: 'Hi',
      instructions: 'Be brief.',
      metadata: { topic: 'greeting' },
      temperature: 0.5,
      max_output_tokens: 50,
    });
    expect(answer.output_text).toBe('Hello world.');
    expect(answer).toMatchObject({
      object: 'response',
      status: 'completed',
      model: 'fake',
      error: null,
      incomplete_details: null,
      instructions: 'Be brief.',
      previous_response_id: null,
      metadata: { topic: 'greeting' },
      temperature: 0.5,
      top_p: 1,
      max_output_tokens: 50,
      background: false,
      store: true,
      tools: [],
      tool_choice: 'auto',
      parallel_tool_calls: true,
      truncation: 'disabled',
      output: [{ type: 'message', role: 'assistant', status: 'completed' }],
      usage: { input_tokens: 2, output_tokens: 3, total_tokens: 5, input_tokens_details: { cached_tokens: 0 } },
    });
    expect(answer.completed_at).toBeGreaterThanOrEqual(answer.created_at);
    const { prompt, sampling } = test.engine.submitted.at(-1)!;
    expect(sampling).toMatchObject({ temperature: 0.5, maxTokens: 50 });
    expect(prompt).toMatchObject({
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hi' },
      ],
      truncation: 'error',
    });
  });

  it('streams events in order, without a gap in their numbers', async () => {
    test.play();
    const events = await collect(await client.responses.create({ model, input: 'Hi', stream: true }));
    expect(events.map((event) => event.type)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.delta',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ]);
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    const { response } = events.at(-1) as { response: OpenAI.Responses.Response };
    const { output_text, ...read } = await client.responses.retrieve(response.id);
    expect(output_text).toBe('Hello world.');
    expect(response).toEqual(read);
  });

  it('streams calls of functions, and goes on with their results', async () => {
    test.play();
    test.engine.script = callScript;
    const first = client.responses.stream({ model, input: 'What is up?', tools: [look] });
    const events = await collect(first);
    expect(events.map((event) => event.type).slice(2)).toEqual([
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.output_item.added',
      'response.function_call_arguments.delta',
      'response.function_call_arguments.delta',
      'response.function_call_arguments.done',
      'response.output_item.done',
      'response.completed',
    ]);
    const answer = await first.finalResponse();
    expect(answer.tools).toMatchObject([look]);
    const call = answer.output[1]!;
    expect(call).toMatchObject({ type: 'function_call', name: 'look', arguments: '{"at":"sky"}', status: 'completed' });
    test.engine.script = () => ['Blue.'];
    const { call_id } = call as { call_id: string };
    const second = await client.responses.create({
      model,
      previous_response_id: answer.id,
      input: [{ type: 'function_call_output', call_id, output: 'clouds' }],
      tools: [look],
    });
    expect(second.output_text).toBe('Blue.');
    expect(second.previous_response_id).toBe(answer.id);
    const { prompt, toolNames } = test.engine.submitted.at(-1)!;
    expect(toolNames).toEqual(['look']);
    expect(prompt).toMatchObject({
      messages: [
        { role: 'user', content: 'What is up?' },
        {
          role: 'assistant',
          content: 'Let me see.',
          toolCalls: [{ id: call_id, name: 'look', arguments: '{"at":"sky"}' }],
        },
        { role: 'tool', content: 'clouds', toolCallId: call_id },
      ],
    });
  });

  it('continues from the ids of prompt and answer, and forks without disturbing', async () => {
    test.play();
    const first = await client.responses.create({ model, input: 'One' });
    const conversation = test.engine.submitted.at(-1)!.session;
    expect(conversation).toMatch(/^conv_/);
    const second = await client.responses.create({ model, input: 'Two', previous_response_id: first.id });
    const continued = test.engine.submitted.at(-1)!;
    expect(continued.session).toBe(conversation);
    const history = (continued.prompt as { history: number[] }).history;
    expect(history.slice(0, 3)).toEqual(Array.from('One', (character) => character.codePointAt(0)));
    expect(history.length).toBe(6);
    await client.responses.create({ model, input: 'Other', previous_response_id: first.id });
    const fork = test.engine.submitted.at(-1)!;
    expect(fork.session).not.toBe(conversation);
    expect((fork.prompt as { history: number[] }).history).toEqual(history);
    const third = await client.responses.create({ model, input: 'Three', previous_response_id: second.id });
    expect(test.engine.submitted.at(-1)!.session).toBe(conversation);
    const before = test.engine.forgotten.length;
    for (const { id } of [first, second]) await client.responses.delete(id);
    expect(test.engine.forgotten.length).toBe(before);
    await client.responses.delete(third.id);
    expect(test.engine.forgotten.slice(before)).toEqual([conversation]);
  });

  it('does not carry instructions over to the next response', async () => {
    test.play();
    const first = await client.responses.create({ model, input: 'One', instructions: 'Rhyme.' });
    await client.responses.create({ model, input: 'Two', previous_response_id: first.id });
    const roles = (test.engine.submitted.at(-1)!.prompt as { messages: { role: string }[] }).messages;
    expect(roles.map(({ role }) => role)).toEqual(['user', 'assistant', 'user']);
  });

  it('ends at its token limit as incomplete', async () => {
    test.play();
    test.engine.script = () => ['Cut', { end: 'length' }];
    const events = await collect(await client.responses.create({ model, input: 'Hi', stream: true }));
    expect(events.at(-1)).toMatchObject({
      type: 'response.incomplete',
      response: {
        status: 'incomplete',
        incomplete_details: { reason: 'max_output_tokens' },
        completed_at: null,
        output: [{ status: 'incomplete' }],
        usage: { output_tokens: 1 },
      },
    });
  });

  it('tells a failure before the first event by its status, and a later one in the stream', async () => {
    test.play();
    const error = new ServiceError('worker_lost', 'The worker died.');
    test.engine.script = () => [{ end: 'error', error }];
    for (const stream of [false, true]) {
      const created = client.responses.create({ model, input: 'Hi', stream });
      await expect(created).rejects.toMatchObject({ status: 503, code: 'worker_lost' });
    }
    test.engine.script = () => ['So', { end: 'error', error }];
    const events = await collect(await client.responses.create({ model, input: 'Hi', stream: true }));
    expect(events.at(-1)).toMatchObject({
      type: 'response.failed',
      response: { status: 'failed', error: { code: 'server_error', message: 'The worker died.' } },
    });
    await expect(client.responses.create({ model, input: 'Hi' })).rejects.toMatchObject({ status: 503 });
    const { id } = (events.at(-1) as { response: { id: string } }).response;
    const next = await post('responses', { input: 'Go on', previous_response_id: id });
    expect(await errorOf(next)).toMatchObject({ code: 'invalid_request', param: 'previous_response_id' });
  });

  it.each([false, true])('cancels when the client goes (stream: %s)', async (stream) => {
    const controller = new AbortController();
    const before = test.engine.cancelled.length;
    const created = client.responses.create({ model, input: 'Hi', stream }, { signal: controller.signal });
    created.catch(() => {});
    await until('it arrived', () => test.engine.active.size === 1);
    test.engine.step();
    if (stream) await created;
    controller.abort();
    await until('it is cancelled', () => test.engine.cancelled.length === before + 1);
  });

  it('keeps nothing with store false', async () => {
    test.play();
    const answer = await client.responses.create({ model, input: 'Hi', store: false });
    expect(answer).toMatchObject({ status: 'completed', store: false });
    expect(test.engine.submitted.at(-1)!.session).toBe('');
    await expect(client.responses.retrieve(answer.id)).rejects.toMatchObject({ status: 404 });
    const next = client.responses.create({ model, input: 'Hi', previous_response_id: answer.id });
    await expect(next).rejects.toMatchObject({ status: 400, code: 'previous_response_not_found' });
  });

  it('refuses to continue from what it does not know or what still runs', async () => {
    const unknown = await post('responses', { input: 'Hi', previous_response_id: 'resp_0' });
    expect(unknown.status).toBe(400);
    expect(await errorOf(unknown)).toMatchObject({
      code: 'previous_response_not_found',
      param: 'previous_response_id',
    });
    const running = await client.responses.create({ model, input: 'Hi', background: true });
    const early = await post('responses', { input: 'Hi', previous_response_id: running.id });
    expect(early.status).toBe(409);
    expect(early.headers.get('x-should-retry')).toBe('true');
    expect(await errorOf(early)).toMatchObject({ code: 'session_busy' });
  });
});
