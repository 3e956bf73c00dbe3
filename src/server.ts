// The only door to uWebSockets.js: listens, counts connections, upgrades sockets and hands every HTTP request to one
// function. Its rules that kill the process when broken live here: a route must answer or attach its abort handler
// before anything can throw, buffers die when a handler returns, a closed socket throws when touched.
import { App, SSLApp, us_listen_socket_close, us_socket_local_port } from 'uWebSockets.js';
import type { HttpRequest, HttpResponse, TemplatedApp, us_listen_socket, us_socket } from 'uWebSockets.js';
import type { us_socket_context_t, WebSocket } from 'uWebSockets.js';
import { STATUS_CODES } from 'node:http';
import { isIP } from 'node:net';
import { CloseCode, Limits, SUBPROTOCOL } from '../protocol/constants.ts';
import { ServiceError } from '../protocol/errors.ts';
import { errorBody, errorHeaders, toServiceError } from './http/errors.ts';
import { Exchange } from './http/exchange.ts';
import type { Log } from './log.ts';
import type { Transport } from './socket/transport.ts';

/** Handlers of the connections on one WebSocket path. C is whatever `open` returns for a connection. */
export interface SocketEndpoint<U, C> {
  /** Before the upgrade: returns what `open` gets. Throws ServiceError to refuse with its HTTP status. */
  admit(headers: { origin: string; host: string; authorization: string }): U;
  open(transport: Transport, admitted: U): C;
  /** The bytes are only valid during the call. */
  message(connection: C, bytes: ArrayBuffer, isBinary: boolean): void;
  drain(connection: C): void;
  /** The socket is gone; the transport must not be used any more. */
  close(connection: C, code: number): void;
}

export interface ServerOptions<U, C> {
  host: string;
  /** 0 takes any free port. */
  port: number;
  /** PEM file paths; both '' for plain HTTP. */
  tlsCert: string;
  tlsKey: string;
  maxConnections: number;
  log: Log;
  /** Answers a request; must never throw or reject. */
  onRequest(exchange: Exchange): void | Promise<void>;
  onConnectionRefused(): void;
  stream: SocketEndpoint<U, C>;
}

export interface Server {
  readonly port: number;
  /** For people: http://127.0.0.1:8080 */
  readonly url: string;
  connections(): { http: number; websocket: number };
  /** Accepts no new connections; open ones go on. Idempotent. */
  stopListening(): void;
  /** Also cuts every open connection. End WebSockets with a code of their own first. Idempotent. */
  close(): void;
}

/** The address cannot be listened on. The message is one line for the person who started the server. */
export class ListenError extends Error {
  override readonly name = 'ListenError';
}

/** LIBUS_LISTEN_EXCLUSIVE_PORT: without it two servers share a port silently. The package exports it as a type only. */
const EXCLUSIVE_PORT = 1;
/** CompressOptions DISABLED, also exported as a type only. Compression cost more than it saved at 16 bytes a delta. */
const NO_COMPRESSION = 0;
/** Sockets beyond the limit that are still answered 503; more are closed unheard, before descriptors run out. */
const REFUSAL_MARGIN = 100;
const REFUSED_RETRY_MS = 5000;

/** `listen` with host, port and options at once, which the type declarations miss. */
type Listen = (
  host: string,
  port: number,
  options: number,
  callback: (socket: us_listen_socket | false) => void,
) => void;

interface Seat<U, C> {
  admitted: U;
  connection: C | null;
  isClosed: boolean;
}

/** Listens before it returns. Throws ListenError when the port is taken or the address is not ours. */
export function startServer<U, C>(options: ServerOptions<U, C>): Server {
  const isTls = options.tlsCert !== '';
  const app = isTls ? SSLApp({ cert_file_name: options.tlsCert, key_file_name: options.tlsKey }) : App();
  let numHttp = 0;
  let numWebsocket = 0;
  const isFull = (): boolean => numHttp + numWebsocket > options.maxConnections;

  app.filter((res, change) => {
    numHttp += change;
    if (change > 0 && numHttp + numWebsocket > options.maxConnections + REFUSAL_MARGIN) {
      options.onConnectionRefused();
      res.close();
    }
  });
  addStream(app, options, {
    isFull,
    // The filter counted the socket when it connected and is not told when an upgraded one goes.
    onOpen: () => {
      numHttp--;
      numWebsocket++;
    },
    onClose: () => {
      numWebsocket--;
    },
  });
  app.any('/*', (res, req) => {
    // The constructor attaches the abort handler first; from there on an error cannot take the process along.
    const exchange = new Exchange(res, req);
    if (isFull()) {
      options.onConnectionRefused();
      exchange.closeAfterwards();
      exchange.sendError(tooManyConnections());
      return;
    }
    void options.onRequest(exchange);
  });

  let listening: us_listen_socket | null = null;
  // The callback runs before listen returns.
  (app.listen as unknown as Listen)(options.host, options.port, EXCLUSIVE_PORT, (socket) => {
    listening = socket === false ? null : socket;
  });
  if (!listening) {
    app.close();
    throw new ListenError(
      `cannot listen on ${options.host} port ${options.port}: the port is taken, or the address is not of this machine`,
    );
  }
  const port = us_socket_local_port(listening as unknown as us_socket);
  let isClosed = false;
  const stopListening = (): void => {
    if (listening) us_listen_socket_close(listening);
    listening = null;
  };
  return {
    port,
    url: `${isTls ? 'https' : 'http'}://${isIP(options.host) === 6 ? `[${options.host}]` : options.host}:${port}`,
    connections: () => ({ http: numHttp, websocket: numWebsocket }),
    stopListening,
    close() {
      stopListening();
      if (!isClosed) app.close();
      isClosed = true;
    },
  };
}

