// A network that treats its connections badly at random, and repeatably: each draws from its own seeded numbers how
// many bytes it lives for, in each direction, and which of its pieces are split, late or stalled.
import { setTimeout as sleep } from 'node:timers/promises';
import { TcpProxy } from '../../../clients/demos/tcp-proxy.ts';
import type { Policy } from '../../../clients/demos/tcp-proxy.ts';
import { random as seededRandom } from '../../support/random.ts';

export interface ChaosOptions {
  /** Mean number of bytes from the server (and a quarter of it from the client) before a connection is cut. */
  meanBytes: number;
  /** Longest delay of a piece, milliseconds. */
  delayMs: number;
  /** One piece in so many stalls the whole connection for up to `stallMs`. */
  stallOneIn: number;
  stallMs: number;
}

export const rough: ChaosOptions = { meanBytes: 2500, delayMs: 5, stallOneIn: 60, stallMs: 40 };

/** A proxy before the server at `port`. The same seed gives the nth connection the same life. */
export function startChaos(port: number, seed: number, options: ChaosOptions = rough): Promise<TcpProxy> {
  let numConnections = 0;
  const { meanBytes, delayMs, stallOneIn, stallMs } = options;
  const policy: Policy = (line) => {
    const random = seededRandom(seed * 7919 + numConnections++);
    const lives = { server: -Math.log(1 - random()) * meanBytes, client: -Math.log(1 - random()) * meanBytes * 0.25 };
    /** Pieces of a direction pass one after the other. */
    const order = { server: Promise.resolve(), client: Promise.resolve() };
    return (bytes, from, pass) => {
      const waitMs = random() < 0.2 ? random() * delayMs : 0;
      const isSplit = bytes.length > 1 && random() < 0.3;
      const middle = isSplit ? 1 + Math.floor(random() * (bytes.length - 1)) : bytes.length;
      if (random() * stallOneIn < 1) line.stall(random() * stallMs);
      // What was written is on its way before the line is cut, at times.
      const cutAfterMs = random() < 0.5 ? 2 : 0;
      for (const part of [bytes.subarray(0, middle), bytes.subarray(middle)]) {
        if (part.length === 0) continue;
        const alive = Math.max(0, Math.floor(lives[from]));
        lives[from] -= part.length;
        order[from] = order[from].then(async () => {
          if (waitMs > 0) await sleep(waitMs);
          pass(part.subarray(0, alive));
          if (part.length <= alive) return;
          if (cutAfterMs > 0) await sleep(cutAfterMs);
          line.cut();
        });
      }
    };
  };
  return TcpProxy.start(port, '127.0.0.1', policy);
}
