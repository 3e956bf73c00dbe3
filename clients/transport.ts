// What the SDK needs of a transport: send bytes, close, and four events. `websocket.ts` is the one used by
// default; tests and other runtimes may bring their own. The connection never looks behind this interface.

/** Events of one transport. `onClose` is called exactly once, last, also when opening failed. */
export interface TransportEvents {
  onOpen(): void;
  /** The transport gives the buffer away: the receiver may keep it. */
  onMessage(bytes: Uint8Array): void;
  /** Something arrived that is not a binary message (the protocol has no text frames). */
  onForeignMessage(): void;
  /** code is the WebSocket close code; 1006 when there was none. */
  onClose(code: number, reason: string): void;
}

export interface Transport {
  /** Queues one binary message. Ignored when the transport is no longer open. */
  send(bytes: Uint8Array): void;
  /** Idempotent. code must be 1000 or 3000-4999, the only ones a browser allows. */
  close(code: number, reason: string): void;
}

/** Starts to open a transport. Must not throw for an unreachable server (that is `onClose`), only for a bad URL. */
export type TransportFactory = (url: string, events: TransportEvents) => Transport;
