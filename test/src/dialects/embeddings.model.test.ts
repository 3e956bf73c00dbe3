// POST /v1/embeddings on the real model behind the real front end, asked by the official client while a chat streams.
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startModelApp, type ModelApp } from '../support/model-app.ts';

let test: ModelApp;
let client: OpenAI;

beforeAll(async () => {
  test = await startModelApp(['--model', 'fake:stepMs=5']);
  client = test.client;
});
afterAll(() => test.stop());

const model = 'all-minilm-l6-v2';
const dot = (a: number[], b: number[]): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

describe('Embeddings on the built-in model', () => {
  it('is ready before the embedding model was opened, and lists it', async () => {
    expect(test.engines.isReady).toBe(true);
    const listed = (await client.models.list()).data.map(({ id }) => id);
    expect(listed).toHaveLength(2);
    expect(listed[1]).toBe(model);
    const alias = 'sentence-transformers/all-MiniLM-L6-v2';
    expect(await client.models.retrieve(alias)).toMatchObject({ id: model, dimensions: 384, context_length: 256 });
  });

  it('gives the official client vectors in which meaning is near', async () => {
    const input = ['How do I reset my password?', 'I forgot my login credentials', 'The stock market fell today'];
    const answer = await client.embeddings.create({ model, input });
    expect(answer).toMatchObject({ object: 'list', model, usage: { prompt_tokens: 24, total_tokens: 24 } });
    expect(answer.data.map(({ object, index }) => [object, index])).toEqual([0, 1, 2].map((i) => ['embedding', i]));
    const [a, b, c] = answer.data.map(({ embedding }) => embedding);
    expect(a).toHaveLength(384);
    expect(dot(a!, a!)).toBeCloseTo(1, 5);
    expect(dot(a!, b!)).toBeGreaterThan(0.6);
    expect(dot(a!, c!)).toBeLessThan(0.2);
  });

  it('gives the same floats in both formats, of text and of its token ids', async () => {
    const text = await client.embeddings.create({ model, input: 'The sea was calm.', encoding_format: 'float' });
    // The client asks for base64 when it is asked for nothing, and decodes it.
    const base64 = await client.embeddings.create({ model, input: [1996, 2712, 2001, 5475, 1012] });
    expect(base64.usage.prompt_tokens).toBe(text.usage.prompt_tokens);
    expect(text.data[0]!.embedding.map(Math.fround)).toEqual([...base64.data[0]!.embedding]);
  });

  it('takes several lists of token ids, and cuts to the dimensions that are wanted', async () => {
    const input = [
      [1996, 2712],
      [101, 1996, 2712, 102],
    ];
    const { data, usage } = await client.embeddings.create({ model, input, dimensions: 64 });
    expect(usage.prompt_tokens).toBe(8);
    const [first, second] = data.map(({ embedding }) => embedding);
    expect(first).toHaveLength(64);
    expect(dot(first!, first!)).toBeCloseTo(1, 5);
    expect(dot(first!, second!)).toBeCloseTo(1, 5);
  });

  it('names the input that is too long, and the model that is none', async () => {
    const tooLong = await client.embeddings.create({ model, input: ['fine', 'word '.repeat(300)] }).catch((e) => e);
    expect(tooLong).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'input[1]' });
    expect(tooLong.message).toContain('302 tokens; all-minilm-l6-v2 takes 256');
    const chat = await client.embeddings.create({ model: 'fake', input: 'a' }).catch((e) => e);
    expect(chat).toMatchObject({ status: 404, code: 'model_not_found' });
    const talk = await client.chat.completions
      .create({ model, messages: [{ role: 'user', content: 'Hi' }] })
      .catch((e) => e);
    expect(talk).toMatchObject({ status: 404, code: 'model_not_found' });
  });

  it('answers 600 inputs in order while a chat streams', async () => {
    const stream = await client.chat.completions.create({
      model: 'default',
      messages: [{ role: 'user', content: 'Go on.' }],
      max_tokens: 200,
      stream: true,
    });
    const chat = (async () => {
      let numChunks = 0;
      for await (const _ of stream) numChunks++;
      return numChunks;
    })();
    const input = Array.from({ length: 600 }, (_, i) => `number ${i % 20} ${'and '.repeat(i % 7)}more`);
    const { data } = await client.embeddings.create({ model, input });
    expect(data.map(({ index }) => index)).toEqual(input.map((_, i) => i));
    for (const i of [0, 19, 333, 599]) {
      const alone = (await client.embeddings.create({ model, input: input[i]! })).data[0]!.embedding;
      expect(dot(alone, data[i]!.embedding)).toBeCloseTo(1, 5);
    }
    expect(await chat).toBeGreaterThan(1);
    const metrics = await (await fetch(`${test.app.server.url}/metrics`)).text();
    expect(metrics).toMatch(/tokenwire_embedding_seconds_count\{model="all-minilm-l6-v2"\} [1-9]/);
    expect(metrics).toContain('tokenwire_embedding_inputs_waiting 0');
  });
});
