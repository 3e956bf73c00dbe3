// What a user of the default model sees through real sockets, whatever else the server is doing.
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChatMessage, CreateOptions } from '../../protocol/messages.ts';
import { Op } from '../../protocol/messages.ts';
import { chat } from './support/http-client.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const TOKENS = 40;
const prompts = [
  'What is the capital of France?',
  '你好，请介绍一下你自己。',
  'Write a short poem about the sea.',
  '为什么天空是蓝色的？',
  'Explain photosynthesis in two sentences.',
  '列出三种水果。',
  'How do I boil an egg?',
  '请用一句话解释量子力学 🙂',
];

let server: TestServer;
let client: NativeClient;

beforeAll(async () => {
  server = await TestServer.start();
  client = await NativeClient.connect(server.streamUrl);
});

afterAll(async () => {
  expect(client.violations).toEqual([]);
  client.drop();
  expect(await server.stop()).toEqual({ code: 0, signal: null });
});

/** Half of them greedy, half with a seed. */
function samplingOf(index: number): NonNullable<CreateOptions['sampling']> {
  return index % 2 === 0
    ? { temperature: 0, maxTokens: TOKENS }
    : { temperature: 0.9, topP: 0.95, topK: 50, seed: 1000 + index, maxTokens: TOKENS };
}

const history = async (session: string): Promise<ChatMessage[]> =>
  (await client.ask([Op.History, 0, client.newRequestId(), session], Op.SessionHistory))[4];

