// The wrapper in front of a peer's library, over real HTTP: the chunks it sends, what it refuses, and its end.
import http from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sseRequest } from '../../bench/load/sse-request.ts';
import { PeerProcess } from '../../bench/peers/peer-process.ts';
import { listen, type ChatRequest, type PeerModel } from '../../bench/peers/sse-front.ts';

const good = {
  messages: [{ role: 'user', content: 'go' }],
  max_tokens: 3,
  temperature: 0,
  ignore_eos: true,
  stream: true,
};

describe('a peer wrapper', () => {
  let server: http.Server;
  let url: string;
  let seen: ChatRequest;
  const aborted = Promise.withResolvers<void>();

  const model: PeerModel = {
    name: 'echo',
    async answer(request, onText, signal) {
      seen = request;
      const content = request.messages.at(-1)!.content;
      if (content === 'fail') throw new Error('broken');
      onText('one ');
      if (content === 'wait') {
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        aborted.resolve();
      }
      onText('twö');
      return { promptTokens: 7, completionTokens: content === 'stop' ? 2 : 3 };
    },
  };

  beforeAll(async () => {
    ({ server, url } = await listen(model));
  });
  afterAll(() => new Promise((resolve) => server.close(resolve)));

  const post = (body: unknown): Promise<Response> =>
    fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });

  it('sends text, finish reason, usage and the end as events of their own', async () => {
    const answer = await post(good);
    expect(answer.headers.get('content-type')).toBe('text/event-stream');
    const events = (await answer.text()).split('\n\n').filter((event) => event !== '');
    expect(events.every((event) => event.startsWith('data: '))).toBe(true);
    expect(events.pop()).toBe('data: [DONE]');
    const chunks = events.map((event) => JSON.parse(event.slice(6)) as { choices: object[]; usage?: object });
    expect(chunks.map(({ choices }) => choices)).toEqual([
      [{ index: 0, delta: { content: 'one ' }, finish_reason: null }],
      [{ index: 0, delta: { content: 'twö' }, finish_reason: null }],
      [{ index: 0, delta: {}, finish_reason: 'length' }],
      [],
    ]);
    expect(chunks.at(-1)!.usage).toEqual({ prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 });
    expect(seen).toEqual({ messages: good.messages, maxTokens: 3, ignoreEos: true });
  });

  it('says stop when the answer is shorter than asked for', async () => {
    const text = await (await post({ ...good, messages: [{ role: 'user', content: 'stop' }] })).text();
    expect(text).toContain('"finish_reason":"stop"');
  });

  it('is understood by the load generator', async () => {
    const texts: string[] = [];
    const agent = new http.Agent();
    const tokens = await new Promise((resolve, reject) => {
      sseRequest(url, agent, good, {
        onText: (_atMs, text) => texts.push(text),
        onDone: (_atMs, promptTokens, completionTokens) => resolve([promptTokens, completionTokens]),
        onError: (message) => reject(new Error(message)),
      });
    });
    expect(texts.join('')).toBe('one twö');
    expect(tokens).toEqual([7, 3]);
  });

  it('tells the library when the client cuts the request off, and nothing follows', async () => {
    const after: string[] = [];
    await new Promise<void>((resolve) => {
      const cut = sseRequest(
        url,
        new http.Agent(),
        { ...good, messages: [{ role: 'user', content: 'wait' }] },
        {
          onText() {
            cut();
            resolve();
          },
          onDone: () => after.push('done'),
          onError: (message) => after.push(message),
        },
      );
    });
    await aborted.promise;
    expect(after).toEqual([]);
  });

  it.each([
    ['{', 'the body is no JSON'],
    ['null', 'the body is no object'],
    [{ ...good, stream: false }, 'stream has to be true'],
    [{ ...good, temperature: 1 }, 'temperature has to be 0'],
    [{ ...good, max_tokens: 0 }, 'max_tokens'],
    [{ ...good, messages: [] }, 'messages'],
    [{ ...good, messages: [{ role: 'user', content: null }] }, 'messages'],
    [{ ...good, messages: [null] }, 'messages'],
  ])('refuses %j', async (body, message) => {
    const answer = await post(body);
    expect(answer.status).toBe(400);
    expect(await answer.text()).toContain(message);
  });

  it('answers 500 when the library fails, and 404 elsewhere', async () => {
    expect((await post({ ...good, messages: [{ role: 'user', content: 'fail' }] })).status).toBe(500);
    expect((await fetch(`${url}/v1/embeddings`)).status).toBe(404);
    expect(await (await fetch(`${url}/v1/models`)).json()).toMatchObject({ data: [{ id: 'echo' }] });
  });
});

describe('PeerProcess', () => {
  it('says why a peer did not start', async () => {
    const start = PeerProcess.start('transformers-js.ts', ['/nowhere/entry.mjs', '/nowhere/model']);
    await expect(start).rejects.toThrow(/Cannot find module/);
  });
});
