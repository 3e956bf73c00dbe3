// Responses that chat completions or native clients began, read and continued by the Responses API: one conversation,
// whoever speaks it.
import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connect, type Client } from '../../../clients/index.ts';
import type { SubmitOptions } from '../../../src/engine/types.ts';
import { startTestApp, until, type TestApp } from '../http/test-app.ts';

let test: TestApp;
let client: OpenAI;
let native: Client;

beforeAll(() => {
  test = startTestApp();
  client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
  native = connect(test.url);
});
afterEach(() => {
  test.pause();
  test.engine.run();
  test.engine.script = () => ['Hello', ' world', '.'];
});
afterAll(async () => {
  native.close();
  await test.stop();
});

const model = 'default';
const look = { type: 'function' as const, function: { name: 'look', parameters: { type: 'object' } } };

const messagesOf = ({ prompt }: SubmitOptions) => (prompt.kind === 'chat' ? prompt.messages : []);
/** What the engine was asked for last. */
const lastPrompt = () => messagesOf(test.engine.submitted.at(-1)!);
const goOn = (id: string, input = 'Go on') => client.responses.create({ model, input, previous_response_id: id });

async function listed(id: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const item of client.responses.inputItems.list(id, { order: 'asc', limit: 2 })) {
    if (item.type === 'message') texts.push(`${item.role}: ${(item.content[0] as { text: string }).text}`);
    else if (item.type === 'function_call') texts.push(`call: ${item.name}`);
    else if (item.type === 'function_call_output') texts.push(`output: ${JSON.stringify(item.output)}`);
  }
  return texts;
}

describe('a chat completion', () => {
  it('lists its messages as items and is continued from all of them, calls included', async () => {
    test.play();
    const messages: OpenAI.ChatCompletionMessageParam[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'What is up?' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'look', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'call_1', content: 'The sky.' },
      { role: 'user', content: 'And down?' },
    ];
    const { id } = await client.chat.completions.create({ model, messages, tools: [look] });
    const asked = lastPrompt();
    expect(await listed(id)).toEqual([
      'system: Be brief.',
      'user: What is up?',
      'call: look',
      'output: "The sky."',
      'user: And down?',
    ]);
    await goOn(id);
    expect(lastPrompt()).toEqual([
      ...asked,
      { role: 'assistant', content: 'Hello world.' },
      { role: 'user', content: 'Go on' },
    ]);
  });

  it('has its input counted once, however many choices were asked for, until it is deleted', async () => {
    test.play();
    const { retained } = test.app.services.responses;
    const content = 'x'.repeat(100_000);
    const { id } = await client.chat.completions.create({ model, n: 4, messages: [{ role: 'user', content }] });
    const added = test.app.services.responses.retained.bytes - retained.bytes;
    expect(added).toBeGreaterThan(200_000);
    expect(added).toBeLessThan(250_000);
    await client.responses.delete(id.replace('chatcmpl-', 'resp_'));
    expect(test.app.services.responses.retained.bytes).toBeLessThan(retained.bytes + 10_000);
    await expect(client.responses.inputItems.list(id)).rejects.toMatchObject({ status: 404 });
    await expect(goOn(id)).rejects.toMatchObject({ status: 400, code: 'previous_response_not_found' });
  });
});

