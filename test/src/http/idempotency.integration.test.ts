// The same request twice, of either dialect.
import { describe, expect, it } from 'vitest';
import { until } from './test-app.ts';
import { errorOf, post, test } from '../support/openai-front.ts';

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
