import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import { ConnectionLostError } from '../../clients/index.ts';
import type { SessionOrigin } from '../../clients/index.ts';
import { open, serve } from './support/fake-house.ts';
import { fakeModel, FakeServer, words } from './support/fake-server.ts';
import { until } from './support/until.ts';

describe('A dropped connection', () => {
  it('only delays the running answer: its text, its calls and its session come out whole', async () => {
    const call = { id: 'call_1', name: 'weather', arguments: '{"city": "Paris", "days": 2}' };
    const pieces = words('one two three four five six seven eight');
    const server = await serve({ script: () => ({ pieces, pauseMs: 10, toolCalls: [call] }) });
    const session = open(server).session();
    const states: string[] = [];
    const response = session.send('count', { onState: ({ state }) => states.push(state) });
    const read = (async () => {
      let text = '';
      for await (const piece of response) text += piece;
      return text;
    })();
    for (const word of ['two', 'five']) {
      await until(() => response.text.includes(word));
      server.drop();
    }
    const finished = await response.finished;
    expect(finished).toMatchObject({ text: pieces.join(''), toolCalls: [call], reason: 'tool_calls' });
    expect(await read).toBe(finished.text);
    expect(states.filter((state) => state === 'resumed').length).toBe(2);
    expect(server.peers.length).toBe(3);
    expect(server.logs.size).toBe(1);
    expect(await session.history()).toEqual(session.messages);
  });

  it('loses an answer only with the server itself, and says what is here of it', async () => {
    const server = await serve({ script: () => ({ pieces: words('one two three four'), pauseMs: 20 }) });
    const session = open(server).session();
    const response = session.send('count');
    await until(() => response.text.includes('two'));
    server.logs.clear();
    server.sessions.clear();
    server.drop();
    const error: unknown = await response.finished.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectionLostError);
    expect(error).toMatchObject({ text: 'one two', position: { response: 'resp_1', lastSeq: 2 }, isLocal: false });
    expect((await session.send('again').finished).text).toBe('one two three four');
  });

  it('lets later requests wait, opens lanes and sessions again and goes on', async () => {
    const server = await serve();
    const client = open(server);
    const origins: SessionOrigin[] = [];
    const session = client.session({ class: 'ide', onOpened: (_, origin) => origins.push(origin) });
    await session.send('before').finished;
    // The pause may be shorter than any look at the state.
    const waits = new Promise<void>((resolve) => client.onState(({ state }) => state === 'waiting' && resolve()));
    server.drop();
    await waits;
    const [answer, list] = await Promise.all([session.send('after').finished, client.list()]);
    expect(answer.text).toBe('after');
    expect(list[0]?.numTurns).toBe(1);
    expect(origins).toEqual(['new', 'kept']);
    expect(server.peers.length).toBe(2);
    expect([...server.peer.lanes]).toEqual([[1, 'ide']]);
  });

  it('repeats a question that had no answer yet', async () => {
    let isFirst = true;
    const server = await serve({
      intercept: (message, peer) => {
        if (message[0] !== Op.History || !isFirst) return false;
        isFirst = false;
        peer.socket.terminate();
        return true;
      },
    });
    const session = open(server).session({
      messages: [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: 'b' },
      ],
    });
    expect((await session.history()).map((message) => message.content)).toEqual(['a', 'b']);
  });

  it('makes a session again that the server has forgotten, from the local copy', async () => {
    const server = await serve();
    const origins: SessionOrigin[] = [];
    const session = open(server).session({ system: 'Be brief.', onOpened: (_, origin) => origins.push(origin) });
    await session.send('remember me').finished;
    const firstId = session.id;
    server.sessions.clear();
    server.drop();
    await until(() => origins.length === 2);
    expect(origins).toEqual(['new', 'recreated']);
    expect(session.id).not.toBe(firstId);
    expect((await session.history()).map((message) => message.content)).toEqual([
      'Be brief.',
      'remember me',
      'remember me',
    ]);
  });

  it('ends a session that must not be made again with unknown_session', async () => {
    const server = await serve();
    const session = open(server).session({ session: 'sess_gone', recreate: false });
    await expect(session.send('x').finished).rejects.toMatchObject({ code: 'unknown_session' });
  });

  it('opens a known session by its id and learns its messages', async () => {
    const server = await serve();
    const first = open(server).session();
    await first.send('hello').finished;
    const again = open(server).session({ session: first.id as string });
    await again.ready();
    expect(again.messages.map((message) => message.content)).toEqual(['hello', 'hello']);
  });

  it('tries again until a server is there, with growing pauses', async () => {
    const first = await FakeServer.start();
    const { port } = first;
    await first.stop();
    const pauses: number[] = [];
    const client = open(
      { url: `ws://127.0.0.1:${port}` },
      {
        retryFirstMs: 8,
        retryMaxMs: 32,
        onState: (state) => {
          if (state.state === 'waiting') pauses.push(state.retryInMs);
        },
      },
    );
    const answer = client.session().send('still there');
    await expect(client.ready()).rejects.toThrow('no server answers');
    await until(() => pauses.length >= 4);
    await serve({ port });
    expect((await answer.finished).text).toBe('still there');
    // Random moments: only their limits are certain.
    for (const [index, pause] of pauses.entries()) expect(pause).toBeLessThanOrEqual(Math.min(32, 8 * 2 ** index));
  });

  it('after close() stays closed and ends what waits', async () => {
    const server = await serve({ script: () => ({ pieces: words('a b c d e f'), pauseMs: 20 }) });
    const client = open(server);
    const running = client.session().send('x');
    await until(() => running.text !== '');
    server.drop();
    await until(() => client.state.state !== 'open');
    const waiting = client.session().send('y');
    const listed = client.list();
    client.close();
    for (const lost of [running.finished, waiting.finished, listed]) {
      await expect(lost).rejects.toBeInstanceOf(ConnectionLostError);
    }
    expect(client.state.state).toBe('closed');
  });
});