describe('a response of a native client', () => {
  it('lists what its session held when it began, whatever came later', async () => {
    test.play();
    const session = native.session({ system: 'Be kind.', messages: [{ role: 'user', content: 'Before' }] });
    const responses = [session.send('One'), session.send('Two'), session.send('Three')];
    for (const response of responses) await response.finished;
    const head = ['system: Be kind.', 'user: Before', 'user: One'];
    expect(await listed(responses[0]!.id!)).toEqual(head);
    expect(await listed(responses[1]!.id!)).toEqual([...head, 'assistant: Hello world.', 'user: Two']);
    const all = await client.responses.inputItems.list(responses[2]!.id!);
    const again = await client.responses.inputItems.list(responses[2]!.id!);
    expect(all.data.map(({ id }) => id)).toEqual(again.data.map(({ id }) => id));
    expect(new Set(all.data.map(({ id }) => id)).size).toBe(7);
    await session.close();
  });

  it('is continued as a fork: its session stays as it is, and the KV memory is offered to the engine', async () => {
    test.play();
    const session = native.session();
    const first = session.send('One');
    await first.finished;
    await session.send('Two').finished;
    const before = await session.history();
    await goOn(first.id!, 'Another way');
    expect(lastPrompt().map(({ content }) => content)).toEqual(['One', 'Hello world.', 'Another way']);
    const { prompt } = test.engine.submitted.at(-1)!;
    expect(prompt.kind === 'chat' && prompt.history?.length).toBeGreaterThan(0);
    expect(await session.history()).toEqual(before);
    await session.close();
  });

  it('is continued from what the user heard of it', async () => {
    test.play();
    const session = native.session();
    const response = session.send('One');
    await response.finished;
    await response.cancel({ heardUpTo: 5 });
    await goOn(response.id!);
    expect(lastPrompt().map(({ content }) => content)).toEqual(['One', 'Hello', 'Go on']);
    const { prompt } = test.engine.submitted.at(-1)!;
    expect(prompt.kind === 'chat' && prompt.history).toBe(null);
    await session.close();
  });

  it('without a session is continued from its own messages', async () => {
    test.play();
    const response = native.create({ messages: [{ role: 'user', content: 'Alone' }] });
    await response.finished;
    expect(await listed(response.id!)).toEqual(['user: Alone']);
    await goOn(response.id!);
    expect(lastPrompt().map(({ content }) => content)).toEqual(['Alone', 'Hello world.', 'Go on']);
  });

  it('lists its input while it runs, and says so while it waits behind another', async () => {
    const session = native.session();
    const [running, waiting] = [session.send('One'), session.send('Two')];
    await until('both are known', () => running.id !== null && waiting.id !== null);
    expect(await listed(running.id!)).toEqual(['user: One']);
    await expect(listed(waiting.id!)).rejects.toMatchObject({ status: 409, code: 'session_busy' });
    await expect(goOn(running.id!)).rejects.toMatchObject({ status: 409, code: 'session_busy' });
    test.play();
    await waiting.finished;
    await session.close();
  });

  it('says so when its conversation was rolled back or closed', async () => {
    test.play();
    const session = native.session();
    const [one, two] = [session.send('One'), session.send('Two')];
    await two.finished;
    await session.rollback(0);
    expect(await listed(one.id!)).toEqual(['user: One']);
    await expect(listed(two.id!)).rejects.toMatchObject({ status: 404, code: 'unknown_session' });
    await expect(goOn(two.id!)).rejects.toMatchObject({ status: 400, code: 'previous_response_not_found' });
    await session.close();
    await expect(listed(one.id!)).rejects.toMatchObject({ status: 404, code: 'unknown_session' });
    const refused = { code: 'previous_response_not_found', param: 'previous_response_id' };
    await expect(goOn(one.id!)).rejects.toMatchObject(refused);
    expect((await client.responses.retrieve(one.id!)).output_text).toBe('Hello world.');
  });

  it('shows nothing to another tenant', async () => {
    const apiKeys = ['a', 'b'].map((tenant) => ({ tenant, key: `key-${tenant}` }));
    const keyed = startTestApp({ apiKeys });
    keyed.play();
    const owner = connect(keyed.url, { apiKey: 'key-a' });
    const session = owner.session();
    const response = session.send('Secret');
    await response.finished;
    const id = response.id!;
    const [a, b] = apiKeys.map(({ key }) => new OpenAI({ baseURL: `${keyed.url}/v1`, apiKey: key, maxRetries: 0 }));
    await expect(b!.responses.inputItems.list(id)).rejects.toMatchObject({ status: 404, code: 'unknown_response' });
    const continued = b!.responses.create({ model, input: 'Hi', previous_response_id: id });
    await expect(continued).rejects.toMatchObject({ status: 400, code: 'previous_response_not_found' });
    expect((await a!.responses.inputItems.list(id)).data).toHaveLength(1);
    owner.close();
    await keyed.stop();
  });
});
