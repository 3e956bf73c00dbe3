// Tells the server what has arrived, so that it keeps sending: cumulative per handle, at most one message per
// handle in 50 ms or 64 events. client.ts calls `arrived` for each new event.
import { Limits } from '../protocol/constants.ts';

const ACK_AFTER_MS = 50;
/** A quarter of the credit: the server never has to wait for an ack that is already on its way. */
const ACK_AFTER_EVENTS = Limits.creditEvents / 4;

interface Pending {
  lane: number;
  seq: number;
  ackedSeq: number;
  hasEnded: boolean;
}

export class Acks {
  readonly #send: (lane: number, handle: number, seq: number) => void;
  readonly #handles = new Map<number, Pending>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(send: (lane: number, handle: number, seq: number) => void) {
    this.#send = send;
  }

  arrived(lane: number, handle: number, seq: number): void {
    let pending = this.#handles.get(handle);
    if (pending === undefined) {
      pending = { lane, seq, ackedSeq: 0, hasEnded: false };
      this.#handles.set(handle, pending);
    }
    pending.seq = seq;
    if (seq - pending.ackedSeq >= ACK_AFTER_EVENTS) {
      pending.ackedSeq = seq;
      this.#send(lane, handle, seq);
    } else {
      this.#timer ??= setTimeout(() => this.#flush(), ACK_AFTER_MS);
    }
  }

  /** Done counts like any event: until it is acknowledged its bytes count against the socket. */
  ended(lane: number, handle: number, seq: number): void {
    this.arrived(lane, handle, seq);
    const pending = this.#handles.get(handle);
    if (pending?.ackedSeq === seq) this.#handles.delete(handle);
    else if (pending !== undefined) pending.hasEnded = true;
  }

  /** The connection is gone and its handles with it. */
  reset(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#handles.clear();
  }

  #flush(): void {
    this.#timer = undefined;
    for (const [handle, pending] of this.#handles) {
      if (pending.hasEnded) this.#handles.delete(handle);
      if (pending.seq === pending.ackedSeq) continue;
      pending.ackedSeq = pending.seq;
      this.#send(pending.lane, handle, pending.seq);
    }
  }
}
