// The responses under way, over all connections: sends their creates, resumes them after a loss, cancels, acknowledges,
// and feeds what arrives to its ResponseStream. client.ts owns one and passes on what the connection does. What must
// stay true: a create that may have reached the server is repeated with its requestId until it is answered, and a
// response that was created is resumed until its Done is here; so nothing is lost and nothing runs twice.
import { errorFromWire } from '../protocol/errors.ts';
import type { ServiceError } from '../protocol/errors.ts';
import { Op } from '../protocol/messages.ts';
import type { CreateOptions, ResumeOptions, ServerMessage } from '../protocol/messages.ts';
import { Acks } from './acks.ts';
import { ConnectionLostError } from './errors.ts';
import { randomId } from './random-id.ts';
import { Replacements } from './replacements.ts';
import { ResponseStream } from './response.ts';
import type { ResponseFeed } from './response.ts';
import { lostRest, notSent, unknownResponse } from './watch.ts';
import type { Watch, WatchHost, WatchOptions } from './watch.ts';

/** When the server does not say when to ask again. */
const RETRY_MS = 1000;

export class Watches {
  readonly #host: WatchHost;
  readonly #acks: Acks;
  /** All that something is still to be heard of. */
  readonly #watches = new Set<Watch>();
  readonly #asked = new Map<string, Watch>();
  readonly #live = new Map<number, Watch>();
  /** Ended handles whose cancel with `heard` was sent. */
  readonly #hearing = new Map<number, Watch>();
  readonly #replacements: Replacements;
  /** Counts connections, since handles mean nothing on another one. */
  #connection = 0;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();

  constructor(host: WatchHost) {
    this.#host = host;
    this.#replacements = new Replacements(this.#watches, (watch) => this.fail(watch, notSent()));
    this.#acks = new Acks((lane, handle, seq) => host.send([Op.Ack, this.#laneOr0(lane), handle, seq]));
  }

  /** A response that nothing was sent for yet: `create` or `resume` follows. */
  begin(options: WatchOptions = {}): Watch {
    let feed!: ResponseFeed;
    // The signal may have been aborted before: then there is no watch yet, and nothing to tell the server.
    let watch: Watch | null = null;
    const { owner = null, view = {}, supersede, from, onCreated = null, onHeard = null, signal } = options;
    const port = {
      cancel: (heard: number | null) => {
        if (watch !== null) return this.#cancel(watch, heard);
        feed.failed(notSent());
        return Promise.resolve();
      },
      processed: (seq: number) => {
        if (watch?.place.kind === 'live') this.#acks.arrived(watch.lane, watch.place.handle, seq);
      },
    };
    const response = new ResponseStream(port, (made) => (feed = made), {
      ...(signal === undefined ? {} : { signal }),
      ...(from === undefined ? {} : { from }),
    });
    const named = Promise.withResolvers<void>();
    watch = {
      owner,
      response,
      feed,
      view,
      supersede,
      onCreated,
      onHeard,
      named,
      lane: 0,
      place: { kind: 'unsent' },
      create: null,
      replaced: [],
      heard: null,
    };
    if (feed.isEnded()) named.resolve();
    else this.#watches.add(watch);
    this.#replacements.begun(watch);
    return watch;
  }

  /** Fulfils when the create may be sent: what it replaces has an id by then, or never will. */
  whenSupersedable(watch: Watch): Promise<void> {
    return this.#replacements.whenNamed(watch);
  }

  /** Sends the create now. Does nothing when the response has ended meanwhile. */
  create(watch: Watch, lane: number, options: CreateOptions): void {
    if (watch.feed.isEnded()) return;
    watch.lane = lane;
    const supersede = this.#replacements.option(watch);
    watch.create = {
      requestId: randomId(),
      options: { ...options, ...watch.view, ...(supersede === undefined ? {} : { supersede }) },
    };
    this.#sendCreate(watch, watch.create);
  }

