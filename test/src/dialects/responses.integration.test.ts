import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { decode, encodeCopy } from '../../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { Op, type ClientMessage, type ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { startTestApp, until, type TestApp } from '../http/test-app.ts';

let test: TestApp;
let client: OpenAI;

beforeAll(() => {
  test = startTestApp();
  client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
});
afterEach(() => {
  test.pause();
  test.engine.run();
  test.engine.refuse = null;
  test.engine.script = () => ['Hello', ' world', '.'];
});
afterAll(() => test.stop());

type Event = OpenAI.Responses.ResponseStreamEvent;

const model = 'default';
const look = { type: 'function' as const, name: 'look', parameters: { type: 'object' }, strict: false };
const callScript = () => [
  'Let me see.',
  { toolBegin: 'look', index: 0 },
  { toolDelta: '{"at":', index: 0 },
  { toolDelta: '"sky"}', index: 0 },
  { toolEnd: 0 },
  { end: 'tool_calls' as const },
];

const post = (path: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${test.url}/v1/${path}`, { method: 'POST', body: JSON.stringify(body), headers });
const errorOf = async (answer: Response) => ((await answer.json()) as { error: { code: string; param: string } }).error;

async function collect(stream: AsyncIterable<Event>, most = Infinity): Promise<Event[]> {
  const events: Event[] = [];
  for await (const event of stream) {
    events.push(event);
    if (events.length >= most) break;
  }
  return events;
}

const textOf = (events: Event[]): string =>
  events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');

/** Id of the response whose request the engine got last. */
const runningId = (): string => ([...test.engine.active.values()].at(-1)!.sink as unknown as { id: string }).id;

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

describe('background', () => {
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

describe('GET and DELETE /v1/responses/{id}', () => {
  it('shows what other dialects began, while it runs and afterwards', async () => {
    const chat = client.chat.completions.create({ model, messages: [{ role: 'user', content: 'Hi' }], seed: 1 });
    const answered = chat.then((answer) => answer.id);
    await until('it runs', () => test.engine.active.size === 1);
    test.engine.step();
    const id = runningId();
    const watched = collect(await client.responses.retrieve(id, { stream: true }));
    expect(await client.responses.retrieve(id)).toMatchObject({ status: 'in_progress', output_text: 'Hello' });
    test.play();
    const completionId = await answered;
    expect(completionId).toBe(id.replace('resp_', 'chatcmpl-'));
    const events = await watched;
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    expect(textOf(events)).toBe('Hello world.');
    expect(await client.responses.retrieve(completionId)).toMatchObject({ id, status: 'completed' });
  });

  it('goes on while anybody watches, and ends with the last of them', async () => {
    const before = test.engine.cancelled.length;
    const [creator, watcher] = [new AbortController(), new AbortController()];
    const created = client.responses.create({ model, input: 'Hi', stream: true }, { signal: creator.signal });
    await until('it runs', () => test.engine.active.size === 1);
    test.engine.step();
    await created;
    const path = `${test.url}/v1/responses/${runningId()}?stream=true`;
    const watching = (await fetch(path, { signal: watcher.signal })).body!.getReader();
    await watching.read();
    creator.abort();
    await until(
      'the creator left',
      () => test.app.services.responses.get(runningId(), localCaller)!.numSubscribers === 1,
    );
    test.engine.step();
    expect(new TextDecoder().decode((await watching.read()).value)).toContain(' world');
    expect(test.engine.cancelled.length).toBe(before);
    watcher.abort();
    await until('it is cancelled', () => test.engine.cancelled.length === before + 1);
  });

  it('shows what a native connection began, and the other way round', async () => {
    const socket = new WebSocket(`${test.url.replace('http', 'ws')}/v1/stream`, [SUBPROTOCOL]);
    socket.binaryType = 'arraybuffer';
    const frames: ServerMessage[] = [];
    socket.onmessage = ({ data }) => void frames.push(decode(new Uint8Array(data as ArrayBuffer)) as ServerMessage);
    await new Promise((resolve) => (socket.onopen = resolve));
    const send = (message: ClientMessage) => socket.send(encodeCopy(message));
    send([Op.Hello, 0, PROTOCOL_VERSION, {}]);
    send([Op.Create, 0, 'r1', { messages: [{ role: 'user', content: 'Hi' }] }]);
    await until('it is created', () => frames.some(([op]) => op === Op.Created));
    const created = frames.find((frame) => frame[0] === Op.Created)!;
    const watched = collect(await client.responses.retrieve(created[4] as string, { stream: true }));
    test.play();
    expect(textOf(await watched)).toBe('Hello world.');
    const made = await client.responses.create({ model, input: 'Hi' });
    frames.length = 0;
    send([Op.Resume, 0, 'r2', { response: made.id, lastSeq: 0 }]);
    await until('it is done', () => frames.some(([op]) => op === Op.Done));
    const texts = frames.flatMap((frame) => (frame[0] === Op.Deltas ? frame[2].map((delta) => delta[2]) : []));
    expect(texts.join('')).toBe('Hello world.');
    socket.close();
  });

  it('forgets what was deleted, and cancels what still runs', async () => {
    const running = await client.responses.create({ model, input: 'Hi', background: true });
    const answer = await fetch(`${test.url}/v1/responses/${running.id}`, { method: 'DELETE' });
    expect(await answer.json()).toEqual({ id: running.id, object: 'response', deleted: true });
    await expect(client.responses.retrieve(running.id)).rejects.toMatchObject({ status: 404 });
    expect(test.engine.cancelled.length).toBeGreaterThan(0);
    test.engine.run();
    await expect(client.responses.retrieve(running.id)).rejects.toMatchObject({ status: 404 });
    await expect(client.responses.delete(running.id)).rejects.toMatchObject({ status: 404, code: 'unknown_response' });
  });

  it.each([
    ['starting_after=1', 'starting_after'],
    ['stream=true&starting_after=99', 'starting_after'],
    ['stream=true&starting_after=-1', 'starting_after'],
    ['stream=true&starting_after=x', 'starting_after'],
    ['stream=yes', 'stream'],
    ['stream=true&stream=true', 'stream'],
    ['include_obfuscation=true', 'include_obfuscation'],
    ['include[]=file_search_call.results', 'include[0]'],
    ['other=1', 'other'],
  ])('refuses ?%s by name', async (query, param) => {
    test.play();
    const { id } = await client.responses.create({ model, input: 'Hi' });
    const answer = await fetch(`${test.url}/v1/responses/${id}?${query}`);
    expect(answer.status).toBe(400);
    expect((await errorOf(answer)).param).toBe(param);
  });

  it('tells log-probabilities in every form of an answer, and accepts that answer as input', async () => {
    const token = { token: 'Hello', logprob: -0.5, bytes: [...Buffer.from('Hello')], top_logprobs: [] };
    test.engine.script = () => [{ logprobs: [['Hello', -0.5, token.bytes, []]] }, 'Hello'];
    test.play();
    const include = ['message.output_text.logprobs' as const];
    const events = await collect(await client.responses.create({ model, input: 'Hi', include, stream: true }));
    expect(test.engine.submitted.at(-1)?.logprobs).toBe(0);
    for (const event of events) if ('logprobs' in event) expect(event.logprobs).toEqual([token]);
    const last = events.at(-1)!;
    if (last.type !== 'response.completed') throw new Error(last.type);
    expect(last.response.output[0]).toMatchObject({ content: [{ text: 'Hello', logprobs: [token] }] });
    expect(await client.responses.retrieve(last.response.id, { include })).toMatchObject({
      output: last.response.output,
    });
    const own = last.response.output[0] as OpenAI.Responses.ResponseOutputMessage;
    const again = { model, input: [own, { role: 'user' as const, content: 'On' }] };
    const next = await client.responses.create({ ...again, top_logprobs: 20, include });
    expect(next.top_logprobs).toBe(20);
    const refused = client.responses.create({ model, input: 'Hi', top_logprobs: 3 });
    await expect(refused).rejects.toMatchObject({ status: 400, param: 'top_logprobs' });
  });

  it('shows nothing to another tenant', async () => {
    const keyed = startTestApp({
      apiKeys: [
        { tenant: 'a', key: 'key-a' },
        { tenant: 'b', key: 'key-b' },
      ],
    });
    keyed.play();
    const [a, b] = ['key-a', 'key-b'].map(
      (apiKey) => new OpenAI({ baseURL: `${keyed.url}/v1`, apiKey, maxRetries: 0 }),
    );
    const { id } = await a!.responses.create({ model, input: 'Hi' });
    for (const attempt of [
      b!.responses.retrieve(id),
      b!.responses.cancel(id),
      b!.responses.delete(id),
      b!.responses.inputItems.list(id),
    ]) {
      await expect(attempt).rejects.toMatchObject({ status: 404 });
    }
    const next = b!.responses.create({ model, input: 'Hi', previous_response_id: id });
    await expect(next).rejects.toMatchObject({ code: 'previous_response_not_found' });
    expect((await fetch(`${keyed.url}/v1/responses/${id}`)).status).toBe(401);
    expect((await a!.responses.retrieve(id)).id).toBe(id);
    await keyed.stop();
  });
});

describe('input items and tokens', () => {
  it('lists the whole conversation in pages, either way round', async () => {
    test.play();
    const first = await client.responses.create({ model, input: 'One' });
    const second = await client.responses.create({
      model,
      previous_response_id: first.id,
      input: [
        { role: 'developer', content: 'Be kind.' },
        { role: 'user', content: [{ type: 'input_text', text: 'Two' }] },
      ],
    });
    const texts = async (order: 'asc' | 'desc', limit: number) => {
      const list: string[] = [];
      for await (const item of client.responses.inputItems.list(second.id, { order, limit })) {
        list.push((item as { content: { text: string }[] }).content[0]!.text);
      }
      return list;
    };
    const all = ['One', 'Hello world.', 'Be kind.', 'Two'];
    for (const limit of [1, 2, 3, 4, 100]) {
      expect(await texts('asc', limit)).toEqual(all);
      expect(await texts('desc', limit)).toEqual(all.toReversed());
    }
    const page = await client.responses.inputItems.list(second.id, { limit: 2 });
    expect(page.has_more).toBe(true);
    const unknown = await fetch(`${test.url}/v1/responses/${second.id}/input_items?after=nothing`);
    expect((await errorOf(unknown)).param).toBe('after');
    for (const limit of ['0', '101', 'x']) {
      const bad = await fetch(`${test.url}/v1/responses/${second.id}/input_items?limit=${limit}`);
      expect((await errorOf(bad)).param).toBe('limit');
    }
  });

  it('counts the tokens a request would have', async () => {
    test.play();
    const count = await client.responses.inputTokens.count({ model, input: 'Hello' });
    expect(count).toEqual({ object: 'response.input_tokens', input_tokens: 5 });
    const first = await client.responses.create({ model, input: 'One' });
    const more = await client.responses.inputTokens.count({ model, input: 'Two', previous_response_id: first.id });
    expect(more.input_tokens).toBe(3 + 3 + 3);
    expect(await errorOf(await post('responses/input_tokens', { model }))).toMatchObject({ param: 'input' });
    expect(await errorOf(await post('responses/input_tokens', { input: 'Hi', stream: true }))).toMatchObject({
      code: 'unsupported',
      param: 'stream',
    });
  });
});

describe('Idempotency-Key', () => {
  const headers = { 'idempotency-key': 'once' };

  it.each(['responses', 'chat/completions'])('gives the same response for the same key and body: %s', async (path) => {
    test.play();
    const body = { input: 'Hi', messages: [{ role: 'user', content: 'Hi' }] };
    if (path === 'responses') Reflect.deleteProperty(body, 'messages');
    else Reflect.deleteProperty(body, 'input');
    const before = test.engine.submitted.length;
    const [a, b] = await Promise.all([post(path, body, headers), post(path, body, headers)]);
    const first = (await a.json()) as { id: string };
    expect(await b.json()).toEqual(first);
    expect(await (await post(path, body, headers)).json()).toEqual(first);
    expect(test.engine.submitted.length).toBe(before + 1);
    const other = await post(path, { ...body, temperature: 0 }, headers);
    expect(other.status).toBe(400);
    expect((await errorOf(other)).param).toBe('Idempotency-Key');
    const elsewhere = await post(path, body, { 'idempotency-key': 'twice' });
    expect(((await elsewhere.json()) as { id: string }).id).not.toBe(first.id);
  });

  it('begins anew when the first try was cancelled or failed', async () => {
    const controller = new AbortController();
    const body = JSON.stringify({ input: 'Hi' });
    const own = { 'idempotency-key': 'again' };
    const first = fetch(`${test.url}/v1/responses`, { method: 'POST', body, headers: own, signal: controller.signal });
    first.catch(() => {});
    await until('it runs', () => test.engine.active.size === 1);
    const before = test.engine.cancelled.length;
    controller.abort();
    await until('it is cancelled', () => test.engine.cancelled.length === before + 1);
    test.play();
    const second = await post('responses', { input: 'Hi' }, own);
    expect(await second.json()).toMatchObject({ status: 'completed' });
  });

  it('refuses a key that is too long', async () => {
    const answer = await post('responses', { input: 'Hi' }, { 'idempotency-key': 'k'.repeat(256) });
    expect((await errorOf(answer)).param).toBe('Idempotency-Key');
  });
});
