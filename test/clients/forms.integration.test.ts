// Answers of a given form through the SDK, on the real server with the fake model, which would rather say something else.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, ServiceError, type Client, type Finished, type ResponseStream } from '../../clients/index.ts';
import { RealServer } from './support/real-server.ts';

let server: RealServer;
let client: Client;

beforeAll(async () => {
  server = await RealServer.start({ MODEL: 'fake:' });
});
afterAll(() => server.stop());
afterEach(() => client.close());

/** As programs do: a server too busy to check a form in time goes on with the check, and asks to come again. */
async function answered(ask: () => ResponseStream): Promise<Finished> {
  for (;;) {
    try {
      return await ask().finished;
    } catch (error) {
      if (!(error instanceof ServiceError) || !error.row.retryable) throw error;
      await sleep(error.retryAfterMs);
    }
  }
}

const schema = {
  type: 'object',
  properties: { at: { enum: ['sky', 'sea'] }, deep: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['at', 'deep'],
};
const tools = [{ name: 'look', parameters: schema }];

describe('An answer of a given form, through the SDK', () => {
  it('is JSON that fits the schema, any object, or what matches the pattern', async () => {
    client = connect(server.url);
    const session = client.session();
    const responseFormat = { type: 'json_schema', name: 's', schema } as const;
    const inSchema = await answered(() => session.send('Hi', { responseFormat, seed: 1 }));
    expect(inSchema.text).toMatch(/^\{"at": "(sky|sea)", "deep": [1-9]\}$/);
    const pattern = '[0-9]{3}-[a-c]';
    const inPattern = await answered(() => session.send('Hi', { responseFormat: { type: 'regex', pattern } }));
    expect(inPattern.text).toMatch(/^[0-9]{3}-[a-c]$/);
    const messages = [{ role: 'user' as const, content: '!!say {"a": 1}!!' }];
    const sampling = { temperature: 0 };
    const object = await answered(() => client.create({ messages, responseFormat: { type: 'json_object' }, sampling }));
    expect(object.text.startsWith('{')).toBe(true);
    // The next turn of the session is free again.
    const plain = session.send('!!say free!!', { temperature: 0 });
    expect((await plain.finished).text).toBe('free');
  });

  it('is a call where one is required, of the function that is named, and one at most where that is asked for', async () => {
    client = connect(server.url);
    const { reason, text, toolCalls } = await answered(() =>
      client.session().send('Hi', {
        tools: [...tools, { name: 'dive', parameters: schema, strict: true }],
        toolChoice: { type: 'function', name: 'dive' },
        parallelToolCalls: false,
      }),
    );
    expect({ reason, text, names: toolCalls.map(({ name }) => name) }).toEqual({
      reason: 'tool_calls',
      text: '',
      names: ['dive'],
    });
    expect(JSON.parse(toolCalls[0]!.arguments)).toMatchObject({ deep: expect.any(Number) as number });
  });

  it('says which field cannot be held to', async () => {
    client = connect(server.url);
    const session = client.session();
    const outcomes = await Promise.all(
      [
        () =>
          session.send('x', {
            responseFormat: { type: 'json_schema', name: 's', schema: { type: 'object', not: {} } },
          }),
        () => session.send('x', { responseFormat: { type: 'regex', pattern: '(' } }),
        () => session.send('x', { tools, toolChoice: { type: 'function', name: 'leap' } }),
        () => session.send('x', { toolChoice: 'required' }),
        () => session.send('x', { tools: [{ name: 'f', strict: true, parameters: { type: 'object', not: {} } }] }),
      ].map((ask) =>
        answered(ask).then(
          ({ reason }) => reason,
          ({ code, param }: { code: string; param?: string }) => [code, param],
        ),
      ),
    );
    expect(outcomes).toEqual([
      ['unsupported', 'responseFormat.schema'],
      ['unsupported', 'responseFormat.pattern'],
      ['invalid_request', 'toolChoice'],
      ['invalid_request', 'toolChoice'],
      ['unsupported', 'tools[0].parameters'],
    ]);
  });
});
