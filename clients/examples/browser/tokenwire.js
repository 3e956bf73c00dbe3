// A client for the Tokenwire protocol, version 1, for browsers and Node 22. No dependencies.
//
//   const client = new TokenwireClient('ws://127.0.0.1:8080/v1/stream');
//   const answer = client.create({ messages: [{ role: 'user', content: 'Hi' }] });
//   for await (const text of answer) show(text);
//   console.log(answer.result.reason, answer.toolCalls);
//
// Everything runs on lane 0, which needs no opening.

import { decode, encode } from './msgpack.js';

const [Hello, OpenSession, ListSessions, History, Rollback, Fork, CloseSession] = [1, 4, 5, 6, 7, 8, 9];
const [Create, Cancel, Ack, Ping, Resume] = [10, 11, 12, 13, 14];
const [Welcome, SessionOpened, Sessions, SessionHistory, SessionClosed, Created, Deltas] = [32, 35, 36, 37, 38, 40, 41];
const [ToolBegin, ToolDelta, ToolEnd, Done, Cancelled] = [42, 43, 44, 45, 46];
const [ErrorFrame, Pong, Goaway, Resumed] = [47, 48, 49, 50];

const ACK_EVERY = 64;
const PING_MS = 15000; // a browser does not show WebSocket pings, so a dead network is noticed only by asking

export class TokenwireError extends Error {
  constructor({ code, message, ...rest }) {
    super(`${code}: ${message}`);
    Object.assign(this, { code, param: rest.param, retryable: rest.retryable, retryAfterMs: rest.retryAfterMs });
  }
}
const lost = () => new TokenwireError({ code: 'connection_lost', message: 'no answer came', retryable: true });

// Random, never counted: a requestId used before in the same session brings the old response back, and a page that
// was reloaded would count from 1 again. (crypto.randomUUID exists on https pages only.)
const randomId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => (b + 256).toString(16).slice(1)).join('');

function deferred() {
  const d = {};
  d.promise = new Promise((resolve, reject) => Object.assign(d, { resolve, reject }));
  d.promise.catch(() => {}); // nobody has to wait for it
  return d;
}

/** One response. Iterate over it once for its text; toolCalls and result are complete at the end. */
export class Answer {
  text = '';
  toolCalls = []; // { id, name, arguments: JSON text }
  result = null; // { reason, usage, timings, error } once Done came
  seq = 0; // newest event that arrived: Resume counts from here
  response = null; // its id, with epoch and session: known when accepted; handle is valid on the connection `link` only
  link = null;
  onRestart = () => {}; // the server has another log of this answer: the text yielded so far is void
  #queue = [];
  #wake = () => {};
  #failure = null;

  constructor(client, requestId, options) {
    Object.assign(this, { client, requestId, options, accepted: deferred(), cancelling: null });
    this.created = this.accepted.promise; // resolves to this answer when the server has accepted it
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#queue.length > 0) {
          const { seq, text } = this.#queue.shift();
          if (text) yield text;
          // Acked is what the caller has processed, so that a slow caller slows the server down. Done is acked too:
          // short answers would else use up what the server may send unacknowledged.
          const last = this.result !== null && this.#queue.length === 0;
          if (last || seq - this.acked >= ACK_EVERY) this.client.ack(this, seq);
        }
        if (this.#failure) throw this.#failure;
        if (this.result) return;
        await new Promise((resolve) => (this.#wake = resolve));
      }
    } finally {
      if (!this.result) this.cancel().catch(() => {}); // the caller left the loop
    }
  }

  /** Reads to the end; resolves to this answer. */
  async finish() {
    for await (const _ of this);
    return this;
  }

  /** Resolves when nothing more will come. heard: the offset up to which the user took the text in. */
  async cancel(heard) {
    if (this.#failure || (this.result && heard === undefined)) return;
    this.cancelling ??= { ...deferred(), heard };
    this.client.sendCancel(this); // when not yet accepted, Created sends it
    return this.cancelling.promise;
  }

  push(seq, text = '') {
    this.seq = seq;
    this.#queue.push({ seq, text });
    this.#wake();
  }

  restart() {
    Object.assign(this, { text: '', toolCalls: [], seq: 0 });
    this.#queue = [];
    this.onRestart();
  }

  fail(error) {
    this.#failure = error;
    this.accepted.reject(error);
    this.cancelling?.reject(error);
    this.#wake();
  }
}

export class TokenwireClient {
  info = null; // WelcomeInfo while connected
  #instance = randomId(); // makes repeating a one-off Create on another connection safe
  #answers = new Set(); // those without Done: they are resumed, or created again
  #requests = new Map(); // requestId -> deferred or Answer
  #handles = new Map(); // of this connection
  #pings = new Map();
  #socket = null;
  #ready = null;
  #losses = 0;
  #retryMs = null;
  #fatal = null;
  #timers = [];

