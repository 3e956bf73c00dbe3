// POST /v1/chat/completions as the official client sees it.
import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import type { TokenLogprob } from '../../../protocol/messages.ts';
import { startTestApp, until } from '../http/test-app.ts';
import { callScript } from '../support/fake-engine.ts';
import { client, test } from '../support/openai-front.ts';

const hi = [{ role: 'user' as const, content: 'Hi' }];

/** The data lines of a raw stream. */
async function rawStream(body: Record<string, unknown>): Promise<string[]> {
  const answer = await fetch(`${test.url}/v1/chat/completions`, {
    method: 'POST',
    body: JSON.stringify({ messages: hi, stream: true, ...body }),
  });
  const lines = (await answer.text()).split('\n\n');
  expect(lines.pop()).toBe('');
  return lines.map((line) => {
    expect(line.startsWith('data: ')).toBe(true);
    return line.slice(6);
  });
}

const create = (fields: object) => client.chat.completions.create({ model: 'default', messages: hi, ...fields });

const tools = [{ type: 'function' as const, function: { name: 'look', parameters: { type: 'object' } } }];

const logprob = (token: string, bytes: number[]): TokenLogprob => [token, -0.5, bytes, [['<|end|>', -1, null]]];

describe('POST /v1/chat/completions', () => {
  it('answers the official client in one piece', async () => {
    test.play();
    const answer = await client.chat.completions.create({ model: 'default', messages: hi });
    expect(answer.choices[0]).toMatchObject({
      index: 0,
      message: { role: 'assistant', content: 'Hello world.', refusal: null },
      finish_reason: 'stop',
      logprobs: null,
    });
    expect(answer.id).toMatch(/^chatcmpl-/);
    expect(answer.object).toBe('chat.completion');
    expect(answer.model).toBe('fake');
    expect(answer.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 });
    expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(0);
    expect(answer._request_id).toMatch(/^req_/);
  });

  it('streams to the official client', async () => {
    test.play();
    const stream = await client.chat.completions.create({
      model: 'fake',
      messages: hi,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('Hello world.');
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 2, completion_tokens: 3 } });
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
  });

  it('keeps the shapes that strict clients check', async () => {
    test.play();
    const lines = await rawStream({ stream_options: { include_usage: true } });
    expect(lines.at(-1)).toBe('[DONE]');
    const chunks = lines.slice(0, -1).map((line) => JSON.parse(line));
    expect(chunks[0].choices[0].delta).toEqual({ role: 'assistant', content: '', refusal: null });
    for (const chunk of chunks.slice(0, -2)) {
      expect(chunk.object).toBe('chat.completion.chunk');
      expect(chunk.choices[0].finish_reason).toBeNull();
      expect(chunk.usage).toBeNull();
    }
    expect(chunks.at(-2).choices[0]).toMatchObject({ delta: {}, finish_reason: 'stop' });
    expect(chunks.at(-2).usage).toBeNull();
    expect(chunks.at(-1).choices).toEqual([]);
  });

  it('sends no usage unless asked', async () => {
    test.play();
    const lines = await rawStream({});
    expect(lines.slice(0, -1).every((line) => !('usage' in JSON.parse(line)))).toBe(true);
  });

  it('answers tool calls in one piece', async () => {
    test.engine.script = callScript;
    test.play();
    const answer = await client.chat.completions.create({ model: 'default', messages: hi, tools });
    expect(answer.choices[0]?.finish_reason).toBe('tool_calls');
    expect(answer.choices[0]?.message.tool_calls).toEqual([
      { id: expect.stringMatching(/^call_/), type: 'function', function: { name: 'look', arguments: '{"at":"sky"}' } },
    ]);
  });

  it('streams tool calls: id, type and name once, then only arguments', async () => {
    test.engine.script = callScript;
    test.play();
    const lines = await rawStream({ tools });
    const deltas = lines.slice(0, -1).map((line) => JSON.parse(line).choices[0].delta);
    const calls = deltas.flatMap((delta) => delta.tool_calls ?? []);
    expect(calls[0]).toEqual({
      index: 0,
      id: expect.stringMatching(/^call_/),
      type: 'function',
      function: { name: 'look', arguments: '' },
    });
    for (const call of calls.slice(1)) expect(Object.keys(call)).toEqual(['index', 'function']);
    expect(JSON.parse(calls.map((call) => call.function.arguments).join(''))).toEqual({ at: 'sky' });
  });

  it("assembles the same tool call in the official client's stream helper", async () => {
    test.engine.script = callScript;
    test.play();
    const final = await client.chat.completions.stream({ model: 'default', messages: hi, tools }).finalMessage();
    expect(final.tool_calls?.[0]).toMatchObject({ function: { name: 'look', arguments: '{"at":"sky"}' } });
  });

  it('accepts its own answer as history', async () => {
    test.engine.script = callScript;
    test.play();
    const first = await client.chat.completions.create({ model: 'default', messages: hi, tools });
    const message = first.choices[0]!.message;
    test.engine.script = () => ['Blue.'];
    const second = await client.chat.completions.create({
      model: 'default',
      messages: [...hi, message, { role: 'tool', tool_call_id: message.tool_calls![0]!.id, content: 'blue' }],
      tools,
    });
    expect(second.choices[0]?.message.content).toBe('Blue.');
  });

  it('gives several choices of one prompt, which counts once', async () => {
    test.engine.script = (_, choice) => [`Answer ${choice}`, '.', ...(choice === 1 ? ['..'] : [])];
    test.play();
    const before = test.engine.submitted.length;
    const answer = await client.chat.completions.create({ model: 'default', messages: hi, n: 3 });
    expect(test.engine.submitted.length).toBe(before + 1);
    expect(answer.choices.map(({ index, message }) => [index, message.content])).toEqual([
      [0, 'Answer 0.'],
      [1, 'Answer 1...'],
      [2, 'Answer 2.'],
    ]);
    expect(answer.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 7, total_tokens: 9 });
  });

  it('streams several choices side by side, with one usage and one [DONE]', async () => {
    test.engine.script = (_, choice) => [`Answer ${choice}`, ' a', ' b', ' c'];
    test.play();
    const stream = client.chat.completions.stream({
      model: 'default',
      messages: hi,
      n: 3,
      stream_options: { include_usage: true },
    });
    const order: number[] = [];
    for await (const { choices } of stream)
      for (const { index, delta } of choices) if (delta.content) order.push(index);
    const final = await stream.finalChatCompletion();
    expect(final.choices.map(({ message }) => message.content)).toEqual([0, 1, 2].map((i) => `Answer ${i} a b c`));
    expect(final.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 12 });
    expect(order.indexOf(2)).toBeLessThan(order.lastIndexOf(0));
    const lines = await rawStream({ n: 2 });
    expect(lines.filter((line) => line === '[DONE]')).toHaveLength(1);
    const chunks = lines.slice(0, -1).map((line) => JSON.parse(line));
    for (const index of [0, 1]) {
      const own = chunks.map((chunk) => chunk.choices[0]).filter((choice) => choice.index === index);
      expect(own[0].delta.role).toBe('assistant');
      expect(own.map((choice) => choice.finish_reason).filter(Boolean)).toEqual(['stop']);
    }
  });

  it('keeps the other choices when one fails', async () => {
    const lost = { end: 'error' as const, error: new ServiceError('worker_lost', 'Lost.') };
    test.engine.script = (_, choice) => (choice === 1 ? ['Hel', lost] : ['Hello', ' all', '.']);
    test.play();
    const answer = await client.chat.completions.create({ model: 'default', messages: hi, n: 3 });
    expect(answer.choices.map(({ index, message }) => [index, message.content])).toEqual([
      [0, 'Hello all.'],
      [2, 'Hello all.'],
    ]);
    const chunks = (await rawStream({ n: 3 })).map((line) => JSON.parse(line));
    expect(chunks.at(-1).error).toMatchObject({ code: 'worker_lost' });
    const finished = chunks.flatMap(({ choices }) => (choices?.[0]?.finish_reason ? choices[0].index : []));
    expect(finished.toSorted()).toEqual([0, 2]);
    test.engine.script = () => [lost];
    for (const stream of [false, true]) {
      await expect(create({ n: 2, stream })).rejects.toMatchObject({ status: 503, code: 'worker_lost' });
    }
  });

  it.each([true, false])('stops all choices when the client leaves (stream: %s)', async (stream) => {
    test.engine.script = () => Array.from({ length: 100_000 }, () => 'x');
    test.play();
    const controller = new AbortController();
    const running = client.chat.completions.create(
      { model: 'default', messages: hi, stream, n: 3 },
      { signal: controller.signal },
    );
    running.catch(() => {});
    await until('the choices run', () => test.engine.gauges.running === 3);
    if (stream) await running;
    controller.abort();
    await until('the choices are over', () => test.engine.active.size === 0);
  });

  it('stops all choices when the completion is cancelled by its id, and repeats all of them for its key', async () => {
    test.engine.script = () => Array.from({ length: 100_000 }, () => 'x');
    test.play();
    const first = await client.chat.completions.create({ model: 'default', messages: hi, stream: true, n: 2 });
    const { value } = await first[Symbol.asyncIterator]().next();
    await fetch(`${test.url}/v1/responses/${value!.id}/cancel`, { method: 'POST' });
    expect(test.engine.active.size).toBe(0);
    test.engine.script = (_, choice) => [`Answer ${choice}`];
    const body = { model: 'default', messages: hi, n: 2 };
    const options = { idempotencyKey: 'several', headers: { 'Idempotency-Key': 'several' } };
    const answers = [];
    for (let i = 0; i < 2; i++) answers.push(await client.chat.completions.create(body, options));
    expect(answers[0]).toEqual(answers[1]);
    expect(answers[1]!.choices).toHaveLength(2);
  });

  it('gives the official client log-probabilities whose bytes are the content, streamed and not', async () => {
    // A character of two tokens, text that was held back, and a token that is decided after its text.
    test.engine.script = () => [
      { logprobs: [logprob('H', [72])] },
      'H',
      '',
      { logprobs: [logprob('\\xc3', [0xc3]), logprob('\\xa9', [0xa9])] },
      'é',
      'llo',
      { logprobs: [logprob('llo', [...Buffer.from('llo')])] },
      '',
    ];
    test.play();
    const fields = { model: 'default', messages: hi, logprobs: true, top_logprobs: 1 };
    const answer = await client.chat.completions.create(fields);
    expect(test.engine.submitted.at(-1)?.logprobs).toBe(1);
    const content = answer.choices[0]!.logprobs!.content!;
    expect(Buffer.from(content.flatMap(({ bytes }) => bytes!)).toString()).toBe(answer.choices[0]!.message.content);
    expect(content[1]).toEqual({
      token: '\\xc3',
      logprob: -0.5,
      bytes: [0xc3],
      top_logprobs: [{ token: '<|end|>', logprob: -1, bytes: null }],
    });
    const stream = client.chat.completions.stream({ ...fields, n: 2 });
    const final = await stream.finalChatCompletion();
    for (const choice of final.choices) expect(choice.logprobs?.content).toEqual(content);
    const without = await client.chat.completions.create({ model: 'default', messages: hi });
    expect(test.engine.submitted.at(-1)?.logprobs).toBeUndefined();
    expect(without.choices[0]?.logprobs).toBeNull();
  });

  it('reports the documented errors to the official client', async () => {
    for (const top of [21, -1, 'x']) {
      const refused = create({ logprobs: true, top_logprobs: top });
      await expect(refused).rejects.toMatchObject({ status: 400, code: 'invalid_request', param: 'top_logprobs' });
    }
    await expect(create({ n: 9 })).rejects.toMatchObject({ status: 400, code: 'invalid_request', param: 'n' });
    await expect(create({ temperature: 9 })).rejects.toMatchObject({ status: 400, code: 'invalid_request' });
    await expect(create({ model: 'gpt-9' })).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
    test.engine.refuse = new ServiceError('overloaded', 'Full.', { retryAfterMs: 2500 });
    const overloaded = await create({}).catch((error: unknown) => error);
    expect(overloaded).toMatchObject({ status: 503, code: 'overloaded' });
    const { headers } = overloaded as InstanceType<typeof OpenAI.APIError>;
    expect(headers?.get('retry-after')).toBe('3');
    expect(headers?.get('retry-after-ms')).toBe('2500');
    expect(headers?.get('x-should-retry')).toBe('true');
  });

  it('gives a request that fails before its first token its HTTP status, also when streaming', async () => {
    test.engine.script = () => [
      { end: 'error', error: new ServiceError('context_too_long', 'Too long by 3.', { param: 'messages' }) },
    ];
    test.play();
    for (const stream of [false, true]) {
      await expect(client.chat.completions.create({ model: 'default', messages: hi, stream })).rejects.toMatchObject({
        status: 400,
        code: 'context_length_exceeded',
        param: 'messages',
      });
    }
  });

  it('ends a stream that fails midway with an error and without [DONE]', async () => {
    test.engine.script = () => ['Hello', { end: 'error', error: new ServiceError('worker_lost', 'Lost.') }];
    test.play();
    const lines = await rawStream({});
    expect(JSON.parse(lines.at(-1)!)).toEqual({
      error: { message: 'Lost.', type: 'server_error', param: null, code: 'worker_lost' },
    });
    const stream = await client.chat.completions.create({ model: 'default', messages: hi, stream: true });
    await expect(async () => {
      for await (const _chunk of stream) continue;
    }).rejects.toThrow('Lost.');
  });

  it.each([true, false])('cancels within a step when the client leaves (stream: %s)', async (stream) => {
    test.engine.script = () => Array.from({ length: 100_000 }, () => 'x');
    test.play();
    const controller = new AbortController();
    const before = test.engine.cancelled.length;
    const running = client.chat.completions.create(
      { model: 'default', messages: hi, stream },
      { signal: controller.signal },
    );
    running.catch(() => {});
    await until('the request runs', () => test.engine.gauges.running === 1);
    if (stream) await running;
    controller.abort();
    await until('the request is cancelled', () => test.engine.cancelled.length === before + 1);
    await until('the request is over', () => test.engine.active.size === 0);
  });

  it('parks the response of a reader that stalls, and goes on when it reads again', async () => {
    const piece = 'y'.repeat(10_000);
    const numPieces = 2000;
    test.engine.script = () => Array.from({ length: numPieces }, () => piece);
    const answer = await new Promise<Response>((resolve, reject) => {
      fetch(`${test.url}/v1/chat/completions`, {
        method: 'POST',
        body: JSON.stringify({ messages: hi, stream: true }),
      }).then(resolve, reject);
      void until('the request arrived', () => test.engine.active.size === 1).then(() => test.engine.step());
    });
    const before = process.memoryUsage().external + process.memoryUsage().arrayBuffers;
    test.engine.run();
    await new Promise((resolve) => setTimeout(resolve, 200));
    // 20 MB wait in the log; had they been written, they would lie in the socket's buffer in this process.
    expect(process.memoryUsage().external + process.memoryUsage().arrayBuffers - before).toBeLessThan(12e6);
    expect(test.engine.parkings.at(-1)?.[0]).toBe('park');
    test.play();
    const text = await answer.text();
    expect(test.engine.parkings.at(-1)?.[0]).toBe('unpark');
    const content = text
      .split('\n\n')
      .filter((line) => line.startsWith('data: {'))
      .map((line) => JSON.parse(line.slice(6)).choices[0].delta.content ?? '')
      .join('');
    expect(content.length).toBe(piece.length * numPieces);
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
  });

  it('takes class and deadline from headers, and refuses headers it cannot read', async () => {
    test.play();
    const headers = { 'x-tokenwire-class': 'voice', 'x-tokenwire-deadline-ms': '5000' };
    await client.chat.completions.create({ model: 'default', messages: hi }, { headers });
    expect(test.engine.submitted.at(-1)).toMatchObject({ class: 'voice' });
    const { deadlineMs } = test.engine.submitted.at(-1)!;
    expect(deadlineMs).toBeGreaterThan(4000);
    expect(deadlineMs).toBeLessThanOrEqual(5000);
    const bad = client.chat.completions.create(
      { model: 'default', messages: hi },
      { headers: { 'x-tokenwire-class': 'x' } },
    );
    await expect(bad).rejects.toMatchObject({ status: 400, param: 'x-tokenwire-class' });
  });

  it('refuses new work while draining and lets running answers finish', async () => {
    const own = startTestApp();
    const ownClient = new OpenAI({ baseURL: `${own.url}/v1`, apiKey: 'x', maxRetries: 0 });
    const running = ownClient.chat.completions.create({ model: 'default', messages: hi });
    await until('it runs', () => own.engine.active.size === 1);
    const stopped = own.app.stop(5000);
    await expect(ownClient.chat.completions.create({ model: 'default', messages: hi })).rejects.toMatchObject({
      status: 503,
      code: 'shutting_down',
    });
    expect((await fetch(`${own.url}/readyz`)).status).toBe(503);
    own.play();
    expect((await running).choices[0]?.message.content).toBe('Hello world.');
    await stopped;
    own.pause();
  });

  it('ends what runs longer than the drain with shutting_down', async () => {
    const own = startTestApp();
    own.engine.script = () => Array.from({ length: 100_000 }, () => 'x');
    own.play();
    const ownClient = new OpenAI({ baseURL: `${own.url}/v1`, apiKey: 'x', maxRetries: 0 });
    const stream = await ownClient.chat.completions.create({ model: 'default', messages: hi, stream: true });
    const read = (async () => {
      for await (const _chunk of stream) continue;
    })();
    const failed = expect(read).rejects.toThrow('shutting down');
    await own.app.stop(50);
    await failed;
    own.pause();
  });
});
