// Clients that are slow, loud or many on purpose: requests that never become whole, frames that never end, floods, and
// more connections than there may be. Each costs itself, while the streams of bystanders stay whole.
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { encodeCopy } from '../../protocol/codec.ts';
import { Limits, SUBPROTOCOL } from '../../protocol/constants.ts';
import { Op } from '../../protocol/messages.ts';
import { Bystanders } from './support/bystander.ts';
import type { FloodData, FloodReport } from './support/flooder.ts';
import { tcp } from './support/http-client.ts';
import { NativeClient } from './support/native-client.ts';
import { TestServer } from './support/test-server.ts';

const SLOW_CLIENTS = 50;
const FLOOD = 50_000;
/** Slow enough to be seen by the server as a client that goes on, and fast enough for a test. */
const DRIP_MS = 200;
/** An idle server measures below 2 %; one that spins in accept measures 100. */
const IDLE_CPU_SHARE = 0.25;
const IDLE_SECONDS = 2;
/** Of utime and stime in /proc. */
const TICKS_PER_SECOND = 100;

const UPGRADE =
  'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n' +
  `sec-websocket-version: 13\r\nsec-websocket-protocol: ${SUBPROTOCOL}\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`;

const sockets: Socket[] = [];

async function open(server: TestServer, count: number, bytes: string | Uint8Array): Promise<Socket[]> {
  const opened = await Promise.all(Array.from({ length: count }, () => tcp(server.port)));
  for (const socket of opened) {
    sockets.push(socket);
    socket.resume();
    socket.write(bytes);
  }
  return opened;
}

function closed(socket: Socket): Promise<void> {
  if (socket.destroyed) return Promise.resolve();
  return new Promise((resolve) => socket.once('close', () => resolve()));
}

/** Waits until the server has closed all of them, which must be soon. */
async function areCut(what: string, halves: Socket[]): Promise<void> {
  const beganMs = performance.now();
  await Promise.all(halves.map(closed));
  const tookMs = performance.now() - beganMs;
  console.log(`${what}: cut off after ${Math.round(tookMs)} ms`);
  // The transport looks at its timeouts every four seconds, and a busy machine comes to it later.
  expect(tookMs, what).toBeLessThan(Limits.helloTimeoutMs + 30_000);
}

/** Milliseconds until a ping on a connection of its own is answered. */
async function echoMs(client: NativeClient, nonce: number): Promise<number> {
  const sentMs = performance.now();
  client.send([Op.Ping, 0, nonce]);
  await client.next(Op.Pong, (frame) => frame[2] === nonce);
  return performance.now() - sentMs;
}

/** CPU seconds of the process so far; null where there is no /proc. */
function cpuSeconds(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return null;
  }
}

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

