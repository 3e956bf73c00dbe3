// A scripted server for the native protocol, in this process: accepts WebSockets, keeps sessions in memory, answers
// requests the plain way and streams what the script says. Tests of the SDK, the page and the terminal chat use it.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import { decode, encode } from '../../../protocol/codec.ts';
import { CloseCode, Limits, PROTOCOL_VERSION } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type {
  ChatMessage,
  ClientMessage,
  CreateOptions,
  FinishReason,
  ModelInfo,
  ServerMessage,
  SessionOptions,
  ToolCall,
} from '../../../protocol/messages.ts';
import { FakeLog } from './fake-log.ts';

export interface Answer {
  /** Text pieces, one event each. */
  pieces: string[];
  /** While this says true, the last piece waits: an answer that runs for as long as a test needs it to. */
  isHeld?: () => boolean;
  toolCalls?: ToolCall[];
  /** Pause before each piece, milliseconds, or one for each of them. */
  pauseMs?: number | readonly number[];
  reason?: FinishReason;
  /** Fails after the pieces instead of finishing. */
  error?: { code: string; message: string };
}

export interface FakeServerOptions {
  port?: number;
  /** What to answer. Default: echoes the last message word by word. */
  script?: (options: CreateOptions, history: readonly ChatMessage[]) => Answer;
  model?: Partial<ModelInfo>;
  /** Most messages of one page of a history. Default: all. */
  historyPage?: number;
  /** Served for plain HTTP requests. */
  onRequest?: (request: IncomingMessage, response: ServerResponse) => void;
  /** Sees every message first; returning true means it was handled. */
  intercept?: (message: ClientMessage, peer: FakePeer) => boolean;
}

interface FakeSession {
  id: string;
  options: SessionOptions;
  /** Messages it was made from: no turns, and not rolled back. */
  head: readonly ChatMessage[];
  turns: ChatMessage[][];
}

export const fakeModel: ModelInfo = {
  id: 'fake-model',
  aliases: ['default'],
  contextLength: 2048,
  preset: { temperature: 0.7, maxTokens: 256 },
  tools: true,
  note: 'A scripted model for tests.',
};

/** Splits text into words with the space before them: one piece each. */
export function words(text: string): string[] {
  return text.match(/\s*\S+/g) ?? [];
}

/** One connection as the server sees it. */
export class FakePeer {
  readonly socket: WebSocket;
  readonly received: ClientMessage[] = [];
  readonly lanes = new Map<number, string>();
  readonly watched = new Map<number, FakeLog>();
  nextHandle = 1;
  #batch: [number, number, string][] = [];

  constructor(socket: WebSocket) {
    this.socket = socket;
  }

  send(message: ServerMessage): void {
    this.socket.send(encode(message));
  }

  /** Collects deltas of one turn of the event loop into one frame, as the real server does per step. */
  delta(handle: number, seq: number, text: string): void {
    this.#batch.push([handle, seq, text]);
    if (this.#batch.length > 1) return;
    setImmediate(() => this.flush());
  }

  flush(): void {
    if (this.#batch.length > 0) this.send([Op.Deltas, 0, this.#batch.splice(0)]);
  }

  messages(op: number): ClientMessage[] {
    return this.received.filter((message) => message[0] === op);
  }
}

export class FakeServer {
  readonly peers: FakePeer[] = [];
  readonly sessions = new Map<string, FakeSession>();
  /** Answers by id; clear it to be a server that was restarted. */
  readonly logs = new Map<string, FakeLog>();
  readonly #byRequest = new Map<string, FakeLog>();
  readonly #made = new Map<string, FakeSession>();
  readonly #options: FakeServerOptions;
  readonly #http: Server;
  readonly #sockets: WebSocketServer;
  #numSessions = 0;
  #numResponses = 0;

  private constructor(options: FakeServerOptions) {
    this.#options = options;
    this.#http = createServer((request, response) => {
      if (options.onRequest !== undefined) options.onRequest(request, response);
      else response.writeHead(404).end();
    });
    this.#sockets = new WebSocketServer({ server: this.#http, path: '/v1/stream' });
    this.#sockets.on('connection', (socket) => this.#accept(socket));
  }

