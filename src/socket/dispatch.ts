// The one switch over inbound ops. Each case does its work at once and answers; a ServiceError it throws is answered
// by the connection, on the lane and with the requestId of the message. A new op stops this file from compiling.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { Op } from '../../protocol/messages.ts';
import type { ClientMessage, CreateOptions, ResumeOptions } from '../../protocol/messages.ts';
import type { Response } from '../responses/response.ts';
import type { SessionRequest } from '../sessions/registry.ts';
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
      const info = host.sessions.open(connection.caller, options, sessionRequest(connection, requestId));
      // Who waited for a model to load knows it before the first session with it is open.
      connection.tellModels();
      outbox.control([Op.SessionOpened, lane, requestId, info]);
      return;
    }
    case Op.ListSessions:
      outbox.control([Op.Sessions, lane, message[2], host.sessions.list(connection.caller)]);
      return;
    case Op.History: {
      const [, , requestId, session, start, count] = message;
      const { messages, next } = host.sessions.history(connection.caller, session, start, count);
      outbox.control([Op.SessionHistory, lane, requestId, session, messages, next]);
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
      const request = sessionRequest(connection, requestId);
      const info = host.sessions.fork(connection.caller, session, numTurns, request);
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
      cancel(connection, lane, message[2], message[3]);
      return;
    case Op.Ack: {
      const [, , handle, seq] = message;
      if (outbox.ack(handle, seq)) return;
      throw new ServiceError('invalid_request', `Seq ${seq} was never sent on handle ${handle}.`, { param: 'seq' });
    }
    case Op.Ping:
      outbox.control([Op.Pong, lane, message[2]]);
      return;
    case Op.Resume:
      resume(connection, lane, message[2], message[3]);
      return;
    default:
      message satisfies never;
  }
}

/** A client without an instance has no other connection to repeat a request on. */
function sessionRequest({ instance }: Connection, requestId: string): SessionRequest | undefined {
  return instance === undefined ? undefined : { origin: instance, requestId };
}

function create(connection: Connection, lane: number, requestId: string, options: CreateOptions): void {
  const { outbox, host, caller } = connection;
  assertAllowed(connection);
  assertAccepting(connection);
  assertHandleFree(connection);
  const named = (supersede: number | string): Response[] => supersededBy(connection, lane, supersede);
  const from = { origin: connection.origin, class: connection.classOf(lane), named };
  const response = host.sessions.create(caller, requestId, options, from);
  const subscription = outbox.find(response) ?? outbox.watch(response, lane, options);
  const { id, log, sessionId } = response;
  outbox.control([Op.Created, lane, requestId, subscription.handle, id, log.epoch, sessionId]);
  outbox.announce(subscription);
}

/** Goes on with a response where this client left it, whatever connection it was on. */
function resume(connection: Connection, lane: number, requestId: string, options: ResumeOptions): void {
  const { outbox, host, caller } = connection;
  const { response: id, epoch, lastSeq } = options;
  assertAllowed(connection);
  const response = host.responses.get(id, caller);
  if (response === undefined) {
    host.onResumed('unknown');
    outbox.control([Op.Resumed, lane, requestId, false, null, id, null, null]);
    return;
  }
  const { log, sessionId } = response;
  const watched = outbox.find(response);
  if (watched !== undefined) {
    const message = `This connection watches that response already, as handle ${watched.handle}.`;
    throw new ServiceError('invalid_request', message, { param: 'response' });
  }
  // What was read from another log says nothing about this one: its reader starts over, and is told so.
  const isRecovered = epoch === undefined || epoch === log.epoch;
  const fromSeq = isRecovered ? lastSeq : 0;
  if (fromSeq > log.head) {
    const message = `lastSeq is ${lastSeq}, but the response has ${log.head} events.`;
    throw new ServiceError('invalid_request', message, { param: 'lastSeq' });
  }
  if (response.isEnded && fromSeq === log.head) {
    host.onResumed('complete');
    outbox.control([Op.Resumed, lane, requestId, true, null, id, log.epoch, sessionId]);
    return;
  }
  assertHandleFree(connection);
  host.onResumed(isRecovered ? 'live' : 'restarted');
  const subscription = outbox.watch(response, lane, options, fromSeq);
  outbox.control([Op.Resumed, lane, requestId, isRecovered, subscription.handle, id, log.epoch, sessionId]);
  outbox.announce(subscription);
}

/** What a create wants to replace: everything live on its lane, a handle of this connection, or a response by id. */
function supersededBy({ outbox, host, caller }: Connection, lane: number, supersede: number | string): Response[] {
  if (supersede === 'lane') {
    const onLane = [...outbox.live].filter((subscription) => subscription.lane === lane);
    return onLane.flatMap(({ response }) => response ?? []);
  }
  const id = typeof supersede === 'string' ? supersede : outbox.endedHandle(supersede)?.response;
  const live = typeof supersede === 'number' ? outbox.liveHandle(supersede)?.response : null;
  const response = live ?? (id === undefined ? undefined : host.responses.get(id, caller));
  if (response !== undefined) return [response];
  const message = `${supersede} names no response that is known here.`;
  throw new ServiceError('unknown_response', message, { param: 'supersede' });
}

function cancel(connection: Connection, lane: number, handle: number, heard: number | undefined): void {
  const { outbox, host, caller } = connection;
  const live = outbox.liveHandle(handle);
  const ended = outbox.endedHandle(handle);
  const response = live?.response ?? (ended && host.responses.get(ended.response, caller));
  if (!response) {
    throw new ServiceError('unknown_response', `No response has handle ${handle} here.`, { param: 'handle' });
  }
  if (heard !== undefined) host.sessions.hear(response, heard);
  if (live !== undefined) outbox.cancel(live, lane);
  else if (ended !== undefined) outbox.control([Op.Cancelled, lane, handle, ended.lastSeq]);
}

function assertHandleFree({ outbox }: Connection): void {
  if (outbox.numLive < Limits.handlesPerConnection) return;
  const message = `A connection watches at most ${Limits.handlesPerConnection} responses at once.`;
  throw new ServiceError('rate_limited', message, { retryAfterMs: 1000 });
}

function assertAllowed({ caller }: Connection): void {
  if (!caller.scopes.includes('chat')) throw new ServiceError('not_allowed', 'This key may not chat.');
}

/** New work is refused while draining. */
function assertAccepting({ refusal }: Connection): void {
  if (refusal !== null) throw refusal;
}
