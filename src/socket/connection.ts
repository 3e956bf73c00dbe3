// One native socket from upgrade to close: greeting, lanes, and bytes → message → dispatch. It knows a Transport, not
// uWebSockets. Whatever a frame does wrong is answered here: an error of connection scope ends the connection, any
// other only its request. Used by SocketServer; dispatch.ts calls back for hello and lanes.
import { randomBytes } from 'node:crypto';
import { decode, readFrameHead } from '../../protocol/codec.ts';
import { CloseCode, Limits, PROTOCOL_VERSION } from '../../protocol/constants.ts';
import { errorTable, ServiceError, toWireError } from '../../protocol/errors.ts';
import type { ErrorCode } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage, HelloOptions, LaneOptions, LatencyClass } from '../../protocol/messages.ts';
import { parseClientMessage } from '../../protocol/validate.ts';
import type { Caller } from '../auth/caller.ts';
import type { Responses } from '../responses/registry.ts';
import type { Sessions } from '../sessions/registry.ts';
import { dispatch } from './dispatch.ts';
import type { ModelList } from './model-list.ts';
import { Outbox } from './outbox.ts';
import type { OutboxHost } from './outbox.ts';
import type { Transport } from './transport.ts';

/** What a client's Resume came to: it goes on, it had everything, it starts over, or the response is not there. */
export type ResumeResult = 'live' | 'complete' | 'restarted' | 'unknown';

/** What connections share. */
export interface ConnectionHost extends OutboxHost {
  readonly sessions: Sessions;
  readonly responses: Responses;
  /** name/version, for Welcome. */
  readonly serverName: string;
  readonly models: ModelList;
  /** Where settings differ from protocol/constants.ts. */
  limits: Partial<Record<keyof typeof Limits, number>>;
  /** Throws ServiceError `unauthorized` or `expired_token`. */
  authenticate(token: string | undefined): Caller;
  onHello(connection: Connection): void;
  onResumed(result: ResumeResult): void;
  /** A bug of ours; the client was told `internal`. */
  onInternalError(error: unknown): void;
  /** The connection ended itself, with this close reason; called before the transport is told. */
  onEnded(connection: Connection, reason: string): void;
}

type State =
  | { kind: 'greeting'; sinceMs: number; caller: Caller | null }
  | { kind: 'open'; caller: Caller; lanes: Map<number, LatencyClass | undefined> }
  | { kind: 'closed' };

export class Connection {
  /** For support and logs. */
  readonly id = `conn_${randomBytes(12).toString('hex')}`;
  readonly host: ConnectionHost;
  readonly outbox: Outbox;
  /** Where requestIds of one-offs are unique: this connection, or the client instance that hello named. */
  origin: string = this.id;
  /** Where the requestIds of OpenSession and Fork are remembered; undefined unless hello named an instance. */
  instance: string | undefined;
  /** What the client called itself in hello. */
  client = '';
  /** What new work is refused with: set by goaway, with the same advice. */
  refusal: ServiceError | null = null;
  readonly #transport: Transport;
  #state: State;
  /** Version of the list of models that the client has. */
  #modelsVersion = 0;
  /** Final refusals since then, within a second. */
  #numErrors = 0;
  #errorsSinceMs = 0;

  /** `caller`: who the upgrade's headers named, null when they named nobody. */
  constructor(transport: Transport, caller: Caller | null, host: ConnectionHost) {
    this.#transport = transport;
    this.host = host;
    this.outbox = new Outbox(transport, host);
    this.#state = { kind: 'greeting', sinceMs: host.now(), caller };
  }

  get isOpen(): boolean {
    return this.#state.kind === 'open';
  }

  get isClosed(): boolean {
    return this.#state.kind === 'closed';
  }

  /** Since when it waits for hello, epoch milliseconds; null when that is over. */
  get greetingSinceMs(): number | null {
    return this.#state.kind === 'greeting' ? this.#state.sinceMs : null;
  }

  /** Who talks here. Only while open. */
  get caller(): Caller {
    return this.#open.caller;
  }

  /** One inbound WebSocket message. Everything kept of it is copied before this returns. */
  receive(data: ArrayBuffer, isBinary: boolean): void {
    if (this.isClosed) return;
    if (!isBinary) {
      this.fail(new ServiceError('invalid_frame', 'Text frames carry nothing here.'), CloseCode.unsupportedData);
      return;
    }
    const bytes = new Uint8Array(data);
    try {
      if (bytes.length > Limits.messageBytes) this.#refuseLarge(bytes);
      else this.#handle(decode(bytes));
    } catch (error) {
      this.#refuse(error, 0, null);
    }
  }

  /** Sends the error on lane 0 and closes with its close code. */
  fail(error: ServiceError, closeCode?: number): void {
    if (this.isClosed) return;
    this.outbox.control([Op.Error, 0, null, toWireError(error)]);
    this.end(closeCode ?? error.row.close ?? CloseCode.internal, error.code);
  }

  /** The server will close: new work is refused from now on, with the advice that the client is told here. */
  goaway(code: ErrorCode, retryAfterMs: number): void {
    this.refusal = new ServiceError(code, 'The server is shutting down; reconnect later.', { retryAfterMs });
    this.outbox.control([Op.Goaway, 0, code, retryAfterMs]);
  }

