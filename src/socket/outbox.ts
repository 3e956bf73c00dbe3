// All frames out of one connection. Control frames go at once. Data frames are rendered from the logs when a step
// was published, an ack came or the socket drained: one Deltas frame for everything that is due, in chat and batch at
// most one per FLUSH_WINDOW_MS while the machine is busy. Nothing is queued here: what may not be sent yet stays in
// the log, so a slow reader costs no memory and later gets the missed text merged.
import { FLUSH_WINDOW_MS, Limits } from '../../protocol/constants.ts';
import { encode } from '../../protocol/codec.ts';
import { toWireError } from '../../protocol/errors.ts';
import { isUrgent, Op } from '../../protocol/messages.ts';
import type { Delta, LatencyClass, ServerMessage, StateDetail, TokenLogprob } from '../../protocol/messages.ts';
import type { LogEntry, LogEvent } from '../responses/response-log.ts';
import type { Response } from '../responses/response.ts';
import type { Subscriber } from '../responses/subscribers.ts';
import { Subscription, type View } from './subscription.ts';
import type { Transport } from './transport.ts';

export interface OutboxHost {
  now(): number;
  /** True while collecting deltas for a few milliseconds pays: several responses share the cores. */
  isBusy(): boolean;
  /** This outbox has something to flush when the current publish is over. */
  wants(outbox: Outbox): void;
  /** A frame left whose newest token of this class was sampled so many milliseconds ago. */
  onDelay(latencyClass: LatencyClass, delayMs: number): void;
  /** About how many requests are before this one; undefined when it does not wait. */
  queuePosition(response: Response): number | undefined;
  /** The client does not read (a frame was dropped, a log was evicted unread): the connection cannot go on. */
  onDropped(outbox: Outbox): void;
}

/** One frame carries at most about this much text, so that `getBufferedAmount` is looked at in between. */
const FRAME_BYTES = 64 << 10;
/** Estimated bytes of a delta beside its text. */
const DELTA_BYTES = 8;
/** Estimated bytes of a token with its log-probability. */
const TOKEN_BYTES = 24;
/** Ended handles whose Cancel can still be answered. */
const ENDED_HANDLES = Limits.handlesPerConnection;

/** What the handles of a connection need. */
interface Streams {
  /** Live handles. */
  readonly live: Map<number, Subscription>;
  readonly byResponse: Map<Response, Subscription>;
  /** Done was sent but not acknowledged; bounded by Limits.unackedBytes, since Done counts. */
  readonly unackedDone: Map<number, Subscription>;
  /** Handles whose Done was sent, oldest first: the response and its last seq. */
  readonly ended: Map<number, { response: string; lastSeq: number }>;
  /** Subscriptions with something that may be sent. */
  readonly ready: Set<Subscription>;
}

export class Outbox implements Subscriber {
  readonly #transport: Transport;
  readonly #host: OutboxHost;
  /** Made with the first handle: most connections of a large server are idle, and five empty maps are a kilobyte. */
  #streams: Streams | null = null;
  #numHandles = 0;
  #unackedBytes = 0;
  #lastDeltasMs = -Infinity;
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(transport: Transport, host: OutboxHost) {
    this.#transport = transport;
    this.#host = host;
  }

  get numLive(): number {
    return this.#streams?.live.size ?? 0;
  }

  get unackedBytes(): number {
    return this.#unackedBytes;
  }

  get live(): Iterable<Subscription> {
    return this.#streams?.live.values() ?? [];
  }

  /** Sends a control frame at once, whatever credit and buffers say. */
  control(message: ServerMessage): void {
    this.#write(message);
  }

  /** As `control`, of a frame that was encoded once for many connections. */
  sendFrame(bytes: Uint8Array): void {
    this.#send(bytes);
  }

  /** The live subscription of this response, if this connection has one. */
  find(response: Response): Subscription | undefined {
    return this.#streams?.byResponse.get(response);
  }

  liveHandle(handle: number): Subscription | undefined {
    return this.#streams?.live.get(handle);
  }

  endedHandle(handle: number): { response: string; lastSeq: number } | undefined {
    return this.#streams?.ended.get(handle);
  }

  /**
   * A new handle for the response, for a client that has the events up to `fromSeq`. Send Created or Resumed before
   * returning to the event loop, then `announce`: events follow after that.
   */
  watch(response: Response, lane: number, view: View = {}, fromSeq = 0): Subscription {
    const subscription = new Subscription(++this.#numHandles, lane, response, view, fromSeq);
    this.#streams ??= {
      live: new Map(),
      byResponse: new Map(),
      unackedDone: new Map(),
      ended: new Map(),
      ready: new Set(),
    };
    this.#streams.live.set(subscription.handle, subscription);
    this.#streams.byResponse.set(response, subscription);
    response.subscribe(this);
    return subscription;
  }

