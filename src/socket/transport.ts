// What a connection needs of a WebSocket. src/server.ts implements it over uWebSockets; tests in memory.

export interface Transport {
  /**
   * Sends one binary message; the bytes are taken before this returns. 1: written or buffered within limits,
   * 0: buffered, `drain` will follow, 2: dropped because the socket's own buffer is full.
   */
  send(bytes: Uint8Array): 0 | 1 | 2;
  /** Sends a close frame and closes. No send may follow. */
  end(code: number, reason: string): void;
  /** Bytes waiting in this process for the socket to take them. */
  getBufferedAmount(): number;
  /** Runs the callback and writes what it sent in one go, where the transport can. */
  cork?(callback: () => void): void;
}
