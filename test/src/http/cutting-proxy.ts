// A TCP proxy that treats its clients badly, at random and repeatably: it cuts connections after some bytes, delays
// pieces and stalls. For tests of what survives a bad network.
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

export interface ProxyOptions {
  port: number;
  /** Seeded random numbers in [0, 1). */
  random: () => number;
  /** Most bytes from the server that a connection sees before it is cut; each draws its own number. */
  cutBytes: number;
  /** Longest delay of a piece, in milliseconds; most pieces have none. */
  delayMs: number;
}

export class CuttingProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  numCut = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(options: ProxyOptions): Promise<CuttingProxy> {
    const server = createServer();
    const proxy = new CuttingProxy(server);
    server.on('connection', (client) => proxy.#serve(client, options));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(client: Socket, { port, random, cutBytes, delayMs }: ProxyOptions): void {
    const upstream = connect(port, '127.0.0.1');
    let bytesLeft = Math.floor(random() * cutBytes);
    const cut = (): void => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', cut);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        cut();
      });
    }
    client.on('data', (bytes) => upstream.write(bytes));
    upstream.on('data', (bytes) => {
      const delay = random() < 0.1 ? random() * delayMs : 0;
      upstream.pause();
      const pass = (): void => {
        const isCut = bytes.length >= bytesLeft;
        client.write(isCut ? bytes.subarray(0, bytesLeft) : bytes, () => {
          if (!isCut) return;
          this.numCut++;
          cut();
        });
        bytesLeft -= bytes.length;
        if (!isCut) upstream.resume();
      };
      if (delay > 0) setTimeout(pass, delay);
      else pass();
    });
  }
}
