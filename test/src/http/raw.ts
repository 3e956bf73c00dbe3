// Bytes in, answer out: requests that no HTTP client would send.
import { connect } from 'node:net';

/** Longest wait for the first byte, which takes milliseconds where nothing else computes. */
const WAIT_MS = 30_000;

/** Sends the bytes on a connection of its own; resolves with all that came back when the server closes or falls silent. */
export function rawRequest(port: number, bytes: string | Buffer, silenceMs = 300): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    let answer = '';
    const finish = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    let timer = setTimeout(finish, WAIT_MS);
    socket.on('data', (data) => {
      answer += data.toString('latin1');
      clearTimeout(timer);
      timer = setTimeout(finish, silenceMs);
    });
    socket.on('error', finish);
    socket.on('close', finish);
    socket.write(bytes);
  });
}

export function statusOf(answer: string): number {
  return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 0);
}
