// One lasting connection over many transports: hello and welcome, keep-alive, goaway, back-off. client.ts owns it
// and learns through the handlers. What must stay true: `onOpen` and `onDown` alternate, messages arrive only
// between them, and after `closed` nothing is called any more.
import { CloseCode, PROTOCOL_VERSION } from '../protocol/constants.ts';
import { decode, encode } from '../protocol/codec.ts';
import { errorFromWire, ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type { ClientMessage, ServerMessage, WelcomeInfo } from '../protocol/messages.ts';
import { ConnectionLostError, isFatalForConnection } from './errors.ts';
import { readServerMessage } from './inbound.ts';
import type { Transport, TransportFactory } from './transport.ts';

export type ConnectionState =
  /** Opening a transport and waiting for the welcome. `attempt` counts from 1 and restarts after an open. */
  | { state: 'connecting'; attempt: number }
  | { state: 'open'; welcome: WelcomeInfo }
  /** Trying again in `retryInMs`; requests wait. */
  | { state: 'waiting'; attempt: number; retryInMs: number; reason: string }
  /** For good: closed by the caller (error null) or refused by the server. */
  | { state: 'closed'; error: Error | null };

export interface ConnectionOptions {
  url: string;
  token?: string;
  clientName: string;
  /** Random name of this client, said in every hello: creates of one-offs are repeated under it. */
  instance: string;
  openTransport: TransportFactory;
  /** The first pause is a random moment within the first, milliseconds; each failure doubles that up to the second. */
  retryFirstMs: number;
  retryMaxMs: number;
  /** Silence after which the server is asked for a sign of life, and how long it may take to answer. */
  pingAfterMs: number;
  pongTimeoutMs: number;
  /** From starting a transport to its welcome. */
  openTimeoutMs: number;
}

export interface ConnectionHandlers {
  onState(state: ConnectionState): void;
  onOpen(): void;
  onMessage(message: ServerMessage): void;
  onDown(reason: string): void;
}

/** Close codes after which the same would only be refused again (protocol/README.md §7); all others are worth a try. */
const fatalCloseCodes: ReadonlySet<number> = new Set([
  CloseCode.unsupportedData,
  CloseCode.invalidFrame,
  CloseCode.policy,
]);
/** Our own close code for a server that breaks the protocol or falls silent. */
const PEER_BROKEN = 4000;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #handlers: ConnectionHandlers;
  #state: ConnectionState = { state: 'connecting', attempt: 1 };
  #transport: Transport | null = null;
  #attempt = 1;
  /** Pauses since the last welcome. */
  #numPauses = 0;
  #lastHeardMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #goaway: { code: string; retryAfterMs: number } | null = null;
  /** What the server said of the time to come back when it refused this connection. */
  #retryAfterMs = 0;
  #fatal: ServiceError | null = null;

  constructor(options: ConnectionOptions, handlers: ConnectionHandlers) {
    this.#options = options;
    this.#handlers = handlers;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Open and not asked to leave: new requests may be sent. */
  get isUsable(): boolean {
    return this.#state.state === 'open' && this.#goaway === null;
  }

  /** Starts the first attempt. Throws for a malformed URL. */
  start(): void {
    this.#open();
  }

  /** Sends now if open; otherwise the message is dropped, since whoever sent it hears of `onDown`. */
  send(message: ClientMessage): void {
    if (this.#state.state === 'open') this.#transport?.send(encode(message));
  }

  /** Ends a pause between attempts at once (the network came back, the user pressed a button). */
  retryNow(): void {
    if (this.#state.state === 'waiting') this.#open();
  }

  /** Ends the connection for good. Code 1000 tells the server that nobody will come back for the answers. */
  close(): void {
    this.#end(null);
  }

  #open(): void {
    clearTimeout(this.#timer);
    this.#goaway = null;
    this.#retryAfterMs = 0;
    this.#enter({ state: 'connecting', attempt: this.#attempt });
    const { openTransport, url, token, clientName: client, instance, openTimeoutMs } = this.#options;
    const transport: Transport = openTransport(url, {
      onOpen: () => {
        const hello = token === undefined ? { client, instance } : { client, instance, token };
        if (this.#transport === transport) transport.send(encode([Op.Hello, 0, PROTOCOL_VERSION, hello]));
      },
      onMessage: (bytes) => {
        if (this.#transport === transport) this.#receive(bytes);
      },
      onForeignMessage: () => {
        if (this.#transport === transport) this.#drop(PEER_BROKEN, 'the server sent a text frame');
      },
      onClose: (code, reason) => {
        if (this.#transport === transport) this.#closed(code, reason);
      },
    });
    this.#transport = transport;
    this.#timer = setTimeout(() => this.#drop(PEER_BROKEN, 'the server did not welcome us in time'), openTimeoutMs);
  }

  #receive(bytes: Uint8Array): void {
    this.#lastHeardMs = performance.now();
    let message: ServerMessage | null;
    try {
      message = readServerMessage(decode(bytes));
    } catch (error) {
      this.#drop(PEER_BROKEN, `the server sent a broken frame: ${(error as Error).message}`);
      return;
    }
    if (message === null) return;
    if (message[0] === Op.Error && message[2] === null) {
      const error = errorFromWire(message[3]);
      if (isFatalForConnection(error)) this.#fatal = error;
      this.#retryAfterMs = error.retryAfterMs ?? 0;
    }
    if (message[0] === Op.Welcome) {
      this.#welcomed(message[3]);
    } else if (message[0] === Op.Goaway) {
      this.#goaway = { code: message[2], retryAfterMs: Math.max(0, message[3]) };
    } else if (this.#state.state === 'open') {
      this.#handlers.onMessage(message);
    }
  }

  #welcomed(welcome: WelcomeInfo): void {
    if (!Array.isArray(welcome.models)) {
      this.#drop(PEER_BROKEN, 'the welcome names no models');
      return;
    }
    if (this.#state.state !== 'connecting') return;
    clearTimeout(this.#timer);
    this.#attempt = 0;
    this.#numPauses = 0;
    this.#keepAlive();
    this.#enter({ state: 'open', welcome });
    // A listener of the state may have closed the client.
    if (this.isUsable) this.#handlers.onOpen();
  }

  /** Browsers cannot send WebSocket pings, and a dead network closes nothing: ask after a silence. */
  #keepAlive(): void {
    const { pingAfterMs, pongTimeoutMs } = this.#options;
    const silentMs = performance.now() - this.#lastHeardMs;
    if (silentMs < pingAfterMs) {
      this.#timer = setTimeout(() => this.#keepAlive(), pingAfterMs - silentMs + 1);
      return;
    }
    const askedAtMs = performance.now();
    this.send([Op.Ping, 0, Math.round(askedAtMs)]);
    this.#timer = setTimeout(() => {
      if (this.#lastHeardMs < askedAtMs) this.#drop(PEER_BROKEN, 'the server stopped answering');
      else this.#keepAlive();
    }, pongTimeoutMs);
  }

  #drop(code: number, reason: string): void {
    const transport = this.#transport;
    this.#transport = null;
    transport?.close(code, reason.slice(0, 100));
    this.#down(reason);
  }

  #closed(code: number, reason: string): void {
    this.#transport = null;
    if (fatalCloseCodes.has(code) && this.#fatal === null) {
      this.#fatal = new ServiceError('not_allowed', reason || 'the server refused this connection');
    }
    const wasOpen = this.#state.state === 'open';
    const how = reason ? ` (${code}: ${reason})` : code === 1006 ? '' : ` (${code})`;
    this.#down(wasOpen ? `the connection was closed${how}` : `no server answers at ${this.#options.url}${how}`);
  }

  #down(reason: string): void {
    clearTimeout(this.#timer);
    if (this.#state.state === 'closed') return;
    if (this.#fatal !== null) {
      this.#end(this.#fatal);
      return;
    }
    const wasOpen = this.#state.state === 'open';
    this.#attempt++;
    const { retryFirstMs, retryMaxMs } = this.#options;
    const ceilingMs = Math.min(retryMaxMs, retryFirstMs * 2 ** Math.min(this.#numPauses++, 20));
    // Any moment up to the ceiling: clients of a restarted server must not return in one wave. Advice of the server is
    // taken as it is, since it gave each client a time of its own.
    const retryInMs = this.#goaway?.retryAfterMs ?? Math.round(this.#retryAfterMs + ceilingMs * Math.random());
    const why = this.#goaway === null ? reason : `the server is leaving (${this.#goaway.code})`;
    this.#timer = setTimeout(() => this.#open(), retryInMs);
    this.#enter({ state: 'waiting', attempt: this.#attempt, retryInMs, reason: why });
    if (wasOpen) this.#handlers.onDown(why);
  }

  #end(error: Error | null): void {
    if (this.#state.state === 'closed') return;
    clearTimeout(this.#timer);
    const wasOpen = this.#state.state === 'open';
    const transport = this.#transport;
    this.#transport = null;
    transport?.close(1000, 'done');
    this.#enter({ state: 'closed', error });
    if (wasOpen) this.#handlers.onDown(error?.message ?? 'the client was closed');
  }

  #enter(state: ConnectionState): void {
    this.#state = state;
    this.#handlers.onState(state);
  }
}

/** What everything pending is rejected with when the connection ends for good. */
export function closedError(state: ConnectionState): Error {
  if (state.state === 'closed' && state.error !== null) return state.error;
  return new ConnectionLostError('the client was closed', { isLocal: true });
}
