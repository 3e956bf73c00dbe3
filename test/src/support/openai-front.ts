// One front end with the scripted engine per test file, and the official client before it. Importing this file starts it,
// resets the engine after each test and stops all at the end.
import OpenAI from 'openai';
import { afterAll, afterEach } from 'vitest';
import { startTestApp } from '../http/test-app.ts';

export const test = startTestApp();
export const client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
/** Name under which the scripted engine answers. */
export const model = 'default';

afterEach(() => {
  test.pause();
  test.engine.run();
  test.engine.refuse = null;
  test.engine.script = () => ['Hello', ' world', '.'];
});
afterAll(() => test.stop());

export type Event = OpenAI.Responses.ResponseStreamEvent;

/** Without the client: its answers as they are. */
export const post = (path: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${test.url}/v1/${path}`, { method: 'POST', body: JSON.stringify(body), headers });

export const errorOf = async (answer: Response): Promise<{ code: string; param: string }> =>
  ((await answer.json()) as { error: { code: string; param: string } }).error;

/** The first `most` events. */
export async function collect(stream: AsyncIterable<Event>, most = Infinity): Promise<Event[]> {
  const events: Event[] = [];
  for await (const event of stream) {
    events.push(event);
    if (events.length >= most) break;
  }
  return events;
}

export const textOf = (events: Event[]): string =>
  events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');

/** Id of the response whose request the engine got last. */
export const runningId = (): string => ([...test.engine.active.values()].at(-1)!.sink as unknown as { id: string }).id;
