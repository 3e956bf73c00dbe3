// What a session sees of its client: its own lane, requests on it, and nothing else. client.ts makes one per session.
import type { ClientMessage, CreateOptions, ServerMessage } from '../protocol/messages.ts';
import type { ResponseStream } from './response.ts';
import type { ClientSessionOptions, Session } from './session.ts';
import type { View } from './send-options.ts';
import type { Supersede } from './watch.ts';

export interface StartOptions {
  view: View;
  supersede: Supersede | undefined;
  signal: AbortSignal | undefined;
  /** Called when the server has accepted the create. */
  onCreated: () => void;
  /** Called when the server has cut its history at what the user heard. */
  onHeard: (offset: number) => void;
}

export interface Link {
  isUsable(): boolean;
  /** Fulfils when requests may be sent; rejects once the client is closed. */
  whenUsable(): Promise<void>;
  /**
   * Sends a request on this lane now. Rejects with ConnectionLostError when the connection drops before the answer; sent
   * again with the same `requestId` (default: a new one), it is the same request for the server.
   */
  request(build: (lane: number, requestId: string) => ClientMessage, requestId?: string): Promise<ServerMessage>;
  /**
   * Makes a response at once; its create leaves when `begin` calls back with options, or fails with an error. `ready`
   * has to be awaited before: what the create replaces must have its name.
   */
  start(
    begin: (send: (options: CreateOptions | Error) => void, ready: () => Promise<void>) => void,
    options: StartOptions,
  ): ResponseStream;
  /** The session is open under this id: creates that were sent and not answered are repeated there. */
  repeat(session: string): void;
  /** The session cannot be opened: those creates fail. */
  abandon(error: Error): void;
  /** Another session of the same client and class. */
  openSession(options: ClientSessionOptions): Session;
  /** Gives the lane back and forgets the session. */
  release(): void;
}
