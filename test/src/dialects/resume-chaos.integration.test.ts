// Background responses over a network that cuts connections at random: every event arrives once, in order, whatever
// is lost. TRIALS sets the number of conversations (10,000 take about 80 s), SEED repeats one.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CuttingProxy } from '../http/cutting-proxy.ts';
import { startTestApp, type TestApp } from '../http/test-app.ts';
import { random } from '../../support/random.ts';

const trials = Number(process.env.TRIALS ?? 200);
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const TOGETHER = 20;

interface Event {
  type: string;
  sequence_number: number;
  delta?: string;
  response?: { id: string; status: string };
}

let test: TestApp;
let proxy: CuttingProxy;
const next = random(seed);

beforeAll(async () => {
  test = startTestApp();
  test.engine.script = ({ prompt }) => {
    const length = Number((prompt as { messages: { content: string }[] }).messages[0]!.content);
    return Array.from({ length }, (_, index) => `${index} `);
  };
  proxy = await CuttingProxy.start({
    port: test.app.server.port,
    random: next,
    cutBytes: 30_000,
    delayMs: 20,
  });
  test.play();
});
afterAll(async () => {
  await proxy.stop();
  await test.stop();
});

/** What of the stream arrives before the connection ends or is cut, as whole events. */
async function read(path: string, init: RequestInit, take: (event: Event) => void): Promise<void> {
  let text = '';
  const decoder = new TextDecoder();
  try {
    const answer = await fetch(`http://127.0.0.1:${proxy.port}/v1/responses${path}`, init);
    if (!answer.ok) throw new Error(`status ${answer.status}: ${await answer.text()}`);
    for await (const bytes of answer.body!) {
      text += decoder.decode(bytes as Uint8Array, { stream: true });
      const blocks = text.split('\n\n');
      text = blocks.pop()!;
      for (const block of blocks) {
        const data = /^data: (.+)$/m.exec(block)?.[1];
        if (data !== undefined) take(JSON.parse(data) as Event);
      }
    }
  } catch (error) {
    if (String(error).includes('status')) throw error;
  }
}

/** One conversation as a careful client has it: the key finds the response until its id is known. */
async function converse(trial: number): Promise<{ events: Event[]; numTokens: number; numTries: number }> {
  const numTokens = 1 + Math.floor(next() * 120);
  const events: Event[] = [];
  let id: string | null = null;
  let numTries = 0;
  const take = (event: Event): void => {
    events.push(event);
    id ??= event.response?.id ?? null;
  };
  const body = JSON.stringify({ input: String(numTokens), background: true, stream: true });
  const headers = { 'idempotency-key': `trial-${trial}` };
  while (!/completed|incomplete|failed/.test(events.at(-1)?.type.replace('response.', '') ?? '')) {
    if (++numTries > 200) throw new Error('no end in sight');
    if (id === null) await read('', { method: 'POST', body, headers }, take);
    else await read(`/${String(id)}?stream=true&starting_after=${events.at(-1)!.sequence_number}`, {}, take);
  }
  return { events, numTokens, numTries };
}

describe('background responses over a bad network', () => {
  it(`lose nothing and double nothing (${trials} conversations, seed ${seed})`, { timeout: 600_000 }, async () => {
    let numTries = 0;
    for (let done = 0; done < trials; done += TOGETHER) {
      const batch = Array.from({ length: Math.min(TOGETHER, trials - done) }, (_, index) => converse(done + index));
      for (const { events, numTokens, numTries: tries } of await Promise.all(batch)) {
        numTries += tries;
        expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
        const text = events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');
        expect(text).toBe(Array.from({ length: numTokens }, (_, index) => `${index} `).join(''));
        expect(events.at(-1)).toMatchObject({ type: 'response.completed', response: { status: 'completed' } });
      }
    }
    // Each was created once, and the network was as bad as it was meant to be.
    expect(test.engine.submitted.length).toBe(trials);
    expect(numTries).toBeGreaterThan(trials);
    expect(proxy.numCut).toBeGreaterThan(trials / 2);
  });
});