function tooManyConnections(): ServiceError {
  return new ServiceError('too_many_connections', 'The server has as many connections as it takes.', {
    retryAfterMs: REFUSED_RETRY_MS,
  });
}

function addStream<U, C>(
  app: TemplatedApp,
  options: ServerOptions<U, C>,
  counter: { isFull(): boolean; onOpen(): void; onClose(): void },
): void {
  const { stream, log } = options;
  /** A bug in a handler costs its own connection, not the process. */
  const guard = (ws: WebSocket<Seat<U, C>>, handle: () => void): void => {
    try {
      handle();
    } catch (error) {
      log.error({ err: error }, 'a connection failed because of a bug');
      if (!ws.getUserData().isClosed) ws.end(CloseCode.internal, 'internal');
    }
  };
  app.ws<Seat<U, C>>('/v1/stream', {
    compression: NO_COMPRESSION,
    maxPayloadLength: Limits.transportBytes,
    // 0 would be no limit. The outbox stops long before; reaching this drops the frame, and with it the connection.
    maxBackpressure: Limits.transportBytes,
    idleTimeout: Limits.idleTimeoutSeconds,
    sendPingsAutomatically: true,
    upgrade(res, req, context) {
      try {
        if (counter.isFull()) {
          options.onConnectionRefused();
          throw tooManyConnections();
        }
        upgrade(res, req, context, stream);
      } catch (error) {
        refuseUpgrade(res, error, log);
      }
    },
    open(ws) {
      counter.onOpen();
      guard(ws, () => {
        const seat = ws.getUserData();
        seat.connection = stream.open(transportOf(ws, seat), seat.admitted);
      });
    },
    message(ws, bytes, isBinary) {
      const { connection } = ws.getUserData();
      if (connection !== null) guard(ws, () => stream.message(connection, bytes, isBinary));
    },
    drain(ws) {
      const { connection } = ws.getUserData();
      if (connection !== null) guard(ws, () => stream.drain(connection));
    },
    close(ws, code) {
      counter.onClose();
      const seat = ws.getUserData();
      seat.isClosed = true;
      if (seat.connection !== null) guard(ws, () => stream.close(seat.connection!, code));
    },
  });
}

function upgrade<U, C>(
  res: HttpResponse,
  req: HttpRequest,
  context: us_socket_context_t,
  stream: SocketEndpoint<U, C>,
): void {
  const admitted = stream.admit({
    origin: req.getHeader('origin'),
    host: req.getHeader('host'),
    authorization: req.getHeader('authorization'),
  });
  const offered = req.getHeader('sec-websocket-protocol').split(',');
  const isOurs = offered.some((name) => name.trim() === SUBPROTOCOL);
  const seat: Seat<U, C> = { admitted, connection: null, isClosed: false };
  // A client that offered nothing must not be answered with a subprotocol.
  res.upgrade(seat, req.getHeader('sec-websocket-key'), isOurs ? SUBPROTOCOL : '', '', context);
}

/** Answers synchronously, so no abort handler is needed. */
function refuseUpgrade(res: HttpResponse, thrown: unknown, log: Log): void {
  if (!(thrown instanceof ServiceError)) log.error({ err: thrown }, 'an upgrade failed because of a bug');
  const error = toServiceError(thrown);
  res.cork(() => {
    const { status } = error.row;
    // The reason phrase may be empty but not absent (RFC 9112 §4): strict clients would not read the status.
    res
      .writeStatus(`${status} ${STATUS_CODES[status] ?? 'Unknown'}`)
      .writeHeader('content-type', 'application/json; charset=utf-8');
    for (const [name, value] of errorHeaders(error)) res.writeHeader(name, value);
    res.end(JSON.stringify(errorBody(error)), true);
  });
}

/** Every use is checked against the close: a closed uWebSockets socket throws. */
function transportOf<U, C>(ws: WebSocket<Seat<U, C>>, seat: Seat<U, C>): Transport {
  return {
    send: (bytes) => (seat.isClosed ? 2 : (ws.send(bytes, true) as 0 | 1 | 2)),
    end(code, reason) {
      if (!seat.isClosed) ws.end(code, reason);
    },
    getBufferedAmount: () => (seat.isClosed ? 0 : ws.getBufferedAmount()),
    cork(callback) {
      if (seat.isClosed) callback();
      else ws.cork(callback);
    },
  };
}
