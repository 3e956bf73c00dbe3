import { afterEach, describe, expect, it } from 'vitest';
import { decode, encode } from '../../protocol/codec.ts';
import { Op } from '../../protocol/messages.ts';
import type { ServerMessage } from '../../protocol/messages.ts';
import { connect } from '../../clients/index.ts';
import type { Client, ConnectOptions } from '../../clients/index.ts';
import { SocketFree } from './support/socket-free.ts';
import { until } from './support/until.ts';

const clients: Client[] = [];

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
});

function wired(options: ConnectOptions = {}): { free: SocketFree; client: Client } {
  const free = new SocketFree();
  const client = connect('ws://nowhere', { transport: free.open, retryFirstMs: 1, retryMaxMs: 2, ...options });
  clients.push(client);
  return { free, client };
}

describe('Over a transport without a socket', () => {
  it('a frame that is not MessagePack drops the connection and a new one is made', async () => {
    const { free, client } = wired();
    free.welcome();
    free.receiveBytes(new Uint8Array([0xc1, 0xff]));
    expect(free.closedWith?.code).toBe(4000);
    expect(client.state.state).toBe('waiting');
    await until(() => free.numOpened === 2);
  });

  it.each<[string, unknown]>([
    ['no array', { op: 41 }],
    ['an op that is text', ['41', 0, []]],
    ['deltas that are no list', [Op.Deltas, 0, 'x']],
    ['a delta without text', [Op.Deltas, 0, [[1, 1]]]],
    ['created without a handle', [Op.Created, 0, 'r', null, 'resp', 'e', null]],
    ['done without usage', [Op.Done, 0, 1, 1, 'stop', null, {}, null]],
    ['an error without its object', [Op.Error, 0, null]],
  ])('a broken frame (%s) drops the connection', (_, frame) => {
    const { free, client } = wired();
    free.welcome();
    free.receiveBytes(encode(frame as ServerMessage));
    expect(free.closedWith?.code).toBe(4000);
    expect(client.state.state).toBe('waiting');
  });

  it('a text frame drops the connection', () => {
    const { free, client } = wired();
    free.welcome();
    free.events?.onForeignMessage();
    expect(client.state.state).toBe('waiting');
  });

  it('unknown ops, unknown handles, unknown requests and extra fields are ignored', async () => {
    const { free, client } = wired();
    free.welcome();
    const response = client.create({ messages: [{ role: 'user', content: 'x' }] });
    await until(() => free.sent.some((message) => (message as unknown[])[0] === Op.Create));
    const requestId = (free.sent.find((message) => (message as unknown[])[0] === Op.Create) as string[])[2];
    for (const frame of [
      [250, 0, 'from the future'],
      [Op.Deltas, 0, [[99, 1, 'nobody']]],
      [Op.Done, 0, 99, 1, 'stop', {}, {}, null],
      [Op.Sessions, 0, 'nobody', []],
      [Op.Created, 0, 'nobody', 5, 'r', 'e', null],
      [Op.Created, 0, requestId, 1, 'resp', 'epoch', null, 'extra'],
      [
        Op.Deltas,
        0,
        [
          [1, 1, 'a', 'extra'],
          [1, 1, 'again'],
          [1, 3, 'bc'],
        ],
        'extra',
      ],
      [Op.Done, 0, 1, 4, 'stop', { promptTokens: 1 }, {}, null, 'extra'],
    ]) {
      free.receiveBytes(encode(frame as unknown as ServerMessage));
    }
    expect((await response.finished).text).toBe('abc');
    expect(client.state.state).toBe('open');
  });

  it('an answer that still runs after a lost connection is ended, so that its session is free again', async () => {
    const { free, client } = wired();
    const info = { session: 's1', model: 'fake-model', createdAtMs: 0, numTurns: 0, title: '', active: [] as string[] };
    const sentOp = (op: number): unknown[][] => (free.sent as unknown[][]).filter((message) => message[0] === op);
    const answer = (message: unknown[]): void => free.receiveBytes(encode(message as unknown as ServerMessage));
    free.welcome();
    const session = client.session();
    const running = session.send('x');
    await until(() => sentOp(Op.OpenSession).length === 1);
    answer([Op.SessionOpened, 1, sentOp(Op.OpenSession)[0]?.[2], info]);
    await until(() => sentOp(Op.Create).length === 1);
    const requestId = sentOp(Op.Create)[0]?.[2];
    answer([Op.Created, 1, requestId, 1, 'resp_1', 'e', 's1']);
    answer([Op.Deltas, 0, [[1, 1, 'half']]]);
    free.events?.onClose(1006, '');
    await expect(running.finished).rejects.toMatchObject({ name: 'ConnectionLostError' });
    await until(() => free.numOpened === 2);
    free.welcome();
    await until(() => sentOp(Op.OpenSession).length === 2);
    answer([Op.SessionOpened, 1, sentOp(Op.OpenSession)[1]?.[2], { ...info, active: ['resp_1'] }]);
    await until(() => sentOp(Op.Create).length === 2);
    expect(sentOp(Op.Create)[1]?.[2]).toBe(requestId);
    answer([Op.Created, 1, requestId, 9, 'resp_1', 'e', 's1']);
    expect(sentOp(Op.Cancel)).toEqual([[Op.Cancel, 1, 9]]);
    answer([Op.Done, 1, 9, 2, 'cancelled', {}, {}, null]);
    await until(() => sentOp(Op.OpenSession).length === 3);
    answer([Op.SessionOpened, 1, sentOp(Op.OpenSession)[2]?.[2], { ...info, numTurns: 1 }]);
    await until(() => sentOp(Op.History).length === 1);
    const said = [
      { role: 'user', content: 'x' },
      { role: 'assistant', content: 'half' },
    ];
    answer([Op.SessionHistory, 1, sentOp(Op.History)[0]?.[2], 's1', said]);
    await session.ready();
    expect(session.numTurns).toBe(1);
    expect(session.messages).toEqual(said);
  });

  it('a refused key closes the client for good with that error', async () => {
    const { free, client } = wired({ apiKey: 'wrong' });
    free.events?.onOpen();
    expect(decode(free.sentBytes[0] as Uint8Array)).toMatchObject([Op.Hello, 0, 1, { token: 'wrong' }]);
    const waiting = client.create({ messages: [] });
    free.receiveBytes(encode([Op.Error, 0, null, { code: 'unauthorized', message: 'Wrong key.', retryable: false }]));
    free.events?.onClose(1008, '');
    expect(client.state).toMatchObject({ state: 'closed', error: { code: 'unauthorized' } });
    await expect(waiting.finished).rejects.toMatchObject({ code: 'unauthorized', message: 'Wrong key.' });
    expect(free.numOpened).toBe(1);
  });

  it('a server that falls silent is asked, and left when it does not answer', async () => {
    const { free, client } = wired({ pingAfterMs: 10, pongTimeoutMs: 20 });
    free.welcome();
    await until(() => free.sent.some((message) => (message as unknown[])[0] === Op.Ping));
    await until(() => client.state.state !== 'open');
    expect(free.numOpened).toBeGreaterThanOrEqual(1);
  });

  it('a server that never welcomes is left', async () => {
    const { free, client } = wired({ openTimeoutMs: 10 });
    free.events?.onOpen();
    await expect(client.ready()).rejects.toThrow('welcome');
    await until(() => free.numOpened === 2);
  });
});
