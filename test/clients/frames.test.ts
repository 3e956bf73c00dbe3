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
    ['a delta with an offset that is text', [Op.Deltas, 0, [[1, 1, 'a', '0']]]],
    ['a delta with sentence ends that are no list', [Op.Deltas, 0, [[1, 1, 'a', 0, 3]]]],
    ['a delta with tokens that are no list', [Op.Deltas, 0, [[1, 1, 'a', 0, [], 'x']]]],
    ['resumed without saying whether', [Op.Resumed, 0, 'r', null, 1, 'resp', 'e', null]],
    ['resumed with a handle that is text', [Op.Resumed, 0, 'r', true, '1', 'resp', 'e', null]],
    ['a state without its detail', [Op.State, 0, 1, 'queued']],
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
          [1, 1, 'a', 0, [], [], 'extra'],
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