describe('A model that is still loading', () => {
  it('lets what was sent wait, says how far it is, and is described when it is ready, on the same connection', async () => {
    let numRefused = 0;
    const info = { id: 'fake-model', aliases: [], contextLength: 0, preset: {}, tools: false, note: '' };
    const server = await serve({
      intercept: (message, peer) => {
        if (message[0] === Op.Hello && numRefused === 0) {
          peer.send([Op.Welcome, 0, 1, { server: 's', connection: 'c', models: [info], limits: {} }]);
          return true;
        }
        if (message[0] !== Op.OpenSession) return false;
        if (numRefused === 2) {
          peer.send([Op.Models, 0, [fakeModel]]);
          return false;
        }
        numRefused++;
        const error = { code: 'model_loading', message: `${numRefused * 40} %`, retryable: true, retryAfterMs: 5 };
        peer.send([Op.Error, message[1], message[2], error]);
        return true;
      },
    });
    const said: string[] = [];
    const client = open(server);
    const session = client.session({ onLoading: (message) => said.push(message) });
    expect((await session.send('hello').finished).text).toBe('hello');
    expect(said).toEqual(['40 %', '80 %']);
    expect(client.models[0]?.contextLength).toBe(2048);
    expect(server.peers.length).toBe(1);
    expect(server.sessions.size).toBe(1);
  });
});

describe('Goaway', () => {
  it('holds new requests back, lets the running answer finish and returns after the advised time', async () => {
    const server = await serve({
      script: (options) => ({ pieces: words(options.messages[0]?.content ?? ''), pauseMs: 15 }),
    });
    const client = open(server);
    const session = client.session();
    const running = session.send('one two three');
    await until(() => running.text !== '');
    server.peer.send([Op.Goaway, 0, 'shutting_down', 80]);
    // Time for it to come, and a turn of the event loop to read it in.
    await sleep(10);
    await setImmediate();
    await setImmediate();
    const held = session.send('later');
    expect((await running.finished).text).toBe('one two three');
    expect(server.peers[0]?.messages(Op.Create).length).toBe(1);
    const closedAtMs = performance.now();
    server.peer.socket.close(1012);
    expect((await held.finished).text).toBe('later');
    expect(performance.now() - closedAtMs).toBeGreaterThanOrEqual(75);
  });
});

describe('Opening over connections', () => {
  it('repeats an OpenSession and a Fork with their requestIds when the answer never came', async () => {
    const swallowed = new Set<number>();
    const server: FakeServer = await serve({
      intercept: (message, peer) => {
        if ((message[0] !== Op.OpenSession && message[0] !== Op.Fork) || swallowed.has(message[0])) return false;
        swallowed.add(message[0]);
        // What it does is done; what it says gets lost.
        const { send } = peer;
        peer.send = () => {};
        void setImmediate().then(() => {
          peer.send = send;
          server.drop();
        });
        return false;
      },
    });
    const session = open(server).session();
    await session.send('one').finished;
    expect(server.sessions.size).toBe(1);
    const copy = await session.fork(1);
    await copy.ready();
    expect(server.sessions.size).toBe(2);
    for (const op of [Op.OpenSession, Op.Fork]) {
      const asked = server.peers.flatMap((peer) => peer.messages(op));
      const first = asked[0]![2];
      expect(asked.filter((message) => message[2] === first).length).toBe(2);
    }
  });
});

describe('A long history', () => {
  it('is read page by page, by hand and when a session opens again', async () => {
    const server = await serve({ historyPage: 3 });
    const session = open(server).session({ system: 'Be brief.' });
    for (const text of ['one', 'two', 'three', 'four']) await session.send(text).finished;
    const history = await session.history();
    expect(history.map(({ content }) => content)).toEqual([
      'Be brief.',
      'one',
      'one',
      'two',
      'two',
      'three',
      'three',
      'four',
      'four',
    ]);
    expect(server.peer.messages(Op.History).map((message) => message[4])).toEqual([0, 3, 6]);
    const again = open(server).session({ session: session.id! });
    await again.ready();
    expect(again.messages).toEqual(history);
  });

  it('goes on on the next connection, and from its beginning in a session that was made again', async () => {
    let numAsked = 0;
    const server = await serve({
      historyPage: 2,
      intercept: (message) => {
        if (message[0] !== Op.History || ++numAsked !== 2) return false;
        // The second page is lost with the connection, the server restarted in between.
        server.sessions.clear();
        server.drop();
        return true;
      },
    });
    const session = open(server).session();
    for (const text of ['one', 'two', 'three']) await session.send(text).finished;
    const before = session.id;
    const history = await session.history();
    expect(session.id).not.toBe(before);
    expect(history.map(({ content }) => content)).toEqual(['one', 'one', 'two', 'two', 'three', 'three']);
  });
});
