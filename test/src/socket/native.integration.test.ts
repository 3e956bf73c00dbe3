// Native connections over real sockets and uWebSockets, with the scripted engine behind them: what memory tests
// cannot show, namely close codes on the wire, buffers that are taken back, and sockets that are not read.
import { once } from 'node:events';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { decode, encodeCopy } from '../../../protocol/codec.ts';
import { Limits, SUBPROTOCOL } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ClientMessage, ServerMessage } from '../../../protocol/messages.ts';
import type { Caller } from '../../../src/auth/caller.ts';
import { startServer } from '../../../src/server.ts';
import type { Server } from '../../../src/server.ts';
import type { Connection } from '../../../src/socket/connection.ts';
import { House, textOf } from '../support/house.ts';

let house: House;
let server: Server;
let pump: NodeJS.Timeout;
const clients: Client[] = [];

beforeEach(() => {
  house = new House();
  const { sockets } = house;
  server = startServer<Caller | null, Connection>({
    host: '127.0.0.1',
    port: 0,
    tlsCert: '',
    tlsKey: '',
    maxConnections: 100,
    log: pino({ level: 'silent' }),
    onRequest: (exchange) => exchange.sendError(new Error('No HTTP here')),
    onConnectionRefused: () => undefined,
    stream: {
      admit: () => null,
      open: (transport, caller) => sockets.open(transport, caller),
      message: (connection, data, isBinary) => sockets.message(connection, data, isBinary),
      drain: (connection) => sockets.drain(connection),
      close: (connection, code) => sockets.close(connection, code),
    },
  });
  // The engine steps by itself, as threads would.
  pump = setInterval(() => {
    house.nowMs += 20;
    house.engine.step();
  }, 1);
});

afterEach(() => {
  clearInterval(pump);
  for (const client of clients.splice(0)) client.socket.terminate();
  house.stop();
  server.close();
});

class Client {
  readonly socket = new WebSocket(`ws://127.0.0.1:${server.port}/v1/stream`, SUBPROTOCOL);
  readonly frames: ServerMessage[] = [];
  readonly closed: Promise<number>;
  isAcking = true;

  constructor() {
    clients.push(this);
    this.socket.on('message', (data) => {
      const frame = decode(data as Buffer) as ServerMessage;
      this.frames.push(frame);
      if (!this.isAcking) return;
      if (frame[0] === Op.Deltas) for (const [handle, seq] of frame[2]) this.send([Op.Ack, 0, handle, seq]);
      if (frame[0] === Op.Done) this.send([Op.Ack, 0, frame[2], frame[3]]);
    });
    this.closed = once(this.socket, 'close').then(([code]) => code as number);
  }

  static async greeted(): Promise<Client> {
    const client = new Client();
    await once(client.socket, 'open');
    client.send([Op.Hello, 0, 1, {}]);
    await client.until(Op.Welcome);
    return client;
  }

  send(message: ClientMessage): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(encodeCopy(message));
  }

  create(requestId: string): void {
    this.send([Op.Create, 0, requestId, { messages: [{ role: 'user', content: 'Hi' }] }]);
  }

  /** Waits until `count` frames of this op came. */
  async until(op: Op, count = 1): Promise<void> {
    while (this.frames.filter((frame) => frame[0] === op).length < count) await once(this.socket, 'message');
  }
}

const eventually = (check: () => void): Promise<void> => expect.poll(() => passes(check)).toBe(true);

function passes(check: () => void): boolean {
  try {
    check();
    return true;
  } catch {
    return false;
  }
}