  /** Goes on with a response begun with `from`. */
  resume(watch: Watch): void {
    if (watch.feed.isEnded()) return;
    watch.place = { kind: 'cut' };
    this.#resume(watch);
  }

  /** It cannot be begun, or not go on. */
  fail(watch: Watch, error: Error): void {
    if (watch.heard !== null) this.#heard(watch, error);
    watch.feed.failed(error);
    this.#drop(watch);
  }

  /** A new connection with its lanes: go on with everything that is not a session's unanswered create. */
  reconnected(): void {
    for (const watch of this.#watches) if (watch.place.kind === 'cut') this.#again(watch);
  }

  /** The owner's session is open on this connection: its unanswered creates are repeated there, in their order. */
  repeat(owner: object, session: string): void {
    for (const watch of this.#watches) {
      if (watch.owner !== owner || watch.place.kind !== 'cut' || watch.create === null) continue;
      if (watch.feed.position() !== null) continue;
      watch.create.options = { ...watch.create.options, session };
      this.#sendCreate(watch, watch.create);
    }
  }

  /** The owner's session cannot be opened: its unanswered creates fail. */
  abandon(owner: object, error: Error): void {
    for (const watch of this.#watches) {
      const isWaiting = watch.owner === owner && watch.place.kind === 'cut' && watch.feed.position() === null;
      if (isWaiting) this.fail(watch, error);
    }
  }

  /** The connection is gone. With an error there will be no other, and everything ends with it. */
  down(error: Error | null, isLocal: boolean): void {
    this.#connection++;
    this.#acks.reset();
    this.#live.clear();
    this.#asked.clear();
    this.#hearing.clear();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const watch of this.#watches) {
      if (error !== null) {
        this.#end(watch, error, isLocal);
      } else if (watch.place.kind !== 'unsent') {
        watch.place = { kind: 'cut' };
        watch.feed.cut();
      }
    }
  }