  /** options: token; onStatus(text, error). */
  constructor(url, options = {}) {
    Object.assign(this, { url, token: options.token, onStatus: options.onStatus ?? (() => {}) });
  }

  /** Rejects when the first connection fails; a browser cannot tell why (401, 403, 404, 503, no server). */
  async connect() {
    if (this.#ready === null) {
      this.#fatal = null;
      this.#losses = 0;
      this.#ready = deferred();
      this.#open();
    }
    await this.#ready.promise;
    return this.info;
  }

  /** Begins a response; before it is connected, or while it is lost, the Create waits. */
  create(options, { requestId = randomId() } = {}) {
    const answer = new Answer(this, requestId, options);
    this.#answers.add(answer);
    if (this.info && this.#retryMs === null) this.#begin(answer); // after Goaway it waits for the next connection
    else this.connect().catch(() => {}); // fails the answer as well
    return answer;
  }

  openSession = (options = {}) => this.#request(OpenSession, options);
  listSessions = () => this.#request(ListSessions);
  /** All messages of a session; they come in pages. */
  async history(session) {
    const messages = [];
    for (let start = 0; start !== null;) {
      const page = await this.#request(History, session, start);
      messages.push(...page.messages);
      start = page.next;
    }
    return messages;
  }

  rollback = (session, numTurns) => this.#request(Rollback, session, numTurns);
  fork = (session, numTurns) => this.#request(Fork, session, numTurns);
  closeSession = (session) => this.#request(CloseSession, session);

  async ping() {
    await this.connect();
    const nonce = randomId();
    const pong = { ...deferred(), begun: performance.now() };
    this.#pings.set(nonce, pong);
    this.#send(Ping, nonce);
    await pong.promise;
    return performance.now() - pong.begun; // milliseconds
  }

  /** Done with everything: the server cancels what runs. Without the code it would be a loss, and answers went on. */
  close() {
    this.#socket?.close(1000);
    this.#down(lost(), true);
  }

  /** Loses the connection as a broken network would. (Browsers may send the codes 1000 and 3000-4999 only.) */
  drop() {
    this.#socket?.close(4000);
    this.#onClose(4000);
  }

  ack(answer, seq) {
    if (answer.link !== this.#socket || seq <= answer.acked) return;
    answer.acked = seq;
    this.#send(Ack, answer.handle, seq);
  }

  sendCancel(answer) {
    if (answer.link === this.#socket && answer.link) {
      this.#handles.set(answer.handle, answer);
      this.#send(Cancel, answer.handle, answer.cancelling.heard);
    } else if (answer.result) answer.cancelling.reject(lost()); // the handle went with its connection
    // else Created or Resumed sends it
  }

  #send(op, ...fields) {
    if (this.#socket?.readyState === 1) this.#socket.send(encode([op, 0, ...fields]));
  }

  async #request(op, ...fields) {
    await this.connect();
    const [requestId, reply] = [randomId(), deferred()];
    this.#requests.set(requestId, reply);
    this.#send(op, requestId, ...fields);
    return reply.promise;
  }

  // The same requestId again means the same response, so a Create that got no answer is simply repeated.
  #begin(answer) {
    const { requestId, response, epoch, seq, options } = answer;
    this.#requests.set(requestId, answer);
    if (response === null) this.#send(Create, requestId, options);
    else this.#send(Resume, requestId, { response, epoch, lastSeq: seq });
  }

  #open() {
    const socket = (this.#socket = new WebSocket(this.url, 'tokenwire.v1'));
    socket.binaryType = 'arraybuffer';
    socket.onopen = () =>
      this.#send(Hello, 1, { token: this.token, client: 'browser-example/1', instance: this.#instance });
    // Node tells a refused upgrade by an error alone, without a close.
    socket.onclose = socket.onerror = (event) => socket === this.#socket && this.#onClose(event.code ?? 1006);
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return; // one given up may still speak
      const [op, , ...fields] = decode(new Uint8Array(event.data));
      this.#onFrame(op, fields);
    };
    // A dead link does not close by itself. This also bounds the time to Welcome.
    const check = () => {
      const silent = [...this.#pings.values()].some((pong) => performance.now() - pong.begun > PING_MS / 2);
      if (silent || this.info === null) this.drop();
      else this.ping().catch(() => {});
    };
    this.#timers.push(setInterval(check, PING_MS));
  }