describe('Native sockets over uWebSockets', () => {
  it('streams many responses of one socket to their ends', async () => {
    house.engine.script = () => Array.from({ length: 300 }, (_, index) => `世${index} `);
    const client = await Client.greeted();
    expect(client.socket.protocol).toBe(SUBPROTOCOL);
    for (let index = 0; index < 16; index++) client.create(`r${index}`);
    await client.until(Op.Done, 16);
    const expected = Array.from({ length: 300 }, (_, index) => `世${index} `).join('');
    for (let handle = 1; handle <= 16; handle++) expect(textOf(client.frames, handle)).toBe(expected);
  });

  it('resumes after the network broke in the middle, again and again, without losing or doubling a word', async () => {
    const words = Array.from({ length: 1500 }, (_, index) => `w${index} `);
    house.engine.script = () => [...words];
    let client = await Client.greeted();
    client.create('r');
    await client.until(Op.Created);
    const created = client.frames.find((frame) => frame[0] === Op.Created)!;
    const [, , , first, response, epoch] = created as Extract<ServerMessage, { 0: typeof Op.Created }>;
    let text = '';
    let lastSeq = 0;
    let handle: number | null = first;
    let isDone = false;
    const read = (frames: ServerMessage[]): void => {
      for (const frame of frames) {
        if (frame[0] === Op.Resumed) handle = frame[4];
        else if (frame[0] === Op.Done) isDone = true;
        else if (frame[0] === Op.Deltas) lastSeq = Math.max(lastSeq, ...frame[2].map(([, seq]) => seq));
      }
      text += textOf(frames, handle ?? 0);
    };
    for (let cut = 0; cut < 10; cut++) {
      const before = client.frames.length;
      await client.until(Op.Deltas, client.frames.filter((frame) => frame[0] === Op.Deltas).length + 3);
      expect(client.frames.length).toBeGreaterThan(before);
      client.socket.terminate();
      await client.closed;
      read(client.frames);
      client = await Client.greeted();
      client.send([Op.Resume, 0, `again${cut}`, { response, epoch, lastSeq }]);
      await client.until(Op.Resumed);
      expect(client.frames.find((frame) => frame[0] === Op.Resumed)!.slice(3, 4)).toEqual([true]);
    }
    await client.until(Op.Done);
    read(client.frames);
    expect(text).toBe(words.join(''));
    expect(isDone).toBe(true);
  });

  it.each([
    ['text', 'hello', 1003],
    ['junk', Uint8Array.of(0xc1), 1007],
    ['a frame before hello', encodeCopy([Op.Ping, 0, 1]), 1007],
    ['version 0', encodeCopy([Op.Hello, 0, 0, {}]), 1008],
  ])('answers %s with an error and its close code', async (_, data, code) => {
    const client = new Client();
    await once(client.socket, 'open');
    client.socket.send(data);
    expect(await client.closed).toBe(code);
    expect(client.frames.map((frame) => frame[0])).toEqual([Op.Error]);
    expect(house.sockets.numConnections).toBe(0);
  });

  it('cancels after a close with 1000 and waits after a lost connection', async () => {
    house.engine.script = () => Array.from({ length: 100_000 }, () => 'x');
    const [polite, lost] = [await Client.greeted(), await Client.greeted()];
    polite.create('a');
    lost.create('b');
    await Promise.all([polite.until(Op.Deltas), lost.until(Op.Deltas)]);
    polite.socket.close(1000);
    lost.socket.terminate();
    await eventually(() => expect(house.sockets.numConnections).toBe(0));
    await eventually(() => expect(house.responses.active).toBe(1));
    expect(house.engine.cancelled).toEqual([1]);
    house.nowMs += Limits.graceMs;
    house.sockets.tick();
    await eventually(() => expect(house.responses.active).toBe(0));
  });

  it('sends a client that does not read at most its unacknowledged bytes, and the rest when it reads again', async () => {
    const piece = 'x'.repeat(16_000);
    house.engine.script = () => Array.from({ length: 200 }, () => piece);
    const [stalled, reader] = [await Client.greeted(), await Client.greeted()];
    stalled.socket.pause();
    stalled.create('a');
    reader.create('b');
    await reader.until(Op.Done);
    expect(textOf(reader.frames, 1)).toHaveLength(200 * 16_000);
    await eventually(() => expect(house.responses.active).toBe(0));
    stalled.isAcking = false;
    stalled.socket.resume();
    // Everything that had left before anything was acknowledged.
    await eventually(() => expect(textOf(stalled.frames, 1).length).toBeGreaterThan(Limits.unackedBytes - 32_000));
    expect(textOf(stalled.frames, 1).length).toBeLessThan(Limits.unackedBytes + 32_000);
    stalled.isAcking = true;
    const last = stalled.frames.findLast((frame) => frame[0] === Op.Deltas);
    stalled.send([Op.Ack, 0, 1, last?.[0] === Op.Deltas ? last[2][0]![1] : 0]);
    await stalled.until(Op.Done);
    expect(textOf(stalled.frames, 1)).toHaveLength(200 * 16_000);
  });

  it('closes a client that orders answers without reading them', async () => {
    const client = await Client.greeted();
    const content = 'x'.repeat(900_000);
    client.send([Op.OpenSession, 0, 's', { messages: [{ role: 'user', content }] }]);
    await client.until(Op.SessionOpened);
    const [opened] = client.frames.filter((frame) => frame[0] === Op.SessionOpened);
    client.socket.pause();
    for (let index = 0; index < 60; index++) {
      client.send([Op.History, 0, `h${index}`, (opened![3] as { session: string }).session]);
    }
    await eventually(() => expect(house.sockets.numConnections).toBe(0));
    expect(house.errors).toEqual([]);
  });
});
