// Responses, sessions and sockets around a scripted engine and a manual clock, and clients in memory: everything of
// src but uWebSockets and the workers.
import { decode, encodeCopy } from '../../../protocol/codec.ts';
import { PROTOCOL_VERSION } from '../../../protocol/constants.ts';
import { ServiceError } from '../../../protocol/errors.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ClientMessage, CreateOptions, HelloOptions, ServerMessage } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import type { Caller } from '../../../src/auth/caller.ts';
import { Responses } from '../../../src/responses/registry.ts';
import type { ResponsesOptions } from '../../../src/responses/registry.ts';
import { Sessions } from '../../../src/sessions/registry.ts';
import type { SessionsOptions } from '../../../src/sessions/registry.ts';
import type { Connection } from '../../../src/socket/connection.ts';
import { SocketServer } from '../../../src/socket/socket-server.ts';
import type { SocketServerOptions } from '../../../src/socket/socket-server.ts';
import type { Transport } from '../../../src/socket/transport.ts';
import { FakeEngine } from './fake-engine.ts';

/** Lets promises and queued microtasks run. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export interface HouseOptions {
  responses?: ResponsesOptions;
  sessions?: SessionsOptions;
  socket?: Partial<SocketServerOptions>;
}

export class House {
  nowMs = 1_000_000;
  readonly engine = new FakeEngine();
  readonly responses: Responses;
  readonly sessions: Sessions;
  readonly sockets: SocketServer;
  readonly delays: [string, number][] = [];
  readonly errors: unknown[] = [];

  constructor(options: HouseOptions = {}) {
    const now = (): number => this.nowMs;
    this.engine.now = now;
    this.responses = new Responses({ now, ...options.responses });
    this.engine.onStepEnd = () => this.responses.publish();
    const engineFor = (model: string | undefined): FakeEngine => {
      if (model === undefined || model === 'default' || model === 'fake') return this.engine;
      throw new ServiceError('unknown_model', `No model ${model} here.`, { param: 'model' });
    };
    this.sessions = new Sessions(this.responses, engineFor, { now, ...options.sessions });
    this.sockets = new SocketServer({
      sessions: this.sessions,
      responses: this.responses,
      serverName: 'tokenwire/test',
      models: () => [this.engine.model],
      authenticate: () => localCaller,
      now,
      random: () => 0,
      onDelay: (latencyClass, delayMs) => void this.delays.push([latencyClass, delayMs]),
      onInternalError: (error) => void this.errors.push(error),
      ...options.socket,
    });
  }

  /** A socket that has not said hello. */
  connect(caller: Caller | null = null): TestClient {
    return new TestClient(this.sockets, caller);
  }

  /** A socket that has been welcomed. */
  greeted(caller: Caller | null = null): TestClient {
    const client = this.connect(caller);
    client.hello();
    client.take();
    return client;
  }

  stop(): void {
    this.sockets.stop();
  }
}

/** The far end of an in-memory socket. It checks nothing by itself; `take` gives the frames since the last take. */
export class TestClient implements Transport {
  readonly connection: Connection;
  readonly #server: SocketServer;
  #frames: ServerMessage[] = [];
  /** Bytes of every frame since the start. */
  numBytes = 0;
  numFrames = 0;
  closed: { code: number; reason: string } | null = null;
  /** What `send` returns and `getBufferedAmount` says: a test's slow socket. */
  sendResult: 0 | 1 | 2 = 1;
  buffered = 0;
  /** Bytes that each Deltas frame leaves in the buffer. */
  fillPerFrame = 0;

  constructor(server: SocketServer, caller: Caller | null) {
    this.#server = server;
    this.connection = server.open(this, caller);
  }

  send(bytes: Uint8Array): 0 | 1 | 2 {
    if (this.closed !== null) throw new Error('A frame was sent after close');
    if (this.sendResult === 2) return 2;
    this.numBytes += bytes.length;
    this.numFrames++;
    const frame = decode(bytes) as ServerMessage;
    if (frame[0] === Op.Deltas) this.buffered += this.fillPerFrame;
    this.#frames.push(frame);
    return this.sendResult;
  }

  end(code: number, reason: string): void {
    if (this.closed !== null) throw new Error('Closed twice');
    this.closed = { code, reason };
    // uWebSockets calls the close handler from within end.
    this.#server.close(this.connection, code);
  }

  getBufferedAmount(): number {
    return this.buffered;
  }

  /** The client sends bytes or a message. */
  push(message: ClientMessage | Uint8Array): void {
    const bytes = message instanceof Uint8Array ? new Uint8Array(message) : encodeCopy(message);
    this.#server.message(this.connection, bytes.buffer, true);
    // uWebSockets detaches the buffer when the handler returns; nothing may have been kept.
    bytes.fill(0xc1);
  }

  pushText(): void {
    this.#server.message(this.connection, new ArrayBuffer(2), false);
  }

  hello(options: HelloOptions = {}): void {
    this.push([Op.Hello, 0, PROTOCOL_VERSION, options]);
  }

  /** Creates and returns the handle. */
  create(requestId: string, options: Partial<CreateOptions> = {}, lane = 0): number {
    this.push([Op.Create, lane, requestId, { messages: [{ role: 'user', content: 'Hi' }], ...options }]);
    const created = this.#frames.find((frame) => frame[0] === Op.Created && frame[2] === requestId);
    if (created?.[0] !== Op.Created) throw new Error(`Not created: ${JSON.stringify(this.#frames.at(-1))}`);
    return created[3];
  }

  /** The socket takes what was buffered. */
  drain(): void {
    this.buffered = 0;
    this.#server.drain(this.connection);
  }

  /** The client (or the network) closes. */
  drop(code: number): void {
    this.closed ??= { code, reason: '' };
    this.#server.close(this.connection, code);
  }

  take(): ServerMessage[] {
    const frames = this.#frames;
    this.#frames = [];
    return frames;
  }

  /** The frames of one op since the last take, which this is. */
  takeOnly<O extends ServerMessage[0]>(op: O): Extract<ServerMessage, { 0: O }>[] {
    return this.take().filter((frame): frame is Extract<ServerMessage, { 0: O }> => frame[0] === op);
  }
}

/** Texts of one handle in these frames. */
export function textOf(frames: readonly ServerMessage[], handle: number): string {
  let text = '';
  for (const frame of frames) {
    if (frame[0] !== Op.Deltas) continue;
    for (const [of, , piece] of frame[2]) if (of === handle) text += piece;
  }
  return text;
}
