// Requests for a model that is not in memory at the moment: they wait here until its threads are open, and are then
// submitted in the order they came. Limits, timeouts and errors are those of the queue behind. Used by served-model.ts.
// What must stay true: every sink hears exactly one end, here or from the engine, and none during `enter` or `cancel`.
import { ServiceError } from '../../protocol/errors.ts';
import { takeRequestId } from './client.ts';
import type { EngineSink, SubmitOptions } from './types.ts';
import { WaitingRoom, type QueueOptions } from './waiting-room.ts';

interface Guest {
  options: SubmitOptions;
  /** By request id: choices that were not cancelled. */
  sinks: Map<number, EngineSink>;
  enteredMs: number;
  timer: NodeJS.Timeout;
}

/** What takes the requests over. */
export interface Submit {
  (options: SubmitOptions, sinks: readonly EngineSink[], ids: readonly number[]): void;
}

export class Lobby {
  /** Some ended without an engine: their readers are to be told. */
  onEnded: (() => void) | null = null;
  readonly #queue: QueueOptions;
  readonly #room: WaitingRoom;
  readonly #guests = new Set<Guest>();
  readonly #byId = new Map<number, Guest>();
  readonly #parked = new Set<number>();

  constructor(queue: QueueOptions) {
    this.#queue = queue;
    this.#room = new WaitingRoom(queue);
  }

  get size(): number {
    return this.#byId.size;
  }

  /** As Engine.submit. */
  enter(options: SubmitOptions, sinks: readonly EngineSink[]): number[] {
    this.#room.enter(options.tenant, sinks.length);
    const { queueTimeoutMs } = this.#queue;
    const { deadlineMs = Infinity } = options;
    const code = deadlineMs < queueTimeoutMs ? 'deadline_exceeded' : 'queue_timeout';
    const guest: Guest = {
      options,
      sinks: new Map(sinks.map((sink) => [takeRequestId(), sink])),
      enteredMs: performance.now(),
      timer: setTimeout(
        () => {
          const message = 'the model was not loaded in time';
          this.#refuse(guest, new ServiceError(code, message, { retryAfterMs: this.#room.adviceMs() }));
        },
        Math.min(deadlineMs, queueTimeoutMs),
      ),
    };
    this.#guests.add(guest);
    for (const id of guest.sinks.keys()) this.#byId.set(id, guest);
    return [...guest.sinks.keys()];
  }

  /** As Engine.cancel. */
  cancel(id: number): void {
    if (!this.#byId.has(id)) return;
    queueMicrotask(() => {
      const guest = this.#byId.get(id);
      if (!guest) return;
      const sink = guest.sinks.get(id)!;
      this.#forget(guest, id);
      sink.onEnd('cancelled', null);
      this.onEnded?.();
    });
  }

  park(id: number): void {
    if (this.#byId.has(id)) this.#parked.add(id);
  }

  unpark(id: number): void {
    this.#parked.delete(id);
  }

  /** The engine is there. Returns the ids that were parked meanwhile. */
  admitAll(submit: Submit): number[] {
    const parked = [...this.#parked];
    for (const guest of this.#guests) {
      const { options, sinks, enteredMs } = guest;
      const entries = [...sinks];
      for (const [id] of entries) this.#forget(guest, id);
      const { deadlineMs } = options;
      const left = deadlineMs === undefined ? undefined : deadlineMs - (performance.now() - enteredMs);
      try {
        submit(
          left === undefined ? options : { ...options, deadlineMs: Math.max(0, left) },
          entries.map(([, sink]) => sink),
          entries.map(([id]) => id),
        );
      } catch (error) {
        if (!(error instanceof ServiceError)) throw error;
        for (const [, sink] of entries) sink.onEnd('error', error);
      }
    }
    this.onEnded?.();
    return parked;
  }

  /** It will not come. */
  refuseAll(error: ServiceError): void {
    for (const guest of this.#guests) this.#refuse(guest, error);
  }

  #refuse(guest: Guest, error: ServiceError): void {
    for (const [id, sink] of guest.sinks) {
      this.#forget(guest, id);
      sink.onEnd('error', error);
    }
    this.onEnded?.();
  }

  #forget(guest: Guest, id: number): void {
    guest.sinks.delete(id);
    this.#byId.delete(id);
    this.#parked.delete(id);
    this.#room.leave(guest.options.tenant);
    if (guest.sinks.size > 0) return;
    clearTimeout(guest.timer);
    this.#guests.delete(guest);
  }
}
