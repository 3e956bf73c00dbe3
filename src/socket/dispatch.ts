// The one switch over inbound ops. Each case does its work at once and answers; a ServiceError it throws is answered
// by the connection, on the lane and with the requestId of the message. A new op stops this file from compiling.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage, CreateOptions } from '../../protocol/messages.ts';
import type { Connection } from './connection.ts';

/** Handles one valid message of an open connection (or Hello of a greeting one). Throws ServiceError. */
export function dispatch(connection: Connection, message: ClientMessage): void {
  const { outbox, host } = connection;
  const [op, lane] = message;
  // Acks of a lane just closed are still under way; opening and closing check the lane themselves.
  const isLaneChecked = op !== Op.Hello && op !== Op.OpenLane && op !== Op.CloseLane && op !== Op.Ack;
  if (isLaneChecked) connection.assertLane(lane);
  switch (message[0]) {
    case Op.Hello:
      connection.greet(message[2], message[3]);
      return;
    case Op.OpenLane:
      connection.openLane(lane, message[2]);
      outbox.control([Op.LaneOpened, lane]);
      return;
    case Op.CloseLane:
      connection.closeLane(lane);
      outbox.control([Op.LaneClosed, lane]);
      for (const subscription of outbox.live) if (subscription.lane === lane) subscription.response?.cancel();
      return;
    case Op.OpenSession: {
      const [, , requestId, options] = message;
      assertAllowed(connection);
      if (options.session === undefined) assertAccepting(connection);
      outbox.control([Op.SessionOpened, lane, requestId, host.sessions.open(connection.caller, options)]);
      return;
    }
    case Op.ListSessions:
      outbox.control([Op.Sessions, lane, message[2], host.sessions.list(connection.caller)]);
      return;
    case Op.History: {
      const [, , requestId, session] = message;
      const messages = host.sessions.history(connection.caller, session);
      outbox.control([Op.SessionHistory, lane, requestId, session, messages]);
      return;
    }
    case Op.Rollback: {
      const [, , requestId, session, numTurns] = message;
      const info = host.sessions.rollback(connection.caller, session, numTurns);
      outbox.control([Op.SessionOpened, lane, requestId, info]);
      return;
    }
    case Op.Fork: {
      const [, , requestId, session, numTurns] = message;
      assertAccepting(connection);
      const info = host.sessions.fork(connection.caller, session, numTurns);
      outbox.control([Op.SessionOpened, lane, requestId, info]);
      return;
    }
    case Op.CloseSession: {
      const [, , requestId, session] = message;
      host.sessions.close(connection.caller, session);
      outbox.control([Op.SessionClosed, lane, requestId, session]);
      return;
    }
    case Op.Create:
      create(connection, lane, message[2], message[3]);
      return;
    case Op.Cancel:
      cancel(connection, lane, message[2]);
      return;
    case Op.Ack: {
      const [, , handle, seq] = message;
      if (outbox.ack(handle, seq)) return;
      throw new ServiceError('invalid_request', `Seq ${seq} was never sent on handle ${handle}.`, { param: 'seq' });
    }
    case Op.Ping:
      outbox.control([Op.Pong, lane, message[2]]);
      return;
    default:
      message satisfies never;
  }
}

function create(connection: Connection, lane: number, requestId: string, options: CreateOptions): void {
  const { outbox, host, caller } = connection;
  assertAllowed(connection);
  assertAccepting(connection);
  if (outbox.numLive >= Limits.handlesPerConnection) {
    const message = `A connection watches at most ${Limits.handlesPerConnection} responses at once.`;
    throw new ServiceError('rate_limited', message, { retryAfterMs: 1000 });
  }
  const from = { origin: connection.id, class: connection.classOf(lane) };
  const response = host.sessions.create(caller, requestId, options, from);
  const { handle } = outbox.find(response) ?? outbox.watch(response, lane);
  outbox.control([Op.Created, lane, requestId, handle, response.id, response.log.epoch, response.sessionId]);
}

function cancel(connection: Connection, lane: number, handle: number): void {
  const { outbox, host, caller } = connection;
  const live = outbox.liveHandle(handle);
  if (live !== undefined) {
    outbox.cancel(live, lane);
    return;
  }
  const ended = outbox.endedHandle(handle);
  if (ended === undefined || host.responses.get(ended.response, caller) === undefined) {
    throw new ServiceError('unknown_response', `No response has handle ${handle} here.`, { param: 'handle' });
  }
  outbox.control([Op.Cancelled, lane, handle, ended.lastSeq]);
}

function assertAllowed({ caller }: Connection): void {
  if (!caller.scopes.includes('chat')) throw new ServiceError('not_allowed', 'This key may not chat.');
}

/** New work is refused while draining. */
function assertAccepting({ host }: Connection): void {
  if (host.refusal !== null) throw host.refusal;
}
