import { describe, expect, it } from 'vitest';
import { ClientGone, parseJsonObject, readBody } from '../../../src/http/body.ts';
import { fakeExchange } from './fake-response.ts';

describe('readBody', () => {
  it('joins pieces and copies them', async () => {
    const { exchange, response } = fakeExchange();
    const body = readBody(exchange);
    response.receive('{"a"', false);
    response.receive(':1}', true);
    expect((await body).toString()).toBe('{"a":1}');
  });

  it('refuses what exceeds the limit, declared or received, and drops the rest', async () => {
    const declared = fakeExchange('post', '/', { 'content-length': '11' });
    await expect(readBody(declared.exchange, 10)).rejects.toMatchObject({ code: 'too_large' });
    const { exchange, response } = fakeExchange();
    const body = readBody(exchange, 10);
    response.receive('123456', false);
    response.receive('123456', false);
    response.receive('123456', true);
    await expect(body).rejects.toMatchObject({ code: 'too_large' });
  });

  it('holds only so much for all connections together, and gives it back', async () => {
    const piece = new Uint8Array(8 << 20);
    const senders = Array.from({ length: 33 }, () => fakeExchange());
    const bodies = senders.map(({ exchange }) => readBody(exchange));
    const results = Promise.allSettled(bodies);
    for (const { response } of senders) response.receive(piece, false);
    await expect(bodies[32]).rejects.toMatchObject({ code: 'overloaded' });
    for (const { response } of senders) response.abort();
    expect((await results).every(({ status }) => status === 'rejected')).toBe(true);
    const { exchange, response } = fakeExchange();
    const body = readBody(exchange);
    response.receive(piece, true);
    expect((await body).byteLength).toBe(piece.byteLength);
  });

  it('reports a client that left', async () => {
    const { exchange, response } = fakeExchange();
    const body = readBody(exchange);
    response.receive('{', false);
    response.abort();
    await expect(body).rejects.toBeInstanceOf(ClientGone);
  });
});

describe('parseJsonObject', () => {
  it('does not take brackets inside strings for nesting', () => {
    const text = JSON.stringify({ a: '['.repeat(500), b: '\\"[{'.repeat(100) });
    expect(parseJsonObject(Buffer.from(text))).toEqual(JSON.parse(text));
  });
});
