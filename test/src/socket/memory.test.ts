// What one of each costs on the heap of this process, measured, with generous bounds: a structure kept per event or
// per connection by mistake shows here first. The engine's tensors and the kernel's socket buffers are not in it.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, describe, expect, it } from 'vitest';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import { localCaller } from '../../../src/auth/caller.ts';
import { House } from '../support/house.ts';
import type { TestClient } from '../support/house.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Tokens of a typical answer. */
const TOKENS = 200;
let house: House;
afterEach(() => house.stop());

/** Bytes of heap per item after `make` ran that often. */
function bytesEach(label: string, count: number, make: (index: number) => void): number {
  collect();
  collect();
  const before = process.memoryUsage().heapUsed;
  for (let index = 0; index < count; index++) make(index);
  collect();
  collect();
  const each = Math.round((process.memoryUsage().heapUsed - before) / count);
  console.log(`${label}: ${each} bytes`);
  return each;
}

/** A house that keeps no books of its own. */
const quietHouse = (): House => new House({ socket: { onDelay: () => {} } });

/** Everything the engine remembers of requests is the fake's own. */
function forgetEngine(): void {
  house.engine.submitted.length = 0;
}

describe('Memory', { timeout: 60_000 }, () => {
  it('of an idle session without turns stays below 3 KiB', () => {
    house = quietHouse();
    const each = bytesEach('idle session', 2000, () => void house.sessions.open(localCaller, { system: 'Be brief.' }));
    expect(each).toBeLessThan(3 << 10);
    expect(house.sessions.bytes / house.sessions.size).toBeGreaterThan(each / 4);
  });

  it('of an idle connection stays below 4 KiB', () => {
    house = quietHouse();
    const clients: TestClient[] = [];
    const each = bytesEach('idle connection', 2000, () => void clients.push(house.greeted()));
    expect(each).toBeLessThan(4 << 10);
    expect(clients).toHaveLength(2000);
  });

  it(`of an active response with ${TOKENS} tokens stays below 24 KiB, and of an ended one below its estimate`, () => {
    house = quietHouse();
    const count = 500;
    house.engine.script = () => Array.from({ length: TOKENS }, (_, index) => `w${index} `);
    const clients: TestClient[] = [];
    const active = bytesEach('active response', count, () => {
      const client = house.greeted();
      client.create('r', { sentences: true, states: true });
      clients.push(client);
      forgetEngine();
      if (clients.length < count) return;
      for (let step = 0; step < TOKENS; step++) {
        house.engine.step();
        for (const other of clients) other.take();
      }
    });
    expect(active).toBeLessThan(24 << 10);
    house.engine.run();
    for (const client of clients.splice(0)) {
      client.push([Op.Ack, 0, 1, TOKENS + 1]);
      client.drop(1000);
    }
    const { count: numRetained, bytes } = house.responses.retained;
    expect(numRetained).toBe(count);
    collect();
    collect();
    const full = process.memoryUsage().heapUsed;
    house.nowMs += Limits.responseRetentionMs + 1;
    house.responses.byRequest('none');
    expect(house.responses.retained).toEqual({ count: 0, bytes: 0 });
    collect();
    collect();
    const each = Math.round((full - process.memoryUsage().heapUsed) / count);
    console.log(`ended response: ${each} bytes, estimated ${Math.round(bytes / count)}`);
    // LOG_MEMORY holds only as far as the estimate does.
    expect(each).toBeLessThan((bytes / count) * 1.2);
    expect(each).toBeGreaterThan(0);
  });

  it('of a stalled reader stays below 16 KiB: what credit lets out, whatever the length of the answer', () => {
    house = quietHouse();
    const count = 200;
    house.engine.script = () => Array.from({ length: 4000 }, (_, index) => `w${index} `);
    const fast = house.greeted();
    fast.create('r');
    const response = [...fast.connection.outbox.live][0]!.response!;
    const stalled: TestClient[] = [];
    const each = bytesEach('stalled reader', count, () => {
      const client = house.greeted();
      client.push([Op.Resume, 0, 'w', { response: response.id, lastSeq: 0 }]);
      stalled.push(client);
      if (stalled.length < count) return;
      while (!response.isEnded) {
        house.engine.step();
        fast.take();
        fast.push([Op.Ack, 0, 1, response.isEnded ? response.log.head - 1 : response.log.head]);
        for (const other of stalled) other.take();
      }
    });
    // The answer itself, shared by all, is in this too.
    expect(each).toBeLessThan(16 << 10);
  });
});
