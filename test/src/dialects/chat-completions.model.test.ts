// The whole path on real weights: the default model behind the real front end, asked by the official client.
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startModelApp, type ModelApp } from '../support/model-app.ts';

let test: ModelApp;
let client: OpenAI;

beforeAll(async () => {
  test = await startModelApp();
  client = test.client;
});
afterAll(() => test.stop());

const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];

const create = async (fields: object) => {
  const answer = await client.chat.completions.create({ model: 'default', messages: question, ...fields });
  return { choice: answer.choices[0]!, usage: answer.usage! };
};

describe('Chat Completions on the default model', () => {
  it('knows the capital of France, streamed and not', async () => {
    const fields = { model: 'default', messages: question, temperature: 0, max_tokens: 40 };
    const answer = await client.chat.completions.create(fields);
    expect(answer.choices[0]?.message.content).toContain('Paris');
    expect(answer.choices[0]?.finish_reason).toBe('stop');
    const stream = await client.chat.completions.create({
      ...fields,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe(answer.choices[0]?.message.content);
    expect(usage?.completion_tokens).toBe(answer.usage?.completion_tokens);
    expect(usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(0);
  });

  it('honours max_tokens, stop, seed and ignore_eos', async () => {
    const short = await create({ max_tokens: 3 });
    expect(short.usage.completion_tokens).toBe(3);
    expect(short.choice.finish_reason).toBe('length');
    const stopped = await create({ temperature: 0, stop: 'Paris' });
    expect(stopped.choice.message.content).not.toContain('Paris');
    expect(stopped.choice.finish_reason).toBe('stop');
    const [first, second] = await Promise.all([1, 2].map(() => create({ seed: 11, max_tokens: 30 })));
    expect(first!.choice.message.content).toBe(second!.choice.message.content);
    const endless = await create({ ignore_eos: true, max_tokens: 120, temperature: 0 });
    expect(endless.usage.completion_tokens).toBe(120);
  });

  it('refuses a prompt longer than the context with its status', async () => {
    const content = 'word '.repeat(400_000);
    for (const stream of [false, true]) {
      const created = client.chat.completions.create({
        model: 'default',
        messages: [{ role: 'user', content }],
        stream,
      });
      await expect(created).rejects.toMatchObject({ status: 400, code: 'context_length_exceeded' });
    }
  });

  it('gives choices of one prompt with log-probabilities whose bytes are their content', async () => {
    const fields = { model: 'default', messages: question, max_tokens: 40, logprobs: true, top_logprobs: 3 };
    const drawn = { ...fields, n: 4, temperature: 1, seed: 11 };
    const answer = await client.chat.completions.create(drawn);
    const again = await client.chat.completions.stream(drawn).finalChatCompletion();
    const texts = answer.choices.map(({ message }) => message.content);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect(again.choices.map(({ message }) => message.content)).toEqual(texts);
    for (const { message, logprobs } of answer.choices) {
      const bytes = logprobs!.content!.flatMap((token) => token.bytes ?? []);
      expect(Buffer.from(bytes).toString('utf8')).toBe(message.content);
      for (const { top_logprobs } of logprobs!.content!) expect(top_logprobs).toHaveLength(3);
    }
    const greedy = await client.chat.completions.create({ ...fields, n: 4, temperature: 0 });
    expect(new Set(greedy.choices.map(({ message }) => message.content)).size).toBe(1);
    const alone = await client.chat.completions.create({ ...drawn, n: 1 });
    expect(alone.choices[0]?.message.content).toBe(texts[0]);
    expect(answer.usage?.prompt_tokens).toBe(alone.usage?.prompt_tokens);
  });

  it('serves sixteen streams at once, and none is left when their clients leave', async () => {
    const controller = new AbortController();
    const streams = await Promise.all(
      Array.from({ length: 16 }, (_, index) =>
        client.chat.completions.create(
          {
            model: 'default',
            messages: [{ role: 'user', content: `Tell me a story about the number ${index}.` }],
            stream: true,
            max_tokens: 3000,
            ignore_eos: true,
          } as OpenAI.ChatCompletionCreateParamsStreaming,
          { signal: controller.signal },
        ),
      ),
    );
    const counts = streams.map(() => 0);
    const reads = streams.map(async (stream, index) => {
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content) counts[index]!++;
        if (counts.every((count) => count >= 5)) controller.abort();
      }
    });
    await Promise.allSettled(reads);
    expect(counts.every((count) => count >= 5)).toBe(true);
    await expect.poll(() => test.app.services.responses.active).toBe(0);
  });
});
