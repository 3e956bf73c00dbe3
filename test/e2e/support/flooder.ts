// A thread of its own that floods one native connection with a frame, as fast as TCP takes it, so that neither sending
// nor reading the answers delays the clients of the test. It posts one message when all is sent and had time to be
// handled, or when the server hung up.
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { encodeCopy } from '../../../protocol/codec.ts';
import { PROTOCOL_VERSION, SUBPROTOCOL } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';

export interface FloodData {
  port: number;
  /** At most 125 bytes. */
  frame: Uint8Array;
  count: number;
  /** False: answers stay in the socket. */
  reads: boolean;
}

export interface FloodReport {
  ending: 'sent' | 'hung up';
  /** Frames that came back; none are counted where nothing is read. */
  numAnswers: number;
}

const CHUNK = 500;
/** What was sent still waits in the buffers of two kernels. */
const HANDLED_MS = 1000;
const { port, frame, count, reads } = workerData as FloodData;

/** A binary WebSocket message with a mask of zeros. */
function wrap(payload: Uint8Array): Buffer {
  return Buffer.concat([Uint8Array.of(0x82, 0x80 | payload.length, 0, 0, 0, 0), payload]);
}

/** Counts the WebSocket frames in a stream of bytes; a server does not mask them. */
class FrameCounter {
  count = 0;
  #rest: Buffer = Buffer.alloc(0);

  take(data: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (;;) {
      const short = (this.#rest[1] ?? 0) & 0x7f;
      const headBytes = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (this.#rest.length < headBytes) return;
      const length =
        short === 126 ? this.#rest.readUInt16BE(2) : short === 127 ? Number(this.#rest.readBigUInt64BE(2)) : short;
      if (this.#rest.length < headBytes + length) return;
      this.#rest = this.#rest.subarray(headBytes + length);
      this.count++;
    }
  }
}

const socket = connect(port, '127.0.0.1');
socket.on('error', () => undefined); // 'close' follows
socket.write(
  'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n' +
    `sec-websocket-protocol: ${SUBPROTOCOL}\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`,
);
await once(socket, 'data');
socket.write(wrap(encodeCopy([Op.Hello, 0, PROTOCOL_VERSION, {}])));
await once(socket, 'data');
const answers = new FrameCounter();
if (reads) socket.on('data', (data: Buffer) => answers.take(data));
else socket.pause();
const chunk = Buffer.concat(Array.from({ length: CHUNK }, () => wrap(frame)));
for (let sent = 0; sent < count && !socket.destroyed; sent += CHUNK) {
  if (!socket.write(chunk)) await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => undefined);
}
if (!socket.destroyed) await sleep(HANDLED_MS);
const report: FloodReport = { ending: socket.destroyed ? 'hung up' : 'sent', numAnswers: answers.count };
parentPort!.postMessage(report);
