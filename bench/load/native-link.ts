// One native WebSocket of a load generator: speaks protocol v1 with as little work per frame as possible, and acks as
// the protocol asks. The SDK in clients/ does more for its users than a measurement should pay for.
import { WebSocket } from 'ws';
import { decode, encode } from '../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import type {
  ClientMessage,
  CreateOptions,
  LatencyClass,
  ResumeOptions,
  ServerMessage,
  Timings,
  Usage,
  WireError,
} from '../../protocol/messages.ts';

const ACK_EVENTS = 64;

/** What happens to one response; times are those of `performance.now()` at the frame's arrival. */
export interface NativeObserver {
  onCreated?(handle: number, response: string, epoch: string): void;
  /** Answers `resume`. */
  onResumed?(recovered: boolean): void;
  /** `events`: how many log events the text covers. */
  onText(atMs: number, events: number, text: string): void;
  onDone(atMs: number, reason: string, usage: Usage, timings: Timings): void;
  onCancelled?(atMs: number): void;
  /** `error`: what the server said, when it was the server that refused or failed. */
  onError(message: string, error?: WireError): void;
}

interface Watch {
  lane: number;
  observer: NativeObserver;
  seq: number;
  acked: number;
}

export class NativeLink {
  readonly #socket: WebSocket;
  readonly #byRequest = new Map<string, { lane: number; observer: NativeObserver }>();
  readonly #byHandle = new Map<number, Watch>();
  readonly #opening = new Map<string, (session: string) => void>();
  #numRequests = 0;
  #isStalled = false;
  /** Frames and bytes received. */
  numFrames = 0;
  numBytes = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (data: Buffer) => this.#receive(data));
    socket.on('close', (code) => this.#fail(`closed with ${code}`));
    socket.on('error', (error) => this.#fail(error.message));
  }

  /** `key`: of the API, where one is needed. Resolves after Welcome. Rejects when the socket ends before. */
  static open(url: string, key?: string): Promise<NativeLink> {
    return new Promise((resolve, reject) => {
      const headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
      const socket = new WebSocket(url, SUBPROTOCOL, { perMessageDeflate: false, headers });
      socket.once('error', reject);
      socket.once('close', (code) => reject(new Error(`closed with ${code} before welcome`)));
      socket.once('open', () => socket.send(encode([Op.Hello, 0, PROTOCOL_VERSION, { client: 'bench' }])));
      socket.once('message', (data: Buffer) => {
        const message = decode(data) as ServerMessage;
        socket.removeAllListeners();
        if (message[0] === Op.Welcome) resolve(new NativeLink(socket));
        else reject(new Error(`the server greeted with op ${message[0]}`));
      });
    });
  }

  openLane(lane: number, latencyClass: LatencyClass): void {
    this.#send([Op.OpenLane, lane, { class: latencyClass }]);
  }

  create(lane: number, options: CreateOptions, observer: NativeObserver): void {
    const requestId = `r${++this.#numRequests}`;
    this.#byRequest.set(requestId, { lane, observer });
    this.#send([Op.Create, lane, requestId, options]);
  }

  /** Opens a new session; its id. */
  openSession(lane: number): Promise<string> {
    const requestId = `r${++this.#numRequests}`;
    return new Promise((resolve, reject) => {
      this.#opening.set(requestId, resolve);
      const observer: NativeObserver = { onText() {}, onDone() {}, onError: (message) => reject(new Error(message)) };
      this.#byRequest.set(requestId, { lane, observer });
      this.#send([Op.OpenSession, lane, requestId, {}]);
    });
  }

  /** Goes on with a response of another connection; `onResumed` comes first. */
  resume(lane: number, options: ResumeOptions, observer: NativeObserver): void {
    const requestId = `r${++this.#numRequests}`;
    this.#byRequest.set(requestId, { lane, observer });
    this.#send([Op.Resume, lane, requestId, options]);
  }

  /** From now on nothing is acknowledged; `pauses`: nothing is read either. */
  stall(pauses: boolean): void {
    this.#isStalled = true;
    if (pauses) this.#socket.pause();
  }

  cancel(lane: number, handle: number): void {
    this.#send([Op.Cancel, lane, handle]);
  }

  /** Ends the connection as done. */
  close(): void {
    this.#byHandle.clear();
    this.#byRequest.clear();
    this.#socket.close(1000);
  }

  /** The network is gone: nothing is said, and observers hear nothing more. */
  drop(): void {
    this.#byHandle.clear();
    this.#byRequest.clear();
    this.#socket.terminate();
  }

  #send(message: ClientMessage): void {
    this.#socket.send(encode(message));
  }

  #receive(data: Buffer): void {
    const now = performance.now();
    this.numFrames++;
    this.numBytes += data.length;
    const message = decode(data) as ServerMessage;
    switch (message[0]) {
      case Op.Deltas:
        for (const [handle, seq, text] of message[2]) this.#onText(handle, seq, text, now);
        return;
      case Op.Created: {
        const [, lane, requestId, handle, response, epoch] = message;
        const request = this.#byRequest.get(requestId);
        if (request === undefined) return;
        this.#byRequest.delete(requestId);
        this.#byHandle.set(handle, { lane, observer: request.observer, seq: 0, acked: 0 });
        request.observer.onCreated?.(handle, response, epoch);
        return;
      }
      case Op.Resumed: {
        const [, lane, requestId, recovered, handle] = message;
        const request = this.#byRequest.get(requestId);
        if (request === undefined) return;
        this.#byRequest.delete(requestId);
        if (handle !== null) this.#byHandle.set(handle, { lane, observer: request.observer, seq: 0, acked: 0 });
        request.observer.onResumed?.(recovered);
        return;
      }
      case Op.SessionOpened: {
        const [, , requestId, { session }] = message;
        this.#byRequest.delete(requestId);
        this.#opening.get(requestId)?.(session);
        this.#opening.delete(requestId);
        return;
      }
      case Op.Done: {
        const [, lane, handle, seq, reason, usage, timings, error] = message;
        const watch = this.#byHandle.get(handle);
        if (watch === undefined) return;
        this.#send([Op.Ack, lane, handle, seq]);
        if (error !== null) watch.observer.onError(`${error.code}: ${error.message}`, error);
        else watch.observer.onDone(now, reason, usage, timings);
        if (reason !== 'cancelled') this.#byHandle.delete(handle);
        return;
      }
      case Op.Cancelled: {
        const watch = this.#byHandle.get(message[2]);
        this.#byHandle.delete(message[2]);
        watch?.observer.onCancelled?.(now);
        return;
      }
      case Op.Error: {
        const [, , requestId, error] = message;
        const request = this.#byRequest.get(requestId ?? '');
        this.#byRequest.delete(requestId ?? '');
        if (request) request.observer.onError(`${error.code}: ${error.message}`, error);
        else this.#fail(`${error.code}: ${error.message}`);
        return;
      }
      default:
      // Lanes, pongs and the rest need no answer.
    }
  }

  #onText(handle: number, seq: number, text: string, now: number): void {
    const watch = this.#byHandle.get(handle);
    if (watch === undefined) return;
    watch.observer.onText(now, seq - watch.seq, text);
    watch.seq = seq;
    if (this.#isStalled || seq - watch.acked < ACK_EVENTS) return;
    watch.acked = seq;
    this.#send([Op.Ack, watch.lane, handle, seq]);
  }

  #fail(reason: string): void {
    const observers = [...this.#byRequest.values(), ...this.#byHandle.values()].map(({ observer }) => observer);
    this.#byRequest.clear();
    this.#byHandle.clear();
    for (const observer of observers) observer.onError(reason);
  }
}