  static async start(options: FakeServerOptions = {}): Promise<FakeServer> {
    const server = new FakeServer(options);
    server.#http.listen(options.port ?? 0, '127.0.0.1');
    await once(server.#http, 'listening');
    return server;
  }

  get port(): number {
    return (this.#http.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** The newest connection. */
  get peer(): FakePeer {
    const peer = this.peers.at(-1);
    if (peer === undefined) throw new Error('nobody is connected');
    return peer;
  }

  /** Ends every connection as a killed process would: without a closing handshake. */
  drop(): void {
    for (const socket of this.#sockets.clients) socket.terminate();
  }

  async stop(): Promise<void> {
    this.drop();
    this.#sockets.close();
    this.#http.closeAllConnections();
    this.#http.close();
    await once(this.#http, 'close');
  }

  #accept(socket: WebSocket): void {
    const peer = new FakePeer(socket);
    this.peers.push(peer);
    socket.on('error', () => {});
    socket.on('message', (data: Buffer) => {
      const message = decode(new Uint8Array(data)) as ClientMessage;
      peer.received.push(message);
      if (this.#options.intercept?.(message, peer) !== true) this.#handle(peer, message);
    });
    socket.on('close', (code) => {
      // 1000 says that nobody will come back.
      if (code === 1000) for (const log of peer.watched.values()) log.isCancelled = true;
    });
  }

  #handle(peer: FakePeer, message: ClientMessage): void {
    const lane = message[1];
    switch (message[0]) {
      case Op.Hello: {
        if (message[2] !== PROTOCOL_VERSION) {
          peer.send([Op.Error, 0, null, { code: 'version_unsupported', message: 'No.', retryable: false }]);
          peer.socket.close(CloseCode.policy);
          return;
        }
        const models = [{ ...fakeModel, ...this.#options.model }];
        const limits: Record<string, number> = { ...Limits };
        peer.send([Op.Welcome, 0, PROTOCOL_VERSION, { server: 'fake/1', connection: 'conn_1', models, limits }]);
        return;
      }
      case Op.OpenLane:
        peer.lanes.set(lane, message[2].class ?? 'chat');
        peer.send([Op.LaneOpened, lane]);
        return;
      case Op.CloseLane:
        peer.lanes.delete(lane);
        peer.send([Op.LaneClosed, lane]);
        return;
      case Op.OpenSession:
        this.#openSession(peer, lane, message[2], message[3]);
        return;
      case Op.ListSessions: {
        const infos = [...this.sessions.values()].map((session) => this.#info(session));
        peer.send([Op.Sessions, lane, message[2], infos]);
        return;
      }
      case Op.History: {
        const session = this.#find(peer, lane, message[2], message[3]);
        if (session === null) return;
        const { historyPage = Infinity } = this.#options;
        const messages = this.#history(session);
        const start = message[4] ?? 0;
        const end = Math.min(messages.length, start + Math.min(historyPage, message[5] ?? Infinity));
        const next = end < messages.length ? end : null;
        peer.send([Op.SessionHistory, lane, message[2], session.id, messages.slice(start, end), next]);
        return;
      }
      case Op.Rollback: {
        const session = this.#find(peer, lane, message[2], message[3]);
        if (session === null) return;
        if (message[4] > session.turns.length) {
          this.#refuse(peer, lane, message[2], 'invalid_request', 'numTurns is out of range.');
          return;
        }
        session.turns.length = message[4];
        peer.send([Op.SessionOpened, lane, message[2], this.#info(session)]);
        return;
      }
      case Op.Fork: {
        const session = this.#find(peer, lane, message[2], message[3]);
        if (session === null) return;
        const known = this.#made.get(message[2]);
        const copy = known ?? this.#newSession(session.options, message[2]);
        if (known === undefined) copy.turns = session.turns.slice(0, message[4]);
        peer.send([Op.SessionOpened, lane, message[2], this.#info(copy)]);
        return;
      }
      case Op.CloseSession: {
        const session = this.#find(peer, lane, message[2], message[3]);
        if (session === null) return;
        this.sessions.delete(session.id);
        peer.send([Op.SessionClosed, lane, message[2], session.id]);
        return;
      }
      case Op.Create:
        this.#create(peer, lane, message[2], message[3]);
        return;
      case Op.Cancel: {
        const log = peer.watched.get(message[2]);
        if (log !== undefined) log.isCancelled = true;
        return;
      }
      case Op.Resume: {
        const { response, epoch, lastSeq } = message[3];
        const log = this.logs.get(response);
        const isRecovered = log !== undefined && (epoch ?? log.epoch) === log.epoch;
        const isOver = isRecovered && log.isEnded && lastSeq === log.head;
        const handle = log === undefined || isOver ? null : peer.nextHandle++;
        const { epoch: given = null, session = null } = log ?? {};
        peer.send([Op.Resumed, lane, message[2], isRecovered, handle, response, given, session]);
        if (handle !== null) log?.watch(peer, lane, handle, isRecovered ? lastSeq : 0);
        return;
      }
      case Op.Ack:
        return;
      case Op.Ping:
        peer.send([Op.Pong, lane, message[2]]);
        return;
    }
  }

  #openSession(peer: FakePeer, lane: number, requestId: string, options: SessionOptions): void {
    if (options.session !== undefined) {
      const session = this.#find(peer, lane, requestId, options.session);
      if (session !== null) peer.send([Op.SessionOpened, lane, requestId, this.#info(session)]);
      return;
    }
    const session = this.#made.get(requestId) ?? this.#newSession(options, requestId);
    peer.send([Op.SessionOpened, lane, requestId, this.#info(session)]);
  }

  #newSession(options: SessionOptions, requestId: string): FakeSession {
    const session: FakeSession = {
      id: `sess_${this.port}_${++this.#numSessions}`,
      options,
      head: options.messages ?? [],
      turns: [],
    };
    this.sessions.set(session.id, session);
    this.#made.set(requestId, session);
    return session;
  }

  #find(peer: FakePeer, lane: number, requestId: string, id: string): FakeSession | null {
    const session = this.sessions.get(id);
    if (session === undefined) this.#refuse(peer, lane, requestId, 'unknown_session', 'No such session.');
    return session ?? null;
  }

  #refuse(peer: FakePeer, lane: number, requestId: string, code: string, message: string): void {
    peer.send([Op.Error, lane, requestId, { code, message, retryable: false }]);
  }

  #history(session: FakeSession): ChatMessage[] {
    const { system } = session.options;
    const first = system === undefined ? [] : [{ role: 'system' as const, content: system }];
    return [...first, ...session.head, ...session.turns.flat()];
  }

  #info(session: FakeSession) {
    const title = session.turns[0]?.[0]?.content.slice(0, 80) ?? '';
    return {
      session: session.id,
      model: fakeModel.id,
      createdAtMs: 0,
      numTurns: session.turns.length,
      title,
      active: [],
    };
  }

  #create(peer: FakePeer, lane: number, requestId: string, options: CreateOptions): void {
    const session = options.session === undefined ? null : this.#find(peer, lane, requestId, options.session);
    if (session === null && options.session !== undefined) return;
    const known = this.#byRequest.get(requestId);
    const log = known ?? new FakeLog(`resp_${++this.#numResponses}`, session?.id ?? null);
    this.#byRequest.set(requestId, log);
    this.logs.set(log.id, log);
    const handle = peer.nextHandle++;
    peer.send([Op.Created, lane, requestId, handle, log.id, log.epoch, log.session]);
    log.watch(peer, lane, handle, 0);
    if (known === undefined) void this.#answer(log, session, options);
  }

  async #release(answer: Answer, log: FakeLog): Promise<void> {
    while (answer.isHeld?.() === true && !log.isCancelled && this.#http.listening) await sleep(2);
  }

  async #answer(log: FakeLog, session: FakeSession | null, options: CreateOptions): Promise<void> {
    const history = session === null ? [] : this.#history(session);
    const echo = (): Answer => ({ pieces: words(options.messages.at(-1)?.content ?? '') });
    const answer = (this.#options.script ?? echo)(options, history);
    const startedAtMs = performance.now();
    let text = '';
    const { pauseMs = 0 } = answer;
    for (const [index, piece] of answer.pieces.entries()) {
      await sleep(typeof pauseMs === 'number' ? pauseMs : (pauseMs[index] ?? 0));
      if (index === answer.pieces.length - 1) await this.#release(answer, log);
      if (log.isCancelled) break;
      text += piece;
      log.add(piece);
    }
    const { isCancelled } = log;
    const toolCalls = isCancelled ? [] : (answer.toolCalls ?? []);
    for (const [index, call] of toolCalls.entries()) {
      log.add(null, (lane, handle, seq) => [Op.ToolBegin, lane, handle, seq, index, call.id, call.name]);
      for (const piece of words(call.arguments)) {
        log.add(null, (lane, handle, seq) => [Op.ToolDelta, lane, handle, seq, index, piece]);
      }
      log.add(null, (lane, handle, seq) => [Op.ToolEnd, lane, handle, seq, index]);
    }
    const failure = isCancelled ? undefined : answer.error;
    const saidNothing = text === '' && toolCalls.length === 0;
    if (session !== null && failure === undefined && !(isCancelled && saidNothing)) {
      const said: ChatMessage = { role: 'assistant', content: text };
      if (toolCalls.length > 0) said.toolCalls = toolCalls;
      session.turns.push([...options.messages, said]);
    }
    const usage = { promptTokens: 8, cachedTokens: 0, completionTokens: log.head, droppedMessages: 0 };
    const timings = { queuedMs: 0, prefillMs: 1, ttftMs: 2, totalMs: performance.now() - startedAtMs };
    const ended = toolCalls.length > 0 ? 'tool_calls' : 'stop';
    const reason = failure !== undefined ? 'error' : isCancelled ? 'cancelled' : (answer.reason ?? ended);
    const wire = failure === undefined ? null : { ...failure, retryable: true };
    log.isEnded = true;
    log.add(null, (lane, handle, seq) => [Op.Done, lane, handle, seq, reason, usage, timings, wire]);
  }
}
