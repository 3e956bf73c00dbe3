// A port that nobody listens on, for servers that must come back on the same one; everything else listens on port 0.
// Below the range from which systems take the ports of outgoing connections: there a client that tries again and again
// may be given the very port it tries, connect to itself, and keep the server from coming back.
import { once } from 'node:events';
import { createServer } from 'node:net';

const FIRST = 15_000;
const END = 32_000;

export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (END - FIRST));
    const probe = createServer().listen(port, '127.0.0.1');
    const isFree = await once(probe, 'listening').then(
      () => true,
      () => false,
    );
    if (!isFree) continue;
    probe.close();
    await once(probe, 'close');
    return port;
  }
}
