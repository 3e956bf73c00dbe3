// One answer of the scripted server as a log of events, which any connection may watch from any event on: what makes
// it possible to resume there.
import { randomUUID } from 'node:crypto';
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage } from '../../../protocol/messages.ts';
import type { FakePeer } from './fake-server.ts';

/** Makes the frame of one event for a handle; null text: not a delta. */
type Event = { text: string | null; frame(lane: number, handle: number, seq: number): ServerMessage };

interface Watcher {
  peer: FakePeer;
  lane: number;
  handle: number;
}

export class FakeLog {
  readonly id: string;
  readonly epoch = `epoch_${randomUUID()}`;
  readonly session: string | null;
  readonly #events: Event[] = [];
  readonly #watchers = new Set<Watcher>();
  isCancelled = false;
  isEnded = false;

  constructor(id: string, session: string | null) {
    this.id = id;
    this.session = session;
  }

  get head(): number {
    return this.#events.length;
  }

  /** Appends, and shows it to whoever watches. */
  add(text: string | null, frame?: Event['frame']): void {
    const event: Event = {
      text,
      frame: frame ?? ((_lane, handle, seq) => [Op.Deltas, 0, [[handle, seq, text ?? '']]]),
    };
    this.#events.push(event);
    for (const watcher of this.#watchers) this.#show(watcher, this.head);
  }

  /** Every event after `fromSeq`, then live. */
  watch(peer: FakePeer, lane: number, handle: number, fromSeq: number): void {
    const watcher = { peer, lane, handle };
    peer.watched.set(handle, this);
    this.#watchers.add(watcher);
    for (let seq = fromSeq + 1; seq <= this.head; seq++) this.#show(watcher, seq);
  }

  #show(watcher: Watcher, seq: number): void {
    const { peer, lane, handle } = watcher;
    const event = this.#events[seq - 1];
    if (event === undefined) return;
    if (peer.socket.readyState !== peer.socket.OPEN) {
      this.#watchers.delete(watcher);
    } else if (event.text === null) {
      peer.flush();
      peer.send(event.frame(lane, handle, seq));
    } else {
      peer.delta(handle, seq, event.text);
    }
  }
}
