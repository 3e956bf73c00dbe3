import { describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import type { ErrorCode } from '../../../protocol/errors.ts';
import type { ChatMessage, CreateOptions, SessionOptions } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Caller } from '../../../src/auth/caller.ts';
import type { Response } from '../../../src/responses/response.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';
import { House, settle } from '../support/house.ts';
import type { HouseOptions } from '../support/house.ts';

const other: Caller = { ...localCaller, tenant: 'other' };
const user = (content: string): ChatMessage => ({ role: 'user', content });
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content });

/** A house with one open session and short ways to use it. */
class Talk {
  readonly house: House;
  readonly id: string;
  #numRequests = 0;

  constructor(options: SessionOptions = {}, house: HouseOptions = {}) {
    this.house = new House(house);
    this.id = this.house.sessions.open(localCaller, options).session;
  }

  create(content: string, more: Partial<CreateOptions> = {}, requestId = `r${++this.#numRequests}`): Response {
    const options = { session: this.id, messages: [user(content)], ...more };
    return this.house.sessions.create(localCaller, requestId, options, { origin: 'here', class: 'chat' });
  }

  async turn(content: string, more: Partial<CreateOptions> = {}): Promise<Response> {
    const response = this.create(content, more);
    this.house.engine.run();
    await settle();
    return response;
  }

  get info() {
    return this.house.sessions.open(localCaller, { session: this.id });
  }

  get history(): ChatMessage[] {
    return this.house.sessions.history(localCaller, this.id).messages;
  }

  prompt(index: number): Extract<PromptInput, { kind: 'chat' }> {
    const prompt = this.house.engine.submitted.at(index)!.prompt;
    if (prompt.kind !== 'chat') throw new Error('Not a chat prompt');
    return prompt;
  }
}

/** The title of a session that begins with this message. */
async function titleOf(content: string): Promise<string> {
  const talk = new Talk();
  await talk.turn(content);
  talk.house.stop();
  return talk.info.title;
}

function codeOf(action: () => unknown): ErrorCode | null {
  try {
    action();
    return null;
  } catch (error) {
    if (error instanceof ServiceError) return error.code;
    throw error;
  }
}

