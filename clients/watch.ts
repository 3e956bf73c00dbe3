// One response as the client follows it over connections: its create, where it is, what is still to be heard of it.
// Types and errors of watches.ts and replacements.ts, which alone look inside.
import { ServiceError } from '../protocol/errors.ts';
import type { ClientMessage, CreateOptions } from '../protocol/messages.ts';
import { ConnectionLostError } from './errors.ts';
import type { ResponsePosition } from './errors.ts';
import type { ResponseFeed, ResponseStream } from './response.ts';
import type { View } from './send-options.ts';

/** What a create replaces: what runs on its lane, an answer of this client, or a response by its id. */
export type Supersede = 'lane' | ResponseStream | string;

/** What watches need of the client. */
export interface WatchHost {
  /** Sends now if connected; otherwise nothing happens. */
  send(message: ClientMessage): void;
  /** Connected. Resume, cancel and ack may be sent even when new work may not. */
  isOpen(): boolean;
  /** New work may be sent. */
  isUsable(): boolean;
  hasLane(lane: number): boolean;
}

/** Where a response is, as seen from here. */
export type Place =
  /** Its create has never left. */
  | { kind: 'unsent' }
  /** Create or Resume is on its way. */
  | { kind: 'asked'; requestId: string }
  | { kind: 'live'; handle: number }
  /** It lost its connection, or was told to come back later: create or Resume follows. */
  | { kind: 'cut' }
  /** Done is here; the handle counts on the connection that it was given on. */
  | { kind: 'ended'; handle: number | null; connection: number };

export interface Heard extends PromiseWithResolvers<void> {
  offset: number;
}

export interface Watch {
  /** Whose create it is: a session, or null for a one-off. */
  readonly owner: object | null;
  readonly response: ResponseStream;
  readonly feed: ResponseFeed;
  readonly view: View;
  lane: number;
  place: Place;
  /** The create as it was sent; null before, and for a response found by its position. */
  create: { requestId: string; options: CreateOptions } | null;
  supersede: Supersede | undefined;
  /** What its create replaces, to be taken back when the create is refused. */
  replaced: Watch[];
  heard: Heard | null;
  /** Settles when the server has named it, or never will. */
  readonly named: PromiseWithResolvers<void>;
  onCreated: (() => void) | null;
  readonly onHeard: ((offset: number) => void) | null;
}

export interface WatchOptions {
  owner?: object;
  view?: View;
  signal?: AbortSignal | undefined;
  supersede?: Supersede | undefined;
  /** Go on from there instead of creating. */
  from?: ResponsePosition;
  /** Called when the server has accepted it. */
  onCreated?: () => void;
  /** Called when the server has cut its history at what the user heard. */
  onHeard?: (offset: number) => void;
}

/** What a response that never left fails with; as a cancelled one it fulfils. */
export function notSent(): ConnectionLostError {
  return new ConnectionLostError('cancelled before it was sent', { isLocal: true });
}

export function unknownResponse(response: string): ServiceError {
  return new ServiceError('unknown_response', `the server has no response ${response}`);
}

/** Says what is here of an answer whose rest is not. */
export function lostRest(reason: string, { feed, response }: Watch, isLocal = false): ConnectionLostError {
  const position = feed.position();
  const { text } = response;
  const here = position === null ? 'nothing of it is here' : `${text.length} characters of it are here`;
  return new ConnectionLostError(`${reason}: ${here}`, { position, text, isLocal });
}