describe('Bystanders do not notice', () => {
  let server: TestServer;
  let bystanders: Bystanders;

  beforeAll(async () => {
    server = await TestServer.start({ MODEL: 'fake:stepMs=1', DRAIN_TIMEOUT: '0.2' });
    bystanders = await Bystanders.learn(server, 150);
  });

  afterAll(async () => {
    await server.idle();
    expect(await server.stop()).toEqual({ code: 0, signal: null });
    expect(server.output).not.toMatch(/"level":[56]0/);
  });

  it(`${4 * SLOW_CLIENTS} clients that never become whole, which are all cut off in time`, async () => {
    await bystanders.watch(async () => {
      const dripping = await open(server, SLOW_CLIENTS, 'GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ');
      const drip = setInterval(() => {
        for (const socket of dripping) if (!socket.destroyed) socket.write('x');
      }, DRIP_MS);
      const upgrades = await open(server, SLOW_CLIENTS, UPGRADE.slice(0, UPGRADE.length / 2));
      const silent = await open(server, SLOW_CLIENTS, UPGRADE);
      const frames = await open(server, SLOW_CLIENTS, UPGRADE);
      await sleep(DRIP_MS);
      // Announces 126 bytes, sends 3 of them.
      for (const socket of frames) socket.write(Uint8Array.of(0x82, 0xfe, 0, 126, 1, 2, 3, 4, 9, 9, 9));
      try {
        await Promise.all([
          areCut('headers byte by byte', dripping),
          areCut('half an upgrade', upgrades),
          areCut('silent after the upgrade', silent),
          areCut('half a frame', frames),
        ]);
      } finally {
        clearInterval(drip);
      }
    });
  });

  const wrongField = encodeCopy([Op.Create, 0, 'r', { messages: 7 } as never]);
  it.each<[title: string, frame: Uint8Array, reads: boolean, isRefused: boolean]>([
    ['pings that are never read', encodeCopy([Op.Ping, 0, 1]), false, false],
    ['requests with a wrong field', wrongField, true, true],
    ['cancels of handles that never were', encodeCopy([Op.Cancel, 0, 77]), true, true],
  ])(`one connection that sends ${FLOOD} %s`, async (_title, frame, reads, isRefused) => {
    const numEnded = await server.metric('connections_ended_total{reason="too_many_errors"');
    const memoryMiB = await server.memoryMiB();
    const echo = await NativeClient.connect(server.streamUrl);
    const times: number[] = [];
    const flood: { report: FloodReport | null } = { report: null };
    await bystanders.watch(async () => {
      const workerData: FloodData = { port: server.port, frame, count: FLOOD, reads };
      const flooder = new Worker(new URL('./support/flooder.ts', import.meta.url), { workerData });
      flooder.once('message', (report: FloodReport) => {
        flood.report = report;
      });
      try {
        for (let nonce = 0; flood.report === null || nonce < 20; nonce++) times.push(await echoMs(echo, nonce));
      } finally {
        await flooder.terminate();
      }
    });
    const grownMiB = (await server.memoryMiB()) - memoryMiB;
    const worstMs = Math.max(...times);
    console.log(
      `${JSON.stringify(flood.report)}: worst echo of ${times.length}: ${worstMs.toFixed(1)} ms, memory +${grownMiB.toFixed(0)} MiB`,
    );
    // One read of a socket is up to 512 KiB of frames, and they are handled before anybody else's turn comes.
    expect(worstMs).toBeLessThan(10_000);
    const ended = await server.metric('connections_ended_total{reason="too_many_errors"');
    expect(ended - numEnded).toBe(isRefused ? 1 : 0);
    if (isRefused) {
      // Only as many as are allowed in a second are answered: others wait for these, not for the flood.
      expect(flood.report!.ending).toBe('hung up');
      expect(flood.report!.numAnswers).toBeLessThan(FLOOD / 10);
    }
    expect(grownMiB).toBeLessThan(100);
    await echo.close();
  });
});

describe('More connections than MAX_CONNECTIONS', () => {
  const MAX = 60;
  /** Beyond the margin that is still answered 503. */
  const MANY = 400;

  it('are refused at once, cost no descriptors, and leave an idle server behind', async () => {
    const server = await TestServer.start({
      MODEL: 'fake:stepMs=1',
      MAX_CONNECTIONS: String(MAX),
      DRAIN_TIMEOUT: '0.2',
    });
    try {
      const bystanders = await Bystanders.learn(server, 150);
      await bystanders.watch(async () => {
        const answers: string[] = [];
        const many = await open(server, MANY, '');
        const ends = many.map((socket) => {
          let text = '';
          socket.on('data', (data: Buffer) => {
            text += data.toString('latin1');
          });
          return closed(socket).then(() => void answers.push(text));
        });
        for (const socket of many) if (!socket.destroyed) socket.write(UPGRADE);
        // Those that got in are closed by the hello timeout.
        await Promise.all(ends);
        const numIn = answers.filter((text) => text.startsWith('HTTP/1.1 101')).length;
        const numTold = answers.filter((text) => text.startsWith('HTTP/1.1 503')).length;
        console.log(
          `${MANY} at once: ${numIn} let in, ${numTold} answered 503, ${MANY - numIn - numTold} closed unheard`,
        );
        expect(numIn).toBeLessThanOrEqual(MAX);
        expect(numTold).toBeGreaterThan(0);
      });
      await server.idle();
      const before = cpuSeconds(server.pid);
      await sleep(IDLE_SECONDS * 1000);
      const after = cpuSeconds(server.pid);
      if (before !== null && after !== null) {
        const share = (after - before) / IDLE_SECONDS;
        console.log(`idle afterwards: ${(share * 100).toFixed(1)} % of a core`);
        expect(share).toBeLessThan(IDLE_CPU_SHARE);
      }
      // There is room again.
      const client = await NativeClient.connect(server.streamUrl);
      await client.close();
    } finally {
      expect(await server.stop()).toEqual({ code: 0, signal: null });
    }
  });
});
