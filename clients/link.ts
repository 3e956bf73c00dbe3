// What a session sees of its client: its own lane, requests on it, and nothing else. client.ts makes one per session.
import type { ClientMessage, CreateOptions, ServerMessage } from '../protocol/messages.ts';
import type { ResponseFeed, ResponseStream } from './response.ts';
import type { ClientSessionOptions, Session } from './session.ts';

export interface Link {
  isUsable(): boolean;
  /** Fulfils when requests may be sent; rejects once the client is closed. */
  whenUsable(): Promise<void>;
  /** Sends a request on this lane now. Rejects with ConnectionLostError when the connection drops before the answer. */
  request(build: (lane: number, requestId: string) => ClientMessage): Promise<ServerMessage>;
  /** Makes a response at once; its create leaves when `begin` calls back with options, or fails with an error. */
  start(
    begin: (send: (options: CreateOptions | Error) => void, feed: ResponseFeed) => void,
    signal?: AbortSignal,
  ): ResponseStream;
  /** A model that was loading is ready: gets its description, unless that would cut off an answer. */
  learnModel(model: string): void;
  /**
   * Cancels what still runs on the server of answers that were lost with a connection (`active` are response ids):
   * nobody reads them any more, and they keep the session busy. Fulfils when they have ended.
   */
  endLost(active: readonly string[]): Promise<void>;
  /** Another session of the same client and class. */
  openSession(options: ClientSessionOptions): Session;
  /** Gives the lane back and forgets the session. */
  release(): void;
}
