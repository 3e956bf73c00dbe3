// Barge-in: a new request replaces an old one, and history keeps only what the user heard.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { Op } from '../../../protocol/messages.ts';
import type { CreateOptions, ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { House, settle, textOf } from '../support/house.ts';
import type { TestClient } from '../support/house.ts';

let house: House;
let client: TestClient;
let session: string;
beforeEach(() => {
  house = new House();
  client = house.greeted();
  house.engine.script = ({ prompt }) =>
    prompt.kind === 'chat' ? [...`re ${prompt.messages.at(-1)!.content}`] : ['tokens'];
  session = house.sessions.open(localCaller, {}).session;
});
afterEach(() => house.stop());

const ask = (content: string, options: Partial<CreateOptions> = {}): Partial<CreateOptions> => ({
  session,
  messages: [{ role: 'user', content }],
  ...options,
});
/** What was said so far, one line per message. */
const history = (): string[] => house.sessions.history(localCaller, session).messages.map((message) => message.content);
const errors = (frames: ServerMessage[]): unknown[] =>
  frames.flatMap((frame) => (frame[0] === Op.Error ? [[frame[2], frame[3].code, frame[3].param]] : []));
const reasons = (frames: ServerMessage[]): unknown[] =>
  frames.flatMap((frame) => (frame[0] === Op.Done ? [[frame[2], frame[4]]] : []));
const steps = (count: number): void => {
  for (let step = 0; step < count; step++) house.engine.step();
};
/** Runs until nothing is active, over the ends of turns. */
async function finish(): Promise<void> {
  while (house.responses.active > 0) {
    house.engine.run();
    await settle();
  }
}
const idOf = (handle: number): string => client.connection.outbox.liveHandle(handle)!.response!.id;

describe('Supersede in a session', () => {
  it('cancels the old turn, leaves no trace of it, and submits the new one when the old has ended', async () => {
    client.create('a', ask('first'));
    await finish();
    client.take();
    const old = client.create('b', ask('hel'));
    steps(3);
    const anew = client.create('c', ask('hello', { supersede: old }));
    expect(house.engine.cancelled).toHaveLength(1);
    expect(house.engine.submitted).toHaveLength(2);
    house.engine.step();
    await settle();
    expect(house.engine.submitted).toHaveLength(3);
    const { prompt } = house.engine.submitted[2]!;
    expect(prompt).toMatchObject({ messages: [{ content: 'first' }, { content: 're first' }, { content: 'hello' }] });
    // It continues from the tokens of the turn before the superseded one.
    expect(prompt.kind === 'chat' && prompt.history).toEqual(
      house.engine.submitted[1]!.prompt.kind === 'chat' ? house.engine.submitted[1]!.prompt.history : null,
    );
    await finish();
    const frames = client.take();
    expect(reasons(frames)).toEqual([
      [old, 'cancelled'],
      [anew, 'stop'],
    ]);
    expect(frames.some((frame) => frame[0] === Op.Cancelled)).toBe(false);
    expect(textOf(frames, anew)).toBe('re hello');
    expect(history()).toEqual(['first', 're first', 'hello', 're hello']);
  });

  it('gives the same history when the old turn had ended by itself just before', async () => {
    client.create('a', ask('first'));
    await finish();
    const old = client.create('b', ask('hel'));
    house.engine.run();
    // Ended, but its turn not recorded yet; and once more when it was.
    client.create('c', ask('hello', { supersede: old }));
    await finish();
    expect(history()).toEqual(['first', 're first', 'hello', 're hello']);
    client.create('d', ask('hello!', { supersede: client.connection.outbox.endedHandle(3)!.response }));
    await finish();
    expect(history()).toEqual(['first', 're first', 'hello!', 're hello!']);
    expect(house.sessions.bytes).toBe(house.sessions.get(session, localCaller).bytes);
  });

  it('replaces all of a lane, running and waiting, and counts none of them against the queue', async () => {
    client.push([Op.OpenLane, 4, {}]);
    client.create('keep', ask('kept'));
    for (let index = 0; index < Limits.queuedPerSession; index++) client.create(`w${index}`, ask(`w${index}`), 4);
    client.push([Op.Create, 4, 'full', { ...ask('x'), messages: [{ role: 'user', content: 'x' }] }]);
    expect(errors(client.take())).toEqual([['full', 'session_busy', undefined]]);
    client.create('new', ask('new', { supersede: 'lane' }), 4);
    await finish();
    expect(history()).toEqual(['kept', 're kept', 'new', 're new']);
    client.create('alone', ask('alone', { supersede: 'lane' }), 4);
    await finish();
    expect(history()).toHaveLength(6);
  });

  it('survives ten keys a second: only the last is left', async () => {
    const text = 'function main';
    for (let index = 1; index <= text.length; index++) {
      client.create(`k${index}`, ask(text.slice(0, index), { supersede: 'lane' }));
      steps(1);
      await settle();
      steps(1);
    }
    await finish();
    expect(history()).toEqual([text, `re ${text}`]);
    expect(house.responses.active).toBe(0);
    expect(house.errors).toEqual([]);
  });

  it('refuses what it cannot take back, and has then cancelled nothing', async () => {
    const first = client.create('a', ask('one'));
    const firstId = idOf(first);
    await finish();
    client.create('b', ask('two'));
    await finish();
    const running = client.create('c', ask('three'));
    steps(2);
    client.take();
    const cases: [CreateOptions['supersede'], string, string][] = [
      [firstId, 'invalid_request', 'supersede'],
      [first, 'invalid_request', 'supersede'],
      [99, 'unknown_response', 'supersede'],
      ['resp_unknown', 'unknown_response', 'supersede'],
    ];
    for (const [supersede, code, param] of cases) {
      client.push([Op.Create, 0, 'x', { ...ask('x', { supersede }), messages: [{ role: 'user', content: 'x' }] }]);
      expect(errors(client.take())).toEqual([['x', code, param]]);
    }
    client.push([Op.Create, 0, 'y', { messages: [{ role: 'user', content: 'x' }], model: 'none', supersede: running }]);
    expect(errors(client.take())).toEqual([['y', 'unknown_model', 'model']]);
    expect(house.engine.cancelled).toEqual([]);
    await finish();
    expect(history()).toHaveLength(6);
  });

  it("does not reach another caller's response", () => {
    const other = house.greeted({ ...localCaller, tenant: 'other' });
    const id = idOf(client.create('a', ask('one')));
    other.push([Op.Create, 0, 'x', { messages: [{ role: 'user', content: 'x' }], supersede: id }]);
    expect(errors(other.take())).toEqual([['x', 'unknown_response', 'supersede']]);
    expect(house.engine.cancelled).toEqual([]);
  });

  it('is done once: a repeated create supersedes nothing again', async () => {
    const old = client.create('a', ask('one'));
    client.create('b', ask('two', { supersede: old }));
    await finish();
    client.create('c', ask('three'));
    await finish();
    client.push([
      Op.Create,
      0,
      'b',
      { ...ask('two', { supersede: 77 }), messages: [{ role: 'user', content: 'two' }] },
    ]);
    expect(errors(client.take())).toEqual([]);
    expect(history()).toEqual(['two', 're two', 'three', 're three']);
  });
});

const alone = (content: string, options: Partial<CreateOptions> = {}): Partial<CreateOptions> => ({
  messages: [{ role: 'user', content }],
  ...options,
});

describe('Supersede of one-offs', () => {
  it('waits for the end of the old, within a step, and can be superseded while it waits', async () => {
    const first = client.create('a', alone('a'));
    steps(2);
    const second = client.create('b', alone('ab', { supersede: 'lane' }));
    const third = client.create('c', alone('abc', { supersede: second }));
    expect(house.engine.submitted).toHaveLength(1);
    await finish();
    const frames = client.take();
    expect(Object.fromEntries(reasons(frames) as [number, string][])).toEqual({
      [first]: 'cancelled',
      [second]: 'cancelled',
      [third]: 'stop',
    });
    expect(textOf(frames, third)).toBe('re abc');
    expect(house.engine.submitted).toHaveLength(2);
  });

  it('fails as done when the engine refuses after the old was cancelled', async () => {
    const old = client.create('a', alone('a'));
    const anew = client.create('b', alone('b', { supersede: old }));
    house.engine.refuse = new ServiceError('overloaded', 'Full.');
    await finish();
    const frames = client.take();
    expect(reasons(frames)).toContainEqual([anew, 'error']);
    client.push([Op.Create, 0, 'c', { messages: [{ role: 'user', content: 'c' }], supersede: anew }]);
    await settle();
    expect(reasons(client.take())).toEqual([[3, 'error']]);
    expect(house.responses.active).toBe(0);
  });
});

const heard = (handle: number, offset: number): ServerMessage[] => {
  client.push([Op.Cancel, 0, handle, offset]);
  return client.take();
};

describe('Heard up to an offset', () => {
  it('keeps only that in history, and the next prompt is rendered anew', async () => {
    const handle = client.create('a', ask('hello'));
    steps(6);
    client.take();
    expect(errors(heard(handle, 4))).toEqual([]);
    await finish();
    expect(history()).toEqual(['hello', 're h']);
    client.create('b', ask('more'));
    await finish();
    expect(house.engine.submitted[1]!.prompt).toMatchObject({
      history: null,
      messages: [{ content: 'hello' }, { content: 're h' }, { content: 'more' }],
    });
    // From there on tokens are known again.
    client.create('c', ask('again'));
    expect(house.engine.submitted[2]!.prompt.kind).toBe('chat');
    expect(house.engine.submitted[2]!.prompt).not.toMatchObject({ history: null });
    await finish();
    expect(house.sessions.bytes).toBe(house.sessions.get(session, localCaller).bytes);
  });

  it('also cuts an answer that was complete before it was spoken', async () => {
    const handle = client.create('a', ask('hello'));
    await finish();
    expect(history()).toEqual(['hello', 're hello']);
    const before = house.sessions.bytes;
    const frames = heard(handle, 3);
    expect(frames.at(-1)!.slice(0, 3)).toEqual([Op.Cancelled, 0, handle]);
    expect(history()).toEqual(['hello', 're ']);
    expect(house.sessions.bytes).toBeLessThan(before);
    expect(house.sessions.bytes).toBe(house.sessions.get(session, localCaller).bytes);
    const whole = client.create('b', ask('x'));
    await finish();
    heard(whole, 4);
    expect(history().at(-1)).toBe('re x');
  });

  it('keeps no turn of which nothing was heard', async () => {
    const handle = client.create('a', ask('hello'));
    steps(4);
    heard(handle, 0);
    await finish();
    expect(history()).toEqual([]);
    const ended = client.create('b', ask('hello'));
    await finish();
    heard(ended, 0);
    expect(history()).toEqual([]);
    expect(house.sessions.bytes).toBe(house.sessions.get(session, localCaller).bytes);
  });

  it('never cuts through a character of two units', async () => {
    const handle = client.create('a', ask('😀😀'));
    await finish();
    heard(handle, 4);
    expect(history()).toEqual(['😀😀', 're ']);
  });

  it('refuses an offset beyond the text and an answer that a later turn was built on', async () => {
    const handle = client.create('a', ask('hello'));
    steps(3);
    client.take();
    expect(errors(heard(handle, 4))).toEqual([[null, 'invalid_request', 'heard']]);
    await finish();
    expect(history()).toEqual(['hello', 're hello']);
    const second = client.create('b', ask('more'));
    steps(1);
    client.take();
    expect(errors(heard(handle, 3))).toEqual([[null, 'invalid_request', 'heard']]);
    await finish();
    client.take();
    expect(errors(heard(handle, 3))).toEqual([[null, 'invalid_request', 'heard']]);
    expect(errors(heard(99, 3))).toEqual([[null, 'unknown_response', 'handle']]);
    expect(second).toBe(2);
    expect(history()).toEqual(['hello', 're hello', 'more', 're more']);
  });

  it('changes nothing of a one-off, and nothing after the session was closed', async () => {
    const handle = client.create('a', { messages: [{ role: 'user', content: 'x' }] });
    const inSession = client.create('b', ask('hello'));
    await finish();
    client.take();
    expect(errors(heard(handle, 1))).toEqual([]);
    house.sessions.close(localCaller, session);
    expect(errors(heard(inSession, 1))).toEqual([]);
  });
});
