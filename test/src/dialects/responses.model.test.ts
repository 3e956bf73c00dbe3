// The Responses API on real weights: the default model behind the real front end, asked by the official client.
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

const question = { model: 'default', input: 'What is the capital of France?', temperature: 0, max_output_tokens: 60 };

describe('Responses on the default model', () => {
  it('knows the capital of France, streamed and not, and counts its prompt', async () => {
    const answer = await client.responses.create(question);
    expect(answer.output_text).toContain('Paris');
    expect(answer.status).toBe('completed');
    const stream = client.responses.stream(question);
    const final = await stream.finalResponse();
    expect(final.output_text).toBe(answer.output_text);
    const count = await client.responses.inputTokens.count({ model: 'default', input: question.input });
    expect(count.input_tokens).toBe(answer.usage!.input_tokens);
  });

  it('continues by previous_response_id from the KV memory of the turn before', async () => {
    const first = await client.responses.create({ ...question, input: 'Tell me about the sea.' });
    const next = { ...question, input: 'And the sky?', previous_response_id: first.id };
    const count = await client.responses.inputTokens.count({
      model: 'default',
      input: next.input,
      previous_response_id: first.id,
    });
    const second = await client.responses.create(next);
    const { input_tokens, input_tokens_details } = second.usage!;
    expect(input_tokens).toBe(count.input_tokens);
    // All of the first turn but the last token or two, which were sampled and not computed.
    const before = first.usage!.total_tokens;
    expect(input_tokens_details.cached_tokens).toBeGreaterThanOrEqual(before - 2);
    const fork = await client.responses.create({ ...next, input: 'And the land?' });
    expect(fork.usage!.input_tokens_details.cached_tokens).toBeGreaterThan(0);
  });

  it('runs in the background, is read again at every event, and is cancelled by id', async () => {
    const stream = await client.responses.create({ ...question, background: true, stream: true });
    let id = '';
    for await (const event of stream) {
      if (event.type === 'response.created') id = event.response.id;
      if (event.sequence_number >= 4) break;
    }
    const rest = [];
    for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: 4 }))
      rest.push(event);
    expect(rest.map((event) => event.sequence_number)).toEqual(rest.map((_, index) => index + 5));
    expect(rest.at(-1)?.type).toBe('response.completed');
    const endless = { ...question, ignore_eos: true, max_output_tokens: 3000, background: true };
    const running = await client.responses.create(endless);
    const cancelled = await client.responses.cancel(running.id);
    expect(cancelled.status).toBe('cancelled');
    expect(cancelled.usage!.output_tokens).toBeLessThan(3000);
  });

  it('cuts the oldest turns with truncation auto, and refuses without', async () => {
    const input = Array.from({ length: 40 }, (_, turn) => [
      { role: 'user' as const, content: `Turn ${turn}: ${'word '.repeat(200)}` },
      { role: 'assistant' as const, content: 'Yes.' },
    ]).flat();
    input.push({ role: 'user', content: 'Hi' });
    const request = { ...question, input, max_output_tokens: 5 };
    await expect(client.responses.create(request)).rejects.toMatchObject({ code: 'context_length_exceeded' });
    const answer = await client.responses.create({ ...request, truncation: 'auto' });
    expect(answer.usage!.output_tokens).toBeGreaterThan(0);
  });
});