describe('The default model', () => {
  it('answers sixteen sessions of one socket as it answers each request alone', async () => {
    const cases = Array.from({ length: 16 }, (_, i) => ({ prompt: prompts[i % prompts.length]!, index: i }));
    const alone: string[] = [];
    for (const { prompt, index } of cases) {
      const answer = client.say(prompt, samplingOf(index));
      await answer.done();
      alone.push(answer.text);
    }
    expect(alone.join('').length).toBeGreaterThan(500);
    const sessions = await Promise.all(cases.map(() => client.openSession()));
    for (const [i] of cases.entries()) await client.openLane(i + 1);
    const answers = cases.map(({ prompt, index }) =>
      client.create(
        { session: sessions[index]!, messages: [{ role: 'user', content: prompt }], sampling: samplingOf(index) },
        index + 1,
      ),
    );
    await Promise.all(answers.map((answer) => answer.done()));
    expect(answers.map(({ text }) => text)).toEqual(alone);

    // The next turn finds what the first one left in the KV memory, and continues the same conversation.
    const next = sessions.map((session) =>
      client.create({
        session,
        messages: [{ role: 'user', content: 'Go on.' }],
        sampling: { temperature: 0, maxTokens: 12 },
      }),
    );
    const ends = await Promise.all(next.map((answer) => answer.done()));
    for (const end of ends) expect(end.usage.cachedTokens).toBeGreaterThan(0);
    for (const [i, session] of sessions.entries()) {
      const roles = (await history(session)).map(({ role, content }) => [role, content]);
      expect(roles).toEqual([
        ['user', prompts[i % prompts.length]],
        ['assistant', alone[i]],
        ['user', 'Go on.'],
        ['assistant', next[i]!.text],
      ]);
    }
  });

  it('keeps a cancelled answer in history as far as it was delivered', async () => {
    const session = await client.openSession();
    const messages = [{ role: 'user' as const, content: 'Tell me a very long story about a dragon.' }];
    const answer = client.create({ session, messages, sampling: { temperature: 0, ignoreEos: true, maxTokens: 900 } });
    await answer.hasText(30);
    client.cancel(answer);
    const seq = await answer.cancelled;
    const end = await answer.done();
    expect(end).toMatchObject({ reason: 'cancelled', seq });
    expect(end.usage.completionTokens).toBeLessThan(900);
    expect((await history(session)).at(-1)).toMatchObject({ role: 'assistant', content: answer.text });
  });

  it('gives the same text over HTTP, streamed and not, as over the native socket', async () => {
    for (const [index, prompt] of prompts.slice(0, 4).entries()) {
      const sampling = samplingOf(index);
      const native = client.say(prompt, sampling);
      const { reason } = await native.done();
      const fields = {
        temperature: sampling.temperature,
        ...(sampling.topP === undefined ? {} : { top_p: sampling.topP, top_k: sampling.topK, seed: sampling.seed }),
        max_tokens: TOKENS,
      };
      const [whole, stream] = await Promise.all([
        chat(server.url, prompt, fields),
        chat(server.url, prompt, { ...fields, stream: true }),
      ]);
      for (const answer of [whole, stream]) {
        expect(answer).toEqual({ status: 200, text: native.text, reason, error: null, isComplete: true });
      }
    }
  });

  it('ends well when it is offered tools and answers in its own words', async () => {
    const tools = [{ name: 'get_weather', description: 'Weather of a city', parameters: { type: 'object' } }];
    const answer = client.create({
      messages: [{ role: 'user', content: 'What is the capital of France?' }],
      tools,
      sampling: { temperature: 0, maxTokens: 80 },
    });
    const end = await answer.done();
    expect(['stop', 'length', 'tool_calls']).toContain(end.reason);
    const http = await chat(server.url, 'What is the capital of France?', {
      tools: tools.map((definition) => ({ type: 'function', function: definition })),
      temperature: 0,
      max_tokens: 80,
      stream: true,
    });
    expect(http).toMatchObject({ status: 200, error: null, isComplete: true, text: answer.text });
  });

  it('goes on with four streams while a prompt of 1,500 tokens is read', async () => {
    const streams = prompts
      .slice(0, 4)
      .map((prompt) => client.say(prompt, { temperature: 0, ignoreEos: true, maxTokens: 1000 }));
    await Promise.all(streams.map((stream) => stream.hasText(10)));
    const longPrompt = 'The quick brown fox jumps over the lazy dog. '.repeat(110);
    const long = client.say(longPrompt, { temperature: 0, maxTokens: 8 });
    await long.hasText();
    const [fromMs, toMs] = [long.sentAtMs, long.arrivalsMs[0]!];
    for (const stream of streams) {
      expect(stream.ending).toBeNull();
      // The bench `beside` measures the gaps; a prompt read in one piece would leave one frame before and one after.
      const within = stream.arrivalsMs.filter((at) => at >= fromMs && at <= toMs);
      expect(within.length).toBeGreaterThan(3);
    }
    expect((await long.done()).usage.promptTokens).toBeGreaterThan(1500);
    for (const stream of streams) client.cancel(stream);
    await Promise.all(streams.map((stream) => stream.cancelled));
  });

  it('ends before a stop string, on both doors', async () => {
    const whole = client.say('Count: one, two, three.', { temperature: 0, maxTokens: TOKENS });
    await whole.done();
    const stop = whole.text.slice(12, 15);
    expect(stop).toHaveLength(3);
    const expected = whole.text.slice(0, whole.text.indexOf(stop));
    const native = client.say('Count: one, two, three.', { temperature: 0, maxTokens: TOKENS, stop: [stop] });
    expect((await native.done()).reason).toBe('stop');
    expect(native.text).toBe(expected);
    const http = await chat(server.url, 'Count: one, two, three.', {
      temperature: 0,
      max_tokens: TOKENS,
      stop,
      stream: true,
    });
    expect(http).toMatchObject({ text: expected, reason: 'stop', isComplete: true });
  });

  it('never splits Chinese characters or emoji over deltas', async () => {
    const answers = Array.from({ length: 6 }, (_, i) =>
      client.say('写三个表情符号，再写一首短诗 🙂🎉🌊', { temperature: 1, seed: 50 + i, maxTokens: 50 }),
    );
    const stream = await chat(server.url, '写三个表情符号 🙂🎉🌊', {
      temperature: 1,
      seed: 5,
      max_tokens: 60,
      stream: true,
    });
    await Promise.all(answers.map((answer) => answer.done()));
    expect(answers.map(({ text }) => text).join('')).toMatch(
      /[一-鿿].*\p{Emoji_Presentation}|\p{Emoji_Presentation}.*[一-鿿]/su,
    );
    for (const { pieces, text } of answers) {
      expect(pieces.length).toBeGreaterThan(2);
      // An answer cut by its limit may end inside a character.
      for (const piece of pieces.slice(0, -1)) expect(piece).not.toContain('\uFFFD');
      expect(text.slice(0, -1)).not.toContain('\uFFFD');
    }
    expect(stream.text.slice(0, -1)).not.toContain('\uFFFD');
  });

  it('tells the official client the capital of France', async () => {
    const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'unused', maxRetries: 0 });
    const messages = [{ role: 'user' as const, content: 'What is the capital of France?' }];
    const answer = await openai.chat.completions.create({ model: 'default', temperature: 0, messages });
    expect(answer.choices[0]?.message.content).toContain('Paris');
    let text = '';
    const stream = await openai.chat.completions.create({ model: 'default', temperature: 0, messages, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    expect(text).toBe(answer.choices[0]?.message.content);
  });
});