  /** Takes every message about responses. Handles and requests that nobody watches are ignored. */
  receive(message: ServerMessage): void {
    switch (message[0]) {
      case Op.Deltas:
        for (const [handle, seq, text, offset, ends, tokens] of message[2]) {
          this.#live.get(handle)?.feed.text(seq, text, offset ?? undefined, ends ?? undefined, tokens ?? undefined);
        }
        return;
      case Op.ToolBegin:
        this.#live.get(message[2])?.feed.toolBegin(message[3], message[4], message[5], message[6]);
        return;
      case Op.ToolDelta:
        this.#live.get(message[2])?.feed.toolDelta(message[3], message[4], message[5]);
        return;
      case Op.ToolEnd:
        this.#live.get(message[2])?.feed.toolEnd(message[3], message[4]);
        return;
      case Op.State:
        this.#live.get(message[2])?.feed.state(message[3], message[4]);
        return;
      case Op.Created: {
        const [, , requestId, handle, response, epoch, session] = message;
        const watch = this.#take(requestId);
        if (watch === undefined) return;
        watch.feed.created(response, epoch, session);
        watch.onCreated?.();
        watch.onCreated = null;
        this.#nowLive(watch, handle);
        return;
      }
      case Op.Resumed: {
        const [, , requestId, isRecovered, handle, response, epoch, session] = message;
        const watch = this.#take(requestId);
        if (watch !== undefined) this.#resumed(watch, isRecovered, handle, response, epoch, session);
        return;
      }
      case Op.Done: {
        const [, , handle, seq, reason, usage, timings, error] = message;
        const watch = this.#live.get(handle);
        if (watch === undefined) return;
        this.#live.delete(handle);
        this.#acks.ended(watch.lane, handle, seq);
        watch.place = { kind: 'ended', handle, connection: this.#connection };
        if (watch.heard === null) this.#watches.delete(watch);
        else this.#hearing.set(handle, watch);
        const isError = reason === 'error' || error !== null;
        const wire = error ?? { code: 'internal', message: 'the answer failed', retryable: false };
        if (isError) watch.feed.failed(errorFromWire(wire));
        else watch.feed.done(seq, reason, usage, timings);
        return;
      }
      case Op.Cancelled: {
        const watch = this.#hearing.get(message[2]);
        this.#hearing.delete(message[2]);
        if (watch !== undefined) this.#heard(watch, null);
        return;
      }
    }
  }

  /** A refusal. Returns false when it is not about a response. */
  refused(lane: number, requestId: string | null, error: ServiceError): boolean {
    if (requestId === null) {
      // Cancel has no requestId; what it is refused for names one of its fields, and lanes keep their order.
      if (error.param !== 'heard' && error.param !== 'handle') return false;
      const watch = [...this.#watches].find((one) => one.heard !== null && this.#laneOr0(one.lane) === lane);
      if (watch !== undefined) this.#heard(watch, error);
      return watch !== undefined;
    }
    const watch = this.#take(requestId);
    if (watch === undefined) return false;
    watch.place = { kind: 'cut' };
    const isNew = watch.create !== null && watch.feed.position() === null;
    if (error.code === 'shutting_down' && !this.#host.isUsable()) {
      // It crossed the server's goaway: the next connection takes it.
      watch.feed.cut();
    } else if (isNew && error.code === 'unknown_response' && typeof watch.supersede === 'object') {
      // The answer to be replaced is gone with a server that was restarted: nothing is left to replace.
      delete watch.create?.options.supersede;
      if (watch.create !== null) this.#sendCreate(watch, watch.create);
    } else if ((isNew && watch.owner === null && error.code === 'model_loading') || (!isNew && isLater(error))) {
      this.#later(watch, error.retryAfterMs ?? RETRY_MS);
    } else {
      for (const other of watch.replaced) other.feed.replaced(false);
      this.fail(watch, error);
    }
    return true;
  }

  #nowLive(watch: Watch, handle: number): void {
    watch.place = { kind: 'live', handle };
    this.#live.set(handle, watch);
    watch.named.resolve();
    if (watch.heard !== null) this.#sendCancel(watch, handle);
    // Ended here although it runs there: nobody reads it any more.
    else if (watch.feed.isCancelled() || watch.feed.isEnded()) this.#sendCancel(watch, handle);
  }

  #resumed(
    watch: Watch,
    isRecovered: boolean,
    handle: number | null,
    response: string,
    epoch: string | null,
    session: string | null,
  ): void {
    const { feed } = watch;
    const before = feed.position();
    if (isRecovered && handle === null && before !== null) {
      // Its Done is all there is; asked for from the event before, it comes again.
      this.#resume(watch, Math.max(0, before.lastSeq - 1));
      return;
    }
    if (!isRecovered || handle === null) {
      const error = lostRest('the server no longer has the rest of this answer', watch);
      if (watch.heard !== null) this.#heard(watch, error);
      feed.failed(before?.lastSeq === 0 && watch.create === null ? unknownResponse(response) : error);
      if (handle === null) this.#drop(watch);
    } else if (!feed.isEnded()) {
      feed.created(response, epoch ?? '', session);
      feed.resumed();
    }
    if (handle !== null) this.#nowLive(watch, handle);
  }

  /** Whatever it needs to go on, on a connection that is there. */
  #again(watch: Watch): void {
    if (watch.feed.position() !== null) {
      // Its session gave the lane back meanwhile, and with it its answers.
      if (!this.#host.hasLane(watch.lane)) void watch.response.cancel();
      this.#resume(watch);
    } else if (watch.owner === null && watch.create !== null && this.#host.isUsable()) {
      this.#sendCreate(watch, watch.create);
    }
  }

