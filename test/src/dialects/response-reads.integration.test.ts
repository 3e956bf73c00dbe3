// Responses by their id, whoever began them: reading, watching, deleting, input items, and counting tokens.
import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { decode, encodeCopy } from '../../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../../protocol/constants.ts';
import { Op, type ClientMessage, type ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { startTestApp, until } from '../http/test-app.ts';
import { client, collect, errorOf, model, post, runningId, test, textOf } from '../support/openai-front.ts';

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
