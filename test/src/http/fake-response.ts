// A uWebSockets response for unit tests: records what is written and lets the test play a full socket or a leaver.
import type { HttpRequest, HttpResponse } from 'uWebSockets.js';
import { Exchange } from '../../../src/http/exchange.ts';

export interface FakeResponse {
  status: string;
  headers: [string, string][];
  body: string;
  isEnded: boolean;
  isClosed: boolean;
  /** What the next writes return. */
  isFull: boolean;
  /** The client goes. */
  abort(): void;
  /** The socket takes data again. */
  drain(): void;
  /** A piece of the request's body arrives. */
  receive(piece: Uint8Array | string, isLast: boolean): void;
}

export function fakeExchange(
  method = 'post',
  path = '/',
  headers: Record<string, string> = {},
): { exchange: Exchange; response: FakeResponse } {
  let onAborted: (() => void) | undefined;
  let onWritable: ((offset: number) => boolean) | undefined;
  let onData: ((chunk: ArrayBuffer, isLast: boolean) => void) | undefined;
  const response: FakeResponse = {
    status: '',
    headers: [],
    body: '',
    isEnded: false,
    isClosed: false,
    isFull: false,
    abort: () => onAborted?.(),
    drain() {
      response.isFull = false;
      onWritable?.(0);
    },
    receive(piece, isLast) {
      const bytes = Buffer.from(piece as string);
      onData?.(new Uint8Array(bytes).buffer, isLast);
    },
  };
  const res = {
    onAborted(handler: typeof onAborted) {
      onAborted = handler;
    },
    onWritable(handler: typeof onWritable) {
      onWritable = handler;
    },
    onData(handler: typeof onData) {
      onData = handler;
    },
    cork: (callback: () => void) => callback(),
    writeStatus(status: string) {
      response.status = status;
    },
    writeHeader: (name: string, value: string) => void response.headers.push([name, value]),
    write(piece: string) {
      response.body += piece;
      return !response.isFull;
    },
    end(body?: string) {
      response.body += body ?? '';
      response.isEnded = true;
    },
    endWithoutBody() {
      response.isEnded = true;
    },
    close() {
      response.isClosed = true;
      onAborted?.();
    },
  };
  const req = {
    getMethod: () => method,
    getUrl: () => path.split('?')[0],
    getQuery: () => path.split('?')[1],
    forEach(callback: (name: string, value: string) => void) {
      for (const [name, value] of Object.entries(headers)) callback(name, value);
    },
  };
  const exchange = new Exchange(res as unknown as HttpResponse, req as unknown as HttpRequest);
  return { exchange, response };
}