  #onClose(code) {
    const refused = [1003, 1007, 1008].includes(code); // would be refused again
    const final = refused || (this.info === null && this.#losses === 0);
    const error = this.#fatal ?? lost();
    if (this.info && !final) this.#ready = deferred();
    this.#down(error, final);
    this.onStatus(final ? 'failed' : 'lost', error);
    if (final) return;
    // Goaway told this connection's own moment; else a random one, so that not all clients come at once.
    const wait = this.#retryMs ?? Math.random() * Math.min(30000, 1000 * 2 ** this.#losses);
    this.#retryMs = null;
    this.#losses++;
    this.#timers.push(setTimeout(() => this.#open(), wait));
  }

  // Handles and requests end with the connection; answers do not, unless it is for good.
  #down(error, final) {
    this.#timers.forEach(clearTimeout); // the interval too
    this.#timers = [];
    this.#socket = this.info = null;
    for (const answer of this.#handles.values()) if (answer.result) answer.cancelling?.reject(error);
    for (const waiting of [...this.#requests.values(), ...this.#pings.values()]) {
      if (!(waiting instanceof Answer)) waiting.reject(error);
    }
    for (const map of [this.#handles, this.#requests, this.#pings]) map.clear();
    if (!final) return;
    for (const answer of this.#answers) answer.fail(error);
    this.#answers.clear();
    this.#ready?.reject(error);
    this.#ready = null;
  }

  #live(answer, handle, response, epoch, session) {
    Object.assign(answer, { handle, response, epoch, session, link: this.#socket, acked: answer.seq });
    this.#handles.set(handle, answer);
    answer.accepted.resolve(answer);
    if (answer.cancelling) this.sendCancel(answer);
  }

  #onFrame(op, f) {
    const reply = this.#requests.get(f[0]); // in the frames that answer a requestId
    const answer = this.#handles.get(f[0]); // in those that begin with a handle
    if (reply) this.#requests.delete(f[0]);
    if (op === Welcome) {
      this.info = f[1];
      this.#losses = 0;
      for (const each of this.#answers) this.#begin(each);
      this.#ready.resolve();
      this.onStatus('connected');
    } else if (op === SessionOpened || op === Sessions) reply?.resolve(f[1]);
    else if (op === SessionHistory) reply?.resolve({ messages: f[2], next: f[3] ?? null });
    else if (op === SessionClosed) reply?.resolve();
    else if (op === Created && reply) this.#live(reply, ...f.slice(1));
    else if (op === Resumed && reply) {
      const [, recovered, handle] = f;
      if (!recovered && handle === null) this.#fail(reply, { code: 'unknown_response', message: 'it is gone' });
      else {
        if (!recovered) reply.restart();
        if (handle !== null) this.#live(reply, ...f.slice(2));
      }
    } else if (op === Deltas) {
      for (const [handle, seq, text] of f[0]) {
        const to = this.#handles.get(handle);
        if (!to) continue;
        to.text += text;
        to.push(seq, text);
      }
    } else if (op === ErrorFrame) this.#onError(f[0] ?? null, f[1], reply);
    else if (op === Goaway) this.#retryMs = f[1];
    else if (op === Pong) {
      this.#pings.get(f[0])?.resolve();
      this.#pings.delete(f[0]);
    } else if (answer) this.#onEvent(answer, op, f);
    // anything else is of a newer server, and ignored as the protocol asks
  }

  #onEvent(answer, op, [handle, seq, ...f]) {
    if (op === Cancelled) {
      this.#handles.delete(handle);
      answer.cancelling?.resolve();
    } else {
      if (op === ToolBegin) answer.toolCalls[f[0]] = { id: f[1], name: f[2], arguments: '' };
      else if (op === ToolDelta) answer.toolCalls[f[0]].arguments += f[1];
      else if (op === Done) {
        answer.result = { reason: f[0], usage: f[1], timings: f[2], error: f[3] ?? null };
        this.#answers.delete(answer);
        if (!answer.cancelling) this.#handles.delete(handle); // else Cancelled follows
      } else if (op !== ToolEnd) return;
      answer.push(seq);
    }
  }

  #onError(requestId, error, reply) {
    if (reply instanceof Answer) this.#fail(reply, error);
    else if (reply) reply.reject(new TokenwireError(error));
    else if (requestId === null && (error.param === 'handle' || error.param === 'heard')) {
      // A refused Cancel. The frame does not say which one, so all that wait are told.
      for (const each of this.#handles.values()) each.cancelling?.reject(new TokenwireError(error));
    } else if (requestId === null) {
      this.#fatal = new TokenwireError(error); // the close that follows, if one does, is explained by it
      if (!this.info) this.#onClose(1008); // Hello refused without a close
    }
  }

  #fail(answer, error) {
    this.#answers.delete(answer);
    answer.fail(new TokenwireError(error));
  }
}
