// One native WebSocket as a foreign client would write it from protocol/README.md: it checks the order of every frame
// it gets and notes each breach of the protocol. Tests look at `violations` at their ends.
import { WebSocket } from 'ws';
import { decode, encode } from '../../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ClientMessage, CreateOptions, HelloOptions, ServerMessage } from '../../../protocol/messages.ts';
import { Answer } from './answer.ts';

const ACK_EVENTS = 64;
const WAIT_MS = 60_000;

export interface ConnectOptions {
  /** False: no hello is said. */
  greets?: boolean;
  hello?: HelloOptions;
  headers?: Record<string, string>;
}

type Frame<O extends ServerMessage[0]> = Extract<ServerMessage, { 0: O }>;

export class NativeClient {
  readonly socket: WebSocket;
  /** All frames but Deltas. */
  readonly frames: ServerMessage[] = [];
  /** Breaches of the protocol by the server. */
  readonly violations: string[] = [];
  readonly answers: Answer[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  /** False: nothing is acknowledged any more. */
  isAcking = true;
  readonly #byRequest = new Map<string, Answer>();
  readonly #byHandle = new Map<number, Answer>();
  readonly #waiting = new Set<() => void>();
  #numRequests = 0;
  #lastHandle = 0;
  #isClosed = false;

  private constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on('message', (data: Buffer) => this.#receive(data));
    socket.on('error', () => undefined); // 'close' follows
    this.closed = new Promise((resolve) => {
      socket.on('close', (code, reason) => {
        this.#isClosed = true;
        for (const answer of this.answers) answer.lose(code);
        for (const check of this.#waiting) check();
        resolve({ code, reason: reason.toString() });
      });
    });
  }

  /** Resolves after Welcome, or after the upgrade when it does not greet. */
  static async connect(url: string, options: ConnectOptions = {}): Promise<NativeClient> {
    const socket = new WebSocket(url, SUBPROTOCOL, { perMessageDeflate: false, headers: options.headers ?? {} });
    const client = new NativeClient(socket);
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    if (options.greets === false) return client;
    client.send([Op.Hello, 0, PROTOCOL_VERSION, options.hello ?? {}]);
    await client.next(Op.Welcome);
    return client;
  }

  send(message: ClientMessage): void {
    this.sendRaw(encode(message));
  }

  /** A whole WebSocket message, right or wrong. */
  sendRaw(bytes: Uint8Array | string): void {
    if (!this.#isClosed) this.socket.send(bytes);
  }

  /** The first frame of this op that fits, past or future. Rejects when the socket closes without it. */
  next<O extends ServerMessage[0]>(op: O, fits: (frame: Frame<O>) => boolean = () => true): Promise<Frame<O>> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => finish(new Error(`no frame of op ${op} in ${WAIT_MS} ms`)), WAIT_MS);
      const finish = (result: Frame<O> | Error): void => {
        clearTimeout(timer);
        this.#waiting.delete(check);
        if (result instanceof Error) reject(result);
        else resolve(result);
      };
      const check = (): void => {
        const found = this.frames.find((frame): frame is Frame<O> => frame[0] === op && fits(frame as Frame<O>));
        if (found !== undefined) finish(found);
        else if (this.#isClosed) finish(new Error(`closed without a frame of op ${op}`));
      };
      this.#waiting.add(check);
      check();
    });
  }

  /** The error answering this requestId; null is a frame without one. */
  async error(requestId: string | null): Promise<Frame<typeof Op.Error>[3]> {
    return (await this.next(Op.Error, (frame) => frame[2] === requestId))[3];
  }

  /** The answer to a message with a requestId, whatever its op. */
  async ask<O extends ServerMessage[0]>(message: ClientMessage & { 2: string }, op: O): Promise<Frame<O>> {
    this.send(message);
    return this.next(op, (frame) => (frame[2] as unknown) === message[2]);
  }

  newRequestId(): string {
    return `r${++this.#numRequests}`;
  }

  async openLane(lane: number): Promise<void> {
    this.send([Op.OpenLane, lane, {}]);
    await this.next(Op.LaneOpened, (frame) => frame[1] === lane);
  }

  async openSession(): Promise<string> {
    const opened = await this.ask([Op.OpenSession, 0, this.newRequestId(), {}], Op.SessionOpened);
    return opened[3].session;
  }

  create(options: CreateOptions, lane = 0): Answer {
    const answer = new Answer(this.newRequestId(), lane, (text) => void this.violations.push(text));
    this.answers.push(answer);
    this.#byRequest.set(answer.requestId, answer);
    this.send([Op.Create, lane, answer.requestId, options]);
    return answer;
  }

  /** A one-off user message. */
  say(content: string, sampling: CreateOptions['sampling'] = {}, lane = 0): Answer {
    return this.create({ messages: [{ role: 'user', content }], sampling }, lane);
  }

  cancel(answer: Answer): void {
    this.send([Op.Cancel, answer.lane, answer.handle]);
  }

  /** Acknowledges what has come, unless `isAcking` is false. */
  ack(answer: Answer): void {
    if (!this.isAcking) return;
    answer.ackedSeq = answer.lastSeq;
    this.send([Op.Ack, 0, answer.handle, answer.lastSeq]);
  }

  /** Stops reading from the socket, so that the server's buffers fill up. */
  stall(): void {
    this.isAcking = false;
    this.socket.pause();
  }

  /** Closes as done. */
  async close(code = 1000): Promise<void> {
    this.socket.close(code);
    await this.closed;
  }

  /** The network is gone. */
  drop(): void {
    this.socket.terminate();
  }

  #receive(data: Buffer): void {
    const now = performance.now();
    const frame = decode(data) as ServerMessage;
    if (frame[0] !== Op.Deltas) this.frames.push(frame);
    switch (frame[0]) {
      case Op.Created:
        this.#onCreated(frame);
        break;
      case Op.Deltas:
        for (const [handle, seq, text] of frame[2]) {
          const answer = this.#byHandle.get(handle);
          if (answer === undefined) this.violations.push(`text for handle ${handle}, never created`);
          else if (answer.onText(seq, text, now) >= ACK_EVENTS) this.ack(answer);
        }
        break;
      case Op.ToolBegin:
      case Op.ToolDelta:
      case Op.ToolEnd:
      case Op.Done: {
        const answer = this.#byHandle.get(frame[2]);
        if (answer === undefined) this.violations.push(`op ${frame[0]} for handle ${frame[2]}, never created`);
        else answer.onEvent(frame);
        if (answer !== undefined && frame[0] === Op.Done) this.ack(answer);
        break;
      }
      case Op.Cancelled:
        this.#byHandle.get(frame[2])?.onCancelled(frame[3]);
        break;
      case Op.Error:
        this.#byRequest.get(frame[2] ?? '')?.onRefused(frame[3]);
        break;
      default:
    }
    for (const check of this.#waiting) check();
  }

  #onCreated(frame: Frame<typeof Op.Created>): void {
    const [, lane, requestId, handle] = frame;
    const answer = this.#byRequest.get(requestId);
    if (answer === undefined || answer.lane !== lane) this.violations.push(`Created for ${requestId} on lane ${lane}`);
    if (handle !== this.#lastHandle + 1) this.violations.push(`handle ${handle} after ${this.#lastHandle}`);
    this.#lastHandle = handle;
    if (answer === undefined) return;
    this.#byHandle.set(handle, answer);
    answer.onCreated(frame);
  }
}
