// One HTTP request and its answer. Wraps uWebSockets' objects, which are unforgiving: the request dies when the handler
// returns, the response dies when the client goes, and using either later throws. So everything of the request is
// copied at once, and every write passes here, where `isOver` is known. server.ts makes one per request.
import { randomBytes } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { HttpRequest, HttpResponse } from 'uWebSockets.js';
import { errorBody, errorHeaders, toServiceError } from './errors.ts';

type Body = string | Uint8Array;

export class Exchange {
  /** Ours, also in the answer's x-request-id and in the log. */
  readonly requestId = `req_${randomBytes(12).toString('hex')}`;
  /** Upper case. */
  readonly method: string;
  /** Undecoded, without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly startedAt = performance.now();
  /** Called once with the status when the answer's head was written. */
  onAnswered: ((status: number) => void) | null = null;

  readonly #res: HttpResponse;
  readonly #headers = new Map<string, string>();
  readonly #extraHeaders: [string, string][] = [];
  #goneCallbacks: (() => void)[] = [];
  #isGone = false;
  #isEnded = false;
  #isStarted = false;
  #closesAfterwards = false;

  /** Must be called inside the uWebSockets handler; attaches the abort handler before anything else can fail. */
  constructor(res: HttpResponse, req: HttpRequest) {
    res.onAborted(() => this.#gone());
    this.#res = res;
    this.method = req.getMethod().toUpperCase();
    this.path = req.getUrl();
    this.query = new URLSearchParams(req.getQuery() ?? '');
    req.forEach((name, value) => {
      this.#headers.set(name, value);
    });
  }

  /** A request header by its lower-case name; '' when absent. */
  header(name: string): string {
    return this.#headers.get(name) ?? '';
  }

  /** Nothing can be written any more: answered in full, or the client is gone. */
  get isOver(): boolean {
    return this.#isGone || this.#isEnded;
  }

  get isGone(): boolean {
    return this.#isGone;
  }

  get hasStarted(): boolean {
    return this.#isStarted;
  }

  /** Calls back once if the client goes before the answer is complete (at once if it is gone already). */
  onGone(callback: () => void): void {
    if (this.#isGone) callback();
    else if (!this.#isEnded) this.#goneCallbacks.push(callback);
  }

  /** A header for whatever will be answered. */
  setHeader(name: string, value: string): void {
    this.#extraHeaders.push([name, value]);
  }

  /** Closes the connection once the answer is complete. Decide before the answer begins. */
  closeAfterwards(): void {
    this.#closesAfterwards = true;
  }

  /** Chunks of the body. Must be attached before the handler first awaits; a chunk is only valid during the call. */
  onData(handler: (chunk: ArrayBuffer, isLast: boolean) => void): void {
    if (!this.isOver) this.#res.onData(handler);
  }

  /** Answers in full. Without effect when the client is gone. */
  send(status: number, contentType: string, body: Body, headers: readonly [string, string][] = []): void {
    if (this.isOver) return;
    this.#res.cork(() => {
      this.#writeHead(status, contentType, headers);
      if (this.method === 'HEAD' || status === 204 || status === 304) {
        this.#res.endWithoutBody(status === 200 ? Buffer.byteLength(body) : undefined, this.#closesAfterwards);
      } else {
        this.#res.end(body, this.#closesAfterwards);
      }
    });
    this.#finish();
  }

  sendJson(status: number, value: unknown, headers: readonly [string, string][] = []): void {
    this.send(status, 'application/json; charset=utf-8', `${JSON.stringify(value)}\n`, headers);
  }

  /** Answers with anything that was thrown. After the first byte of a stream it can only cut the connection. */
  sendError(thrown: unknown): void {
    if (this.#isStarted && !this.isOver) {
      this.abort();
      return;
    }
    const error = toServiceError(thrown);
    this.sendJson(error.row.status, errorBody(error), errorHeaders(error));
  }

  /** Begins an answer whose body is written piece by piece. */
  begin(status: number, contentType: string, headers: readonly [string, string][] = []): void {
    if (this.isOver) return;
    this.#res.cork(() => this.#writeHead(status, contentType, headers));
  }

  /** Writes a piece. False when the socket is full: then write no more until `onWritable` calls. */
  write(piece: string): boolean {
    if (this.isOver) return true;
    let isTaken = true;
    this.#res.cork(() => {
      isTaken = this.#res.write(piece);
    });
    return isTaken;
  }

  onWritable(callback: () => void): void {
    if (this.isOver) return;
    this.#res.onWritable(() => {
      callback();
      return true;
    });
  }

  /** Ends what `begin` began. */
  end(): void {
    if (this.isOver) return;
    this.#res.cork(() => this.#res.end(undefined, this.#closesAfterwards));
    this.#finish();
  }

  /** Cuts the connection; the client sees an incomplete answer. */
  abort(): void {
    if (!this.isOver) this.#res.close();
  }

  #writeHead(status: number, contentType: string, headers: readonly [string, string][]): void {
    this.#isStarted = true;
    this.#res.writeStatus(`${status} ${STATUS_CODES[status] ?? 'Unknown'}`);
    if (contentType !== '') this.#res.writeHeader('content-type', contentType);
    this.#res.writeHeader('x-request-id', this.requestId);
    this.#res.writeHeader('openai-processing-ms', String(Math.round(performance.now() - this.startedAt)));
    for (const [name, value] of this.#extraHeaders) this.#res.writeHeader(name, value);
    for (const [name, value] of headers) this.#res.writeHeader(name, value);
    this.onAnswered?.(status);
  }

  #finish(): void {
    this.#isEnded = true;
    this.#goneCallbacks = [];
  }

  #gone(): void {
    if (this.isOver) return;
    this.#isGone = true;
    const callbacks = this.#goneCallbacks;
    this.#goneCallbacks = [];
    for (const callback of callbacks) callback();
  }
}
