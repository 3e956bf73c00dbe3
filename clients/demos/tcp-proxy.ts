// A TCP proxy on 127.0.0.1 in front of a server: what a network is, with a hand on its plug. The demonstrations cut it;
// tests bring a `Line` policy of their own to treat connections badly.
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';

/** One connection through the proxy. */
export interface Line {
  /** Ends both sides at once, without any goodbye. */
  cut(): void;
  /** Nothing passes in either direction for this long, milliseconds. */
  stall(forMs: number): void;
}

/** Decides what becomes of bytes on their way: `pass` them (at any time, in order), or do something to the line. */
export type Policy = (line: Line) => (bytes: Buffer, from: 'client' | 'server', pass: (bytes: Buffer) => void) => void;

const honest: Policy = () => (bytes, _from, pass) => pass(bytes);

export class TcpProxy {
  readonly #server: Server;
  readonly #lines = new Set<Line>();
  /** Connections that were cut, by whoever. */
  numCuts = 0;
  #isRefusing = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Listens on a free port and passes everything on to `port` of `host`. */
  static async start(port: number, host = '127.0.0.1', policy: Policy = honest): Promise<TcpProxy> {
    const server = createServer();
    const proxy = new TcpProxy(server);
    server.on('connection', (client) => proxy.#serve(client, port, host, policy));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get numLines(): number {
    return this.#lines.size;
  }

  /** Pulls the plug: every connection is cut, and new ones are refused for this long, milliseconds. */
  cut(forMs = 0): void {
    this.#isRefusing = forMs > 0;
    if (this.#isRefusing) setTimeout(() => (this.#isRefusing = false), forMs).unref();
    for (const line of this.#lines) line.cut();
  }

  async stop(): Promise<void> {
    for (const line of this.#lines) line.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(client: Socket, port: number, host: string, policy: Policy): void {
    if (this.#isRefusing) {
      client.destroy();
      return;
    }
    const server = connect(port, host);
    const sockets = [client, server];
    let resume: ReturnType<typeof setTimeout> | undefined;
    let isOver = false;
    const end = (): void => {
      isOver = true;
      clearTimeout(resume);
      this.#lines.delete(line);
      for (const socket of sockets) socket.destroy();
    };
    const line: Line = {
      cut: () => {
        if (isOver) return;
        this.numCuts++;
        end();
      },
      stall: (forMs) => {
        for (const socket of sockets) socket.pause();
        clearTimeout(resume);
        resume = setTimeout(() => {
          for (const socket of sockets) socket.resume();
        }, forMs);
      },
    };
    this.#lines.add(line);
    const handle = policy(line);
    for (const socket of sockets) {
      socket.setNoDelay(true);
      socket.on('error', end);
      socket.on('close', end);
    }
    client.on('data', (bytes) => handle(bytes, 'client', (passed) => isOver || server.write(passed)));
    server.on('data', (bytes) => handle(bytes, 'server', (passed) => isOver || client.write(passed)));
  }
}