  #later(watch: Watch, afterMs: number): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (watch.place.kind === 'cut') this.#again(watch);
    }, afterMs);
    this.#timers.add(timer);
  }

  #sendCreate(watch: Watch, create: { requestId: string; options: CreateOptions }): void {
    this.#asked.set(create.requestId, watch);
    watch.place = { kind: 'asked', requestId: create.requestId };
    this.#host.send([Op.Create, this.#laneOr0(watch.lane), create.requestId, create.options]);
    watch.feed.sent();
  }

  #resume(watch: Watch, lastSeq?: number): void {
    const position = watch.feed.position();
    if (position === null || !this.#host.isOpen()) return;
    const isOver = watch.feed.isEnded();
    const from = lastSeq ?? (isOver ? Math.max(0, position.lastSeq - 1) : position.lastSeq);
    const requestId = randomId();
    this.#asked.set(requestId, watch);
    watch.place = { kind: 'asked', requestId };
    // From the first event on any log will do.
    const epoch = from === 0 || position.epoch === '' ? {} : { epoch: position.epoch };
    const { logprobs, ...view } = watch.view;
    const options: ResumeOptions = { response: position.response, ...epoch, lastSeq: from, ...view };
    if (logprobs !== undefined) options.logprobs = true;
    this.#host.send([Op.Resume, this.#laneOr0(watch.lane), requestId, options]);
  }

  #cancel(watch: Watch, heard: number | null): Promise<void> {
    const { place } = watch;
    if (heard === null) {
      if (place.kind === 'unsent') this.fail(watch, notSent());
      else if (place.kind === 'live') this.#sendCancel(watch, place.handle);
      return Promise.resolve();
    }
    watch.heard?.resolve();
    watch.heard = { offset: heard, ...Promise.withResolvers<void>() };
    const { promise } = watch.heard;
    if (place.kind === 'unsent' || watch.feed.position() === null) {
      // Nothing was heard because nothing was said: an ordinary cancel.
      this.#heard(watch, null);
      return this.#cancel(watch, null);
    }
    this.#watches.add(watch);
    if (place.kind === 'live') {
      this.#sendCancel(watch, place.handle);
    } else if (place.kind === 'ended' && place.handle !== null && place.connection === this.#connection) {
      this.#hearing.set(place.handle, watch);
      this.#sendCancel(watch, place.handle);
    } else if (place.kind === 'ended') {
      watch.place = { kind: 'cut' };
      this.#resume(watch);
    }
    return promise;
  }

  #sendCancel(watch: Watch, handle: number): void {
    const lane = this.#laneOr0(watch.lane);
    this.#host.send(watch.heard === null ? [Op.Cancel, lane, handle] : [Op.Cancel, lane, handle, watch.heard.offset]);
  }

  /** The server has answered a cancel with `heard`. */
  #heard(watch: Watch, error: Error | null): void {
    const { heard } = watch;
    watch.heard = null;
    if (error !== null) heard?.reject(error);
    else if (heard !== null) {
      watch.onHeard?.(heard.offset);
      heard.resolve();
    }
    if (watch.feed.isEnded() && watch.place.kind !== 'live') this.#watches.delete(watch);
  }

  #take(requestId: string): Watch | undefined {
    const watch = this.#asked.get(requestId);
    this.#asked.delete(requestId);
    return watch;
  }

  #drop(watch: Watch): void {
    if (watch.place.kind === 'asked') this.#asked.delete(watch.place.requestId);
    watch.place = { kind: 'ended', handle: null, connection: this.#connection };
    watch.named.resolve();
    this.#watches.delete(watch);
  }

  /** There will be no other connection. */
  #end(watch: Watch, error: Error, isLocal: boolean): void {
    const isLost = error instanceof ConnectionLostError;
    const reason = isLost ? lostRest(error.message, watch, isLocal) : error;
    if (watch.heard !== null) this.#heard(watch, reason);
    watch.feed.failed(reason);
    this.#drop(watch);
  }

  #laneOr0(lane: number): number {
    return this.#host.hasLane(lane) ? lane : 0;
  }
}

function isLater(error: ServiceError): boolean {
  return error.row.retryable;
}
