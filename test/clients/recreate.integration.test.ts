// Sessions that the server has forgotten, made again from copies of any size, on the real front end.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../clients/index.ts';
import type { ChatMessage, Client, ClientSessionOptions, Session } from '../../clients/index.ts';
import { Limits } from '../../protocol/constants.ts';
import { startTestApp, type TestApp } from '../src/http/test-app.ts';

let test: TestApp;
let client: Client;

beforeAll(() => {
  test = startTestApp();
  test.play();
  client = connect(test.url);
});
afterAll(async () => {
  client.close();
  await test.stop();
});

const turns = (count: number, text: string): ChatMessage[] =>
  Array.from({ length: count }, (_, index): ChatMessage[] => [
    { role: 'user', content: `${index} ${text}` },
    { role: 'assistant', content: `said ${index}` },
  ]).flat();

/** The session as made again, and how many messages the SDK says are gone. */
async function again(options: ClientSessionOptions): Promise<{ session: Session; origin: string; numDropped: number }> {
  let said = { origin: '', numDropped: -1 };
  const onOpened: ClientSessionOptions['onOpened'] = (_, origin, numDropped) => (said = { origin, numDropped });
  const session = client.session({ session: 'sess_gone', onOpened, ...options });
  await session.ready();
  return { session, ...said };
}

describe('A session that the server has forgotten', () => {
  it('is made again whole when its messages fit a frame', async () => {
    const messages = turns(Limits.messagesPerRequest / 2, 'x');
    const { session, origin, numDropped } = await again({ messages });
    expect([origin, numDropped]).toEqual(['recreated', 0]);
    expect(await session.history()).toEqual(messages);
  });

  it.each<[title: string, messages: ChatMessage[]]>([
    ['one message too many', turns(Limits.messagesPerRequest / 2 + 1, 'x')],
    ['far too many messages', turns(10_000, 'x')],
    ['too many bytes', turns(300, 'long '.repeat(2000))],
    ['too many bytes of few characters', turns(300, '長い話'.repeat(1000))],
  ])('is made again from its newest whole turns when it has %s, and says so', async (_, messages) => {
    const { session, origin, numDropped } = await again({ system: 'Be brief.', messages });
    expect(origin).toBe('recreated');
    expect(numDropped).toBeGreaterThan(0);
    expect(numDropped % 2).toBe(0);
    const kept = messages.slice(numDropped);
    expect(session.messages).toEqual(kept);
    expect(await session.history()).toEqual([{ role: 'system', content: 'Be brief.' }, ...kept]);
    // No more went than had to.
    const bytes = JSON.stringify(messages.slice(numDropped - 2)).length;
    const isFull = kept.length > Limits.messagesPerRequest - 2;
    expect(isFull || bytes > Limits.messageBytes * 0.3).toBe(true);
    expect((await session.send('And now?').finished).text).toBe('Hello world.');
  });

  it('keeps its system message, and never begins with the result of a call that is gone', async () => {
    const call = { id: 'call_1', name: 'look', arguments: '{}' };
    const withCall: ChatMessage[] = [
      { role: 'user', content: 'long '.repeat(100_000) },
      { role: 'assistant', content: '', toolCalls: [call] },
      { role: 'tool', content: 'the sky '.repeat(50_000), toolCallId: 'call_1' },
      { role: 'assistant', content: 'The sky.' },
    ];
    const system: ChatMessage = { role: 'system', content: 'Be kind.' };
    const { session, numDropped } = await again({ messages: [system, ...withCall, ...turns(2, 'x'.repeat(100_000))] });
    expect(numDropped).toBe(4);
    expect((await session.history()).map(({ role }) => role)).toEqual([
      'system',
      'user',
      'assistant',
      'user',
      'assistant',
    ]);
  });

  it('is made again empty when not even its last turn fits', async () => {
    const { session, numDropped } = await again({ messages: turns(1, 'x'.repeat(2 << 20)) });
    expect(numDropped).toBe(2);
    expect(await session.history()).toEqual([]);
  });

  it('made new from too much is refused: nothing is left out that the caller has just given', async () => {
    const session = client.session({ messages: turns(3000, 'x') });
    await expect(session.ready()).rejects.toMatchObject({ code: 'invalid_request', param: 'messages' });
  });
});
