// Prefix reuse as clients see it: exact cached tokens over every way to go on with a conversation. The fake model's
// tokens are bytes, so what a prompt shares with what came before can be counted.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import type { Usage } from '../../protocol/messages.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const sampling = { temperature: 0 };

let server: TestServer;
let client: NativeClient;

beforeAll(async () => {
  server = await TestServer.start({ MODEL: 'fake:stepMs=1', NODE_ENV: 'test' });
  client = await NativeClient.connect(server.streamUrl);
});

afterAll(async () => {
  expect(client.violations).toEqual([]);
  await client.close();
  expect(await server.stop()).toEqual({ code: 0, signal: null });
});

async function turn(session: string, content: string): Promise<Usage> {
  return (
    await client
      .create({ session, messages: [{ role: 'user', content: `${content} !!say so it is. !!` }], sampling })
      .done()
  ).usage;
}

/** What the fake model's template writes between an answer and the user's next words: it is shared too. */
const BETWEEN = 1 + 'user\n'.length;

/** All tokens of a turn; the KV of the last one is only computed when the conversation goes on. */
const all = ({ promptTokens, completionTokens }: Usage): number => promptTokens + completionTokens;

describe('Cached tokens', () => {
  it('are all of the last turn but its last token in a session, at any turn', async () => {
    const session = await client.openSession();
    let last = await turn(session, 'the first thing said here, in a few words');
    for (let k = 2; k <= 12; k++) {
      const next = await turn(session, `turn ${k} goes on`);
      expect(next.cachedTokens, `turn ${k}`).toBe(all(last) - 1);
      last = next;
    }
  });

  it('are all that is kept after a rollback', async () => {
    const session = await client.openSession();
    const first = await turn(session, 'a conversation that takes a wrong turn');
    await turn(session, 'this is the wrong one, and it goes on and on');
    await turn(session, 'and this one follows it');
    await client.ask([Op.Rollback, 0, client.newRequestId(), session, 1], Op.SessionOpened);
    // The wrong turn had computed the last token of the first.
    expect((await turn(session, 'another way')).cachedTokens).toBe(all(first) + BETWEEN);
  });

  it('are all that is shared after a fork, and the original loses nothing', async () => {
    const session = await client.openSession();
    const first = await turn(session, 'a conversation that will be two');
    const second = await turn(session, 'the second turn of the original');
    const fork = async (numTurns: number): Promise<string> =>
      (await client.ask([Op.Fork, 0, client.newRequestId(), session, numTurns], Op.SessionOpened))[3].session;
    const [early, late] = [await fork(1), await fork(2)];
    const forked = await turn(early, 'other words in the fork');
    expect(forked.cachedTokens).toBe(all(first) + BETWEEN);
    expect((await turn(late, 'a fork of everything')).cachedTokens).toBe(all(second) - 1);
    expect((await turn(early, 'the fork goes on')).cachedTokens).toBe(all(forked) - 1);
    // The fork of everything computed the last token of the second turn, and more that both share.
    expect((await turn(session, 'the original goes on')).cachedTokens).toBe(all(second) + BETWEEN);
  });

  it('are all of the last request but its last token when Chat Completions resend the conversation', async () => {
    const messages = [{ role: 'user', content: '!!say Bread and butter. !! said in Chat Completions' }];
    const ask = async (): Promise<Usage> => {
      // Without a session nobody waits until the last answer's memory is back where it is found.
      await server.idle();
      const answer = await fetch(`${server.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ messages, temperature: 0 }),
      });
      const body = (await answer.json()) as {
        choices: [{ message: { content: string } }];
        usage: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details: { cached_tokens: number } };
      };
      messages.push({ role: 'assistant', content: body.choices[0].message.content });
      messages.push({ role: 'user', content: '!!say More of it. !! said next' });
      const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = body.usage;
      const cachedTokens = body.usage.prompt_tokens_details.cached_tokens;
      return { promptTokens, completionTokens, cachedTokens, droppedMessages: 0 };
    };
    let last = await ask();
    for (let k = 2; k <= 5; k++) {
      const next = await ask();
      expect(next.cachedTokens, `request ${k}`).toBe(all(last) - 1);
      last = next;
    }
  });

  it('are counted by the server: a hundred sessions that begin alike compute their beginning once', async () => {
    const system = 'All of these sessions have the same long instructions. '.repeat(18);
    const before = await server.metric('prefill_tokens_total');
    const opened = await Promise.all(
      Array.from({ length: 100 }, () =>
        client.ask([Op.OpenSession, 0, client.newRequestId(), { system }], Op.SessionOpened),
      ),
    );
    const usages = await Promise.all(opened.map(([, , , info], i) => turn(info.session, `number ${i}`)));
    const computed = usages.reduce((sum, usage) => sum + usage.promptTokens - usage.cachedTokens, 0);
    expect(await server.metric('prefill_tokens_total')).toBe(before + computed);
    expect(computed).toBeLessThan(usages[0]!.promptTokens + 100 * 40);
  });
});