  /** Closes from our side. Idempotent. */
  end(code: number, reason: string): void {
    if (this.isClosed) return;
    this.#state = { kind: 'closed' };
    this.host.onEnded(this, reason);
    this.#transport.end(code, reason);
  }

  /** The transport is gone. */
  markClosed(): void {
    this.#state = { kind: 'closed' };
  }

  /** Hello: who calls, which version. Throws errors of connection scope, and `invalid_request` the second time. */
  greet(version: number, options: HelloOptions): void {
    if (this.#state.kind !== 'greeting') {
      throw new ServiceError('invalid_request', 'This connection has said hello already.');
    }
    if (version < 1) throw new ServiceError('version_unsupported', `This server speaks version ${PROTOCOL_VERSION}.`);
    const known = options.token === undefined ? this.#state.caller : null;
    const caller = known ?? this.host.authenticate(options.token);
    this.client = options.client ?? '';
    this.instance = options.instance;
    if (options.instance !== undefined) this.origin = `instance ${options.instance}`;
    this.#state = { kind: 'open', caller, lanes: new Map() };
    const { serverName: server, models, limits } = this.host;
    const info = { server, connection: this.id, models: models.models, limits: { ...Limits, ...limits } };
    this.#modelsVersion = models.version;
    this.outbox.control([Op.Welcome, 0, Math.min(version, PROTOCOL_VERSION), info]);
    this.host.onHello(this);
  }

  /** Tells an open connection the models, unless the client has the newest list. */
  tellModels(): void {
    const { models } = this.host;
    if (!this.isOpen || this.#modelsVersion === models.version) return;
    this.#modelsVersion = models.version;
    this.outbox.sendFrame(models.frame);
  }

  openLane(lane: number, options: LaneOptions): void {
    const { lanes } = this.#open;
    if (lanes.has(lane)) throw laneError(`Lane ${lane} is open already.`);
    if (lanes.size >= Limits.lanesPerConnection) {
      throw new ServiceError('too_many_lanes', `A connection has at most ${Limits.lanesPerConnection} lanes.`);
    }
    lanes.set(lane, options.class);
  }

  closeLane(lane: number): void {
    this.assertLane(lane);
    this.#open.lanes.delete(lane);
  }

  assertLane(lane: number): void {
    if (lane !== 0 && !this.#open.lanes.has(lane)) throw laneError(`Lane ${lane} is not open.`);
  }

  /** Default class of the responses of this lane. */
  classOf(lane: number): LatencyClass {
    const { lanes, caller } = this.#open;
    return lanes.get(lane) ?? caller.class;
  }

  get #open(): Extract<State, { kind: 'open' }> {
    if (this.#state.kind !== 'open') throw new Error(`${this.id} is ${this.#state.kind}, not open`);
    return this.#state;
  }

  #handle(value: unknown): void {
    const parsed = parseClientMessage(value);
    const isHello = Array.isArray(value) && value[0] === Op.Hello;
    if (this.#state.kind === 'greeting' && !isHello) {
      this.fail(new ServiceError('invalid_frame', 'The first frame must be hello.'));
      return;
    }
    if (!parsed.ok) {
      this.#refuse(parsed.error, parsed.lane, parsed.requestId);
      return;
    }
    try {
      dispatch(this, parsed.message);
    } catch (error) {
      this.#refuse(error, parsed.message[1], requestIdOf(parsed.message));
    }
  }

  #refuse(error: unknown, lane: number, requestId: string | null): void {
    if (!(error instanceof ServiceError)) this.host.onInternalError(error);
    const known =
      error instanceof ServiceError ? error : new ServiceError('internal', 'The server failed.', { cause: error });
    if (errorTable[known.code].scope === 'connection') this.fail(known);
    else if (!known.row.retryable && this.#isFlooding()) {
      const message = `More than ${Limits.errorsPerSecond} frames were refused within a second.`;
      this.fail(new ServiceError('too_many_errors', message));
    } else this.outbox.control([Op.Error, lane, requestId, toWireError(known)]);
  }

  /** Counts a refusal. True above the limit: refusing costs much more than sending, and everybody pays for it. */
  #isFlooding(): boolean {
    const now = this.host.now();
    if (now - this.#errorsSinceMs >= 1000) {
      this.#errorsSinceMs = now;
      this.#numErrors = 0;
    }
    return ++this.#numErrors > Limits.errorsPerSecond;
  }

  #refuseLarge(bytes: Uint8Array): void {
    const head = readFrameHead(bytes);
    if (head === null || this.#state.kind === 'greeting') {
      this.fail(new ServiceError('invalid_frame', 'Neither a frame nor of an allowed size.'));
      return;
    }
    const message = `A frame has at most ${Limits.messageBytes} bytes; this one has ${bytes.length}.`;
    this.#refuse(new ServiceError('too_large', message), head.lane, head.requestId);
  }
}

function laneError(message: string): ServiceError {
  return new ServiceError('invalid_request', message, { param: 'lane' });
}

/** The requestId to answer with, for messages that have one. */
function requestIdOf(message: ClientMessage): string | null {
  switch (message[0]) {
    case Op.OpenSession:
    case Op.ListSessions:
    case Op.History:
    case Op.Rollback:
    case Op.Fork:
    case Op.CloseSession:
    case Op.Create:
    case Op.Resume:
      return message[2];
    default:
      return null;
  }
}