describe('Sessions', () => {
  it('builds each prompt from what was said and the tokens as generated', async () => {
    const talk = new Talk({ system: 'Be kind.', messages: [user('Earlier'), assistant('Yes')] });
    const head = [{ role: 'system', content: 'Be kind.' }, user('Earlier'), assistant('Yes')];
    talk.house.engine.script = () => ['A', '1'];
    const first = await talk.turn('one');
    expect(talk.prompt(0)).toMatchObject({ messages: [...head, user('one')], history: null, truncation: 'auto' });
    await talk.turn('two');
    expect(talk.prompt(1).messages).toEqual([...head, user('one'), assistant('A1'), user('two')]);
    expect(talk.prompt(1).history).toEqual([...(first.promptTokenIds ?? []), ...first.tokenIds]);
    expect(talk.house.engine.submitted[1]!.session).toBe(talk.id);
    expect(talk.history).toHaveLength(7);
    expect(talk.info).toMatchObject({ numTurns: 2, title: 'Earlier', active: [], model: 'fake' });
    talk.house.stop();
  });

  it('stores the tokens of a long talk once, not once per turn', async () => {
    const talk = new Talk();
    talk.house.engine.script = () => Array.from({ length: 50 }, () => 'x');
    let last: Response | undefined;
    for (let turn = 0; turn < 40; turn++) last = await talk.turn('y'.repeat(50));
    await talk.turn('end');
    const history = talk.prompt(-1).history!;
    expect(history).toHaveLength(40 * 100);
    expect(history).toEqual([...last!.promptTokenIds!, ...last!.tokenIds]);
    expect(talk.house.sessions.bytes).toBeLessThan(40 * (100 * 4 + 2 * 128 + 200 + 300) + 5000);
    talk.house.stop();
  });

  it('keeps the tokens right when a later prompt does not continue the earlier ones', async () => {
    const talk = new Talk();
    const prompts = [[1, 2, 3], [1, 2, 9, 9], [7], [1, 2, 9, 9, 5]];
    const expected: number[][] = [];
    for (const ids of prompts) {
      const response = talk.create('x');
      talk.house.engine.step();
      response.onPrompt(Int32Array.from(ids));
      talk.house.engine.run();
      await settle();
      expected.push([...ids, ...response.tokenIds]);
    }
    for (let numTurns = prompts.length; numTurns > 0; numTurns--) {
      talk.house.sessions.rollback(localCaller, talk.id, numTurns);
      const response = talk.create('probe');
      expect(talk.prompt(-1).history).toEqual(expected[numTurns - 1]);
      response.fail(new ServiceError('internal', 'Not kept.'));
      talk.house.engine.run();
      await settle();
    }
    talk.house.stop();
  });

  it('merges sampling of session and turn, field by field, and replaces tools as a whole', () => {
    const talk = new Talk({ sampling: { temperature: 0.5, topK: 7 }, tools: [{ name: 'f' }], truncation: 'error' });
    talk.create('x', { sampling: { topK: 9 }, tools: [], truncation: 'auto' });
    expect(talk.house.engine.submitted[0]!.sampling).toMatchObject({ temperature: 0.5, topK: 9, topP: 1 });
    expect(talk.house.engine.submitted[0]!.toolNames).toEqual([]);
    expect(talk.prompt(0)).toMatchObject({ tools: [], truncation: 'auto' });
    talk.house.engine.run();
    talk.house.stop();
  });

  it('runs one response at a time, queues four more in order, and then is busy', async () => {
    const talk = new Talk();
    talk.house.engine.script = () => ['a'];
    const responses = ['1', '2', '3', '4', '5'].map((content) => talk.create(content));
    expect(codeOf(() => talk.create('6'))).toBe('session_busy');
    expect(talk.house.engine.submitted).toHaveLength(1);
    expect(talk.info.active).toEqual(responses.map((response) => response.id));
    for (let turn = 0; turn < 5; turn++) {
      talk.house.engine.run();
      await settle();
    }
    expect(responses.map((response) => response.state.kind)).toEqual(Array(5).fill('ended'));
    expect(talk.prompt(4).messages.map((message) => message.content)).toEqual([...'1a2a3a4a5']);
    expect(codeOf(() => talk.create('6'))).toBeNull();
    talk.house.stop();
  });

  it('frees the place of a waiting response that is cancelled, and history never hears of it', async () => {
    const talk = new Talk();
    const [, second, third] = [talk.create('1'), talk.create('2'), talk.create('3')];
    second!.cancel();
    expect((await second!.ended).reason).toBe('cancelled');
    expect(talk.info.active).toHaveLength(2);
    talk.house.engine.run();
    await settle();
    talk.house.engine.run();
    await settle();
    expect(third!.isEnded).toBe(true);
    expect(talk.history.filter((message) => message.role === 'user')).toEqual([user('1'), user('3')]);
    talk.house.stop();
  });

  it('passes over a waiting response that is cancelled in the moment its turn comes', async () => {
    const talk = new Talk();
    talk.house.engine.script = () => [];
    const [, second, third] = [talk.create('1'), talk.create('2'), talk.create('3')];
    talk.house.engine.step();
    second!.cancel();
    await settle();
    expect(talk.info.active).toEqual([third!.id]);
    talk.house.engine.run();
    expect((await third!.ended).reason).toBe('stop');
    talk.house.stop();
  });

  it('ends a waiting response with the error when it cannot start in its turn, and goes on', async () => {
    const talk = new Talk();
    const [, second, third] = [talk.create('1'), talk.create('2', { deadlineMs: 50 }), talk.create('3')];
    talk.house.nowMs += 100;
    talk.house.engine.run();
    await settle();
    expect((await second!.ended).error?.code).toBe('deadline_exceeded');
    talk.house.engine.run();
    await settle();
    expect((await third!.ended).reason).toBe('stop');
    expect(talk.info.numTurns).toBe(2);
    talk.house.stop();
  });

  it('keeps a cancelled or length-stopped answer as far as it went', async () => {
    const talk = new Talk();
    talk.house.engine.script = () => ['A', 'B', 'C'];
    const cancelled = talk.create('1');
    talk.house.engine.step();
    talk.house.engine.step();
    cancelled.cancel();
    talk.house.engine.run();
    await settle();
    talk.house.engine.script = () => ['D', { end: 'length' }];
    await talk.turn('2');
    expect(talk.history).toEqual([user('1'), assistant('AB'), user('2'), assistant('D')]);
    talk.house.stop();
  });

  it('leaves history as before after an error, and after a cancel before the first event', async () => {
    const talk = new Talk();
    await talk.turn('kept');
    const before = talk.history;
    talk.house.engine.script = () => ['A', { end: 'error', error: new ServiceError('worker_lost', 'Gone.') }];
    await talk.turn('failed');
    expect(talk.history).toEqual(before);
    talk.create('silent').cancel();
    talk.house.engine.run();
    await settle();
    expect(talk.history).toEqual(before);
    expect(talk.info.numTurns).toBe(1);
    talk.house.stop();
  });

  it('keeps whole tool calls and leaves out the one that a cancel cut off', async () => {
    const talk = new Talk({ tools: [{ name: 'f' }] });
    talk.house.engine.script = () => [
      { toolBegin: 'f', index: 0 },
      { toolDelta: '{}', index: 0 },
      { toolEnd: 0 },
      { toolBegin: 'f', index: 1 },
      { toolDelta: '{"half', index: 1 },
      { end: 'length' },
    ];
    const response = await talk.turn('call');
    expect(talk.history.at(-1)).toEqual({ role: 'assistant', content: '', toolCalls: [response.toolCalls[0]] });
    talk.house.engine.script = () => ['ok'];
    const result: ChatMessage = { role: 'tool', content: '42', toolCallId: response.toolCalls[0]!.id };
    await talk.turn('', { messages: [result] });
    expect(talk.history.slice(-2)).toEqual([result, assistant('ok')]);
    talk.house.stop();
  });

  it('rolls back to the first turns and regenerates from there', async () => {
    const talk = new Talk({ system: 'S' });
    const first = await talk.turn('1');
    await talk.turn('2');
    const bytes = talk.house.sessions.bytes;
    expect(talk.house.sessions.rollback(localCaller, talk.id, 1).numTurns).toBe(1);
    expect(talk.house.sessions.bytes).toBeLessThan(bytes);
    await talk.turn('2 again');
    expect(talk.prompt(-1).history).toEqual([...first.promptTokenIds!, ...first.tokenIds]);
    talk.house.sessions.rollback(localCaller, talk.id, 0);
    expect(talk.history).toEqual([{ role: 'system', content: 'S' }]);
    for (const numTurns of [1, -1, 0.5]) {
      expect(codeOf(() => talk.house.sessions.rollback(localCaller, talk.id, numTurns))).toBe('invalid_request');
    }
    talk.create('running');
    expect(codeOf(() => talk.house.sessions.rollback(localCaller, talk.id, 0))).toBe('session_busy');
    talk.house.stop();
  });

  it('forks the first turns into a session of its own', async () => {
    const talk = new Talk({ system: 'S', sampling: { seed: 5 } });
    const first = await talk.turn('1');
    await talk.turn('2');
    const fork = talk.house.sessions.fork(localCaller, talk.id, 1);
    expect(fork).toMatchObject({ numTurns: 1, title: '1' });
    expect(fork.session).not.toBe(talk.id);
    await talk.turn('other', { session: fork.session });
    expect(talk.prompt(-1).history).toEqual([...first.promptTokenIds!, ...first.tokenIds]);
    expect(talk.house.engine.submitted.at(-1)!.sampling.seed).toBe(5);
    expect(talk.info.numTurns).toBe(2);
    expect(codeOf(() => talk.house.sessions.fork(localCaller, talk.id, 3))).toBe('invalid_request');
    talk.house.stop();
  });

  it('cancels what runs and waits when a session closes, and lets the engine forget it', async () => {
    const talk = new Talk();
    const [running, waiting] = [talk.create('1'), talk.create('2')];
    talk.house.engine.step();
    talk.house.sessions.close(localCaller, talk.id);
    expect((await waiting!.ended).reason).toBe('cancelled');
    talk.house.engine.run();
    await settle();
    expect((await running!.ended).reason).toBe('cancelled');
    expect(new Set(talk.house.engine.forgotten)).toEqual(new Set([talk.id]));
    expect(talk.house.engine.submitted).toHaveLength(1);
    expect(codeOf(() => talk.history)).toBe('unknown_session');
    expect(talk.house.sessions).toMatchObject({ size: 0, bytes: 0 });
    talk.house.stop();
  });

  it('answers for another tenant as if the session did not exist', () => {
    const talk = new Talk();
    const { sessions } = talk.house;
    const options = { session: talk.id, messages: [user('x')] };
    for (const action of [
      () => sessions.open(other, { session: talk.id }),
      () => sessions.history(other, talk.id),
      () => sessions.rollback(other, talk.id, 0),
      () => sessions.fork(other, talk.id, 0),
      () => sessions.close(other, talk.id),
      () => sessions.create(other, 'r', options, { origin: 'there', class: 'chat' }),
    ]) {
      expect(codeOf(action)).toBe('unknown_session');
    }
    expect(sessions.list(other)).toEqual([]);
    expect(sessions.list(localCaller).map((info) => info.session)).toEqual([talk.id]);
    talk.house.stop();
  });

  it('gives the same response for the same requestId in a session, from anywhere, also after its end', async () => {
    const talk = new Talk();
    const first = talk.create('x', {}, 'same');
    const options = { session: talk.id, messages: [user('another')] };
    const again = talk.house.sessions.create(localCaller, 'same', options, { origin: 'elsewhere', class: 'batch' });
    expect(again).toBe(first);
    talk.house.engine.run();
    await settle();
    expect(talk.create('x', {}, 'same')).toBe(first);
    const second = talk.house.sessions.open(localCaller, {}).session;
    expect(talk.create('x', { session: second }, 'same')).not.toBe(first);
    talk.house.nowMs += Limits.responseRetentionMs + 1;
    expect(talk.create('x', {}, 'same')).not.toBe(first);
    talk.house.stop();
  });

  it('repeats one-offs by requestId only within one origin', () => {
    const house = new House();
    const { sessions, engine } = house;
    const options = { messages: [user('x')] };
    const from = (origin: string, caller = localCaller): Response =>
      sessions.create(caller, 'r1', options, { origin, class: 'chat' });
    const first = from('a');
    expect(from('a')).toBe(first);
    expect(from('b')).not.toBe(first);
    expect(from('a', other)).not.toBe(first);
    expect(first.sessionId).toBeNull();
    expect(engine.submitted[0]!.session).toBe('');
    house.stop();
  });

  it('refuses turns that do not fit their session', () => {
    const talk = new Talk();
    expect(codeOf(() => talk.create('', { messages: [] }))).toBe('invalid_request');
    expect(codeOf(() => talk.create('', { messages: [assistant('no')] }))).toBe('invalid_request');
    expect(codeOf(() => talk.create('x', { model: 'nope' }))).toBe('unknown_model');
    expect(codeOf(() => talk.create('x', { model: 'fake' }))).toBeNull();
    expect(codeOf(() => talk.house.sessions.open(localCaller, { model: 'nope' }))).toBe('unknown_model');
    talk.house.stop();
  });

  it('forgets a session that was idle for its time, but no busy one', async () => {
    const talk = new Talk({}, { sessions: { idleMs: 1000 } });
    talk.create('x');
    talk.house.nowMs += 5000;
    expect(talk.house.sessions.list(localCaller)).toHaveLength(1);
    talk.house.engine.run();
    await settle();
    talk.house.nowMs += 999;
    expect(talk.info.numTurns).toBe(1);
    talk.house.nowMs += 1001;
    talk.house.sessions.sweep();
    expect(talk.house.sessions.size).toBe(0);
    expect(talk.house.engine.forgotten).toEqual([talk.id]);
    talk.house.stop();
  });

  it('makes room by closing the longest idle session of the tenant with most, and is overloaded when none is idle', () => {
    const house = new House({ sessions: { maxSessions: 3 } });
    const open = (caller: Caller): string => house.sessions.open(caller, {}).session;
    const theirs = open(other);
    const mine = [open(localCaller), open(localCaller), open(localCaller)];
    const left = (caller: Caller): string[] => house.sessions.list(caller).map((info) => info.session);
    expect(left(other)).toEqual([theirs]);
    expect(left(localCaller)).toEqual([mine[2], mine[1]]);
    for (const session of left(localCaller)) {
      house.sessions.create(localCaller, 'r', { session, messages: [user('x')] }, { origin: 'a', class: 'chat' });
    }
    const busy = { session: theirs, messages: [user('x')] };
    house.sessions.create(other, 'r', busy, { origin: 'b', class: 'chat' });
    expect(codeOf(() => open(other))).toBe('overloaded');
    expect(house.sessions.size).toBe(3);
    house.stop();
  });

  it('holds all sessions below their memory, oldest first', async () => {
    const house = new House({ sessions: { memoryBytes: 100_000 } });
    const system = 'x'.repeat(10_000);
    for (let index = 0; index < 20; index++) house.sessions.open(localCaller, { system });
    expect(house.sessions.size).toBe(4);
    expect(house.sessions.bytes).toBeLessThan(100_000);
    expect(codeOf(() => house.sessions.open(localCaller, { system: 'x'.repeat(60_000) }))).toBe('too_large');
    house.stop();
  });

  it('titles a session by the first words of the first user message, at most 80 characters', async () => {
    expect(await titleOf('  What\n is  this? ')).toBe('What is this?');
    const long = await titleOf('word '.repeat(40));
    expect(long.length).toBeLessThanOrEqual(80);
    expect(long.endsWith('word')).toBe(true);
    expect(await titleOf('世'.repeat(100))).toBe('世'.repeat(80));
    const emoji = await titleOf(`a${'🙂'.repeat(60)}`);
    expect(emoji).toBe(`a${'🙂'.repeat(39)}`);
  });
});