  /** Tells the state of a new handle, where that was asked for. */
  announce(subscription: Subscription): void {
    this.#tellState(subscription, (response) => this.#host.queuePosition(response));
  }

  /** Tells queue positions that changed. */
  tellPositions(positions: () => Map<Response, number>): void {
    for (const subscription of this.live) {
      if (subscription.wantsPosition) this.#tellState(subscription, (response) => positions().get(response));
    }
  }

  /** Unread until it was evicted: the client does not read. It may come back and will be told what is gone. */
  onEvicted(): void {
    this.#host.onDropped(this);
  }

  behindBy(response: Response): number {
    return this.find(response)?.behindBy ?? 0;
  }

  /** Returns false for a seq never sent on this handle. Handles not known (any more) are ignored. */
  ack(handle: number, seq: number): boolean {
    const streams = this.#streams;
    const subscription = streams?.live.get(handle) ?? streams?.unackedDone.get(handle);
    if (streams === null || subscription === undefined) return true;
    const freed = subscription.ack(seq);
    if (freed < 0) return false;
    this.#unackedBytes -= freed;
    if (subscription.isFullyAcked) streams.unackedDone.delete(handle);
    this.#wake(subscription);
    this.flush();
    subscription.response?.reviewParking();
    return true;
  }

  /** Cancels; `Cancelled` follows Done on this lane. */
  cancel(subscription: Subscription, lane: number): void {
    subscription.cancel(lane);
    this.#wake(subscription);
    this.flush();
  }

  notify(response: Response): void {
    const subscription = this.find(response);
    if (subscription === undefined) return;
    this.announce(subscription);
    this.#wake(subscription);
    this.#host.wants(this);
  }

  /** Sends what is due and permitted. Called after each publish, ack and drain, and by the window's timer. */
  flush(): void {
    if (this.#isClosed || this.#streams === null || this.#streams.ready.size === 0 || this.#isFull) return;
    const { ready } = this.#streams;
    const waitMs = this.#windowLeftMs(ready);
    if (waitMs > 0) {
      this.#timer ??= setTimeout(() => {
        this.#timer = null;
        this.flush();
      }, waitMs);
      return;
    }
    if (this.#transport.cork) this.#transport.cork(() => this.#sendReady(ready));
    else this.#sendReady(ready);
  }

  /** Stops watching everything; returns the responses that had not ended here. No frame leaves any more. */
  close(): Response[] {
    this.#isClosed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#streams === null) return [];
    const responses = [...this.#streams.byResponse.keys()];
    for (const response of responses) response.detach(this);
    for (const collection of Object.values(this.#streams)) collection.clear();
    return responses;
  }

  get #isFull(): boolean {
    return this.#unackedBytes >= Limits.unackedBytes || this.#transport.getBufferedAmount() >= Limits.bufferedBytes;
  }

  #wake(subscription: Subscription): void {
    if (subscription.isReady) this.#streams?.ready.add(subscription);
  }

  /** Milliseconds until the next Deltas frame may leave; 0 when something ready may not wait. */
  #windowLeftMs(ready: ReadonlySet<Subscription>): number {
    const leftMs = this.#lastDeltasMs + FLUSH_WINDOW_MS - this.#host.now();
    // A timer may come a part of a millisecond early.
    if (leftMs < 1 || !this.#host.isBusy()) return 0;
    for (const { class: latencyClass, isFresh, response } of ready) {
      if (isUrgent(latencyClass) || isFresh || response?.isEnded === true) return 0;
    }
    return leftMs;
  }

  #tellState(subscription: Subscription, positionOf: (response: Response) => number | undefined): void {
    const { response, lane, handle } = subscription;
    if (response === null) return;
    const told = subscription.newState(() => positionOf(response));
    if (told === null) return;
    const { promptTokens, cachedTokens } = response.usage;
    const detail: StateDetail = {};
    if (told.position !== undefined) detail.position = told.position;
    if (told.state === 'prefilling') Object.assign(detail, { promptTokens, cachedTokens });
    this.control([Op.State, lane, handle, told.state, detail]);
  }

  #sendReady(ready: Set<Subscription>): void {
    let batch: { subscription: Subscription; entries: LogEntry[] }[] = [];
    let batchBytes = 0;
    for (const subscription of ready) {
      ready.delete(subscription);
      const entries = subscription.read();
      if (entries.length === 0) continue;
      batch.push({ subscription, entries });
      for (const { event } of entries) batchBytes += sizeOf(event);
      if (batchBytes < FRAME_BYTES && this.#unackedBytes + batchBytes < Limits.unackedBytes) continue;
      this.#sendBatch(batch);
      if (this.#isClosed || this.#isFull) return;
      batch = [];
      batchBytes = 0;
    }
    this.#sendBatch(batch);
  }

  /** Rounds of one Deltas frame with a run of text from each, then the events that follow it. Usually one round. */
  #sendBatch(batch: { subscription: Subscription; entries: LogEntry[] }[]): void {
    let left = batch;
    while (left.length > 0 && !this.#isClosed) {
      const texts = left.filter(({ entries }) => entries[0]?.event.kind === 'text');
      if (texts.length > 0) this.#sendDeltas(texts);
      for (const { subscription, entries } of left) {
        while (entries.length > 0 && entries[0]!.event.kind !== 'text' && !this.#isClosed) {
          this.#sendEvent(subscription, entries.shift()!);
        }
      }
      left = left.filter(({ entries }) => entries.length > 0);
    }
  }

  #sendDeltas(texts: { subscription: Subscription; entries: LogEntry[] }[]): void {
    const deltas: Delta[] = [];
    const newest = new Map<LatencyClass, number>();
    for (const { subscription, entries } of texts) {
      const { seq, event } = entries.shift()!;
      if (event.kind !== 'text') continue;
      deltas.push(subscription.delta(seq, event.text, event.logprobs));
      this.#account(subscription, seq, sizeOf(event));
      const { response } = subscription;
      const head = response?.isEnded === true ? response.log.head - 1 : response?.log.head;
      const sampledAtMs = response?.lastTokenAtMs ?? null;
      if (seq === head && sampledAtMs !== null) {
        newest.set(subscription.class, Math.max(sampledAtMs, newest.get(subscription.class) ?? 0));
      }
    }
    const now = this.#host.now();
    this.#lastDeltasMs = now;
    this.#write([Op.Deltas, 0, deltas]);
    for (const [latencyClass, sampledAtMs] of newest) this.#host.onDelay(latencyClass, now - sampledAtMs);
  }

  #sendEvent(subscription: Subscription, { seq, event }: LogEntry): void {
    const { handle, lane } = subscription;
    switch (event.kind) {
      case 'text':
        throw new Error('Text travels in Deltas');
      case 'toolBegin':
        this.#account(
          subscription,
          seq,
          this.#write([Op.ToolBegin, lane, handle, seq, event.index, event.callId, event.name]),
        );
        return;
      case 'toolDelta':
        this.#account(subscription, seq, this.#write([Op.ToolDelta, lane, handle, seq, event.index, event.text]));
        return;
      case 'toolEnd':
        this.#account(subscription, seq, this.#write([Op.ToolEnd, lane, handle, seq, event.index]));
        return;
      case 'end': {
        const error = event.error === null ? null : toWireError(event.error);
        const { reason, usage, timings } = event;
        this.#account(subscription, seq, this.#write([Op.Done, lane, handle, seq, reason, usage, timings, error]));
        this.#finish(subscription, seq);
      }
    }
  }

  #finish(subscription: Subscription, lastSeq: number): void {
    const { handle, response } = subscription;
    if (response === null || this.#streams === null || this.#isClosed) return;
    const { live, byResponse, unackedDone, ended } = this.#streams;
    response.unsubscribe(this);
    subscription.finish();
    live.delete(handle);
    byResponse.delete(response);
    if (!subscription.isFullyAcked) unackedDone.set(handle, subscription);
    ended.set(handle, { response: response.id, lastSeq });
    if (ended.size > ENDED_HANDLES) ended.delete(ended.keys().next().value!);
    for (const lane of subscription.cancelLanes) this.#write([Op.Cancelled, lane, handle, lastSeq]);
  }

  #account(subscription: Subscription, seq: number, bytes: number): void {
    subscription.sent(seq, bytes);
    this.#unackedBytes += bytes;
  }

  /** Returns the size of the frame. */
  #write(message: ServerMessage): number {
    if (this.#isClosed) return 0;
    const bytes = encode(message);
    this.#send(bytes);
    return bytes.length;
  }

  #send(bytes: Uint8Array): void {
    if (!this.#isClosed && this.#transport.send(bytes) === 2) this.#host.onDropped(this);
  }
}

/** Estimated bytes of an event on the wire. */
function sizeOf(event: LogEvent): number {
  if (event.kind === 'toolDelta') return DELTA_BYTES + Buffer.byteLength(event.text);
  if (event.kind === 'text') return DELTA_BYTES + Buffer.byteLength(event.text) + tokenBytes(event.logprobs);
  return event.kind === 'end' ? 300 : 64;
}

/** Estimated bytes of log-probabilities on the wire. */
function tokenBytes(tokens: readonly TokenLogprob[] = []): number {
  return tokens.reduce((sum, [, , , top]) => sum + (1 + top.length) * TOKEN_BYTES, 0);
}
