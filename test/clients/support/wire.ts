// A client on a transport without a socket, with words for what a script needs: what was sent, and what arrives.
import { encode } from '../../../protocol/codec.ts';
import { Op } from '../../../protocol/messages.ts';
import type { ServerMessage, SessionInfo, Usage } from '../../../protocol/messages.ts';
import { connect } from '../../../clients/index.ts';
import type { Client, ConnectOptions } from '../../../clients/index.ts';
import { SocketFree } from './socket-free.ts';
import { until } from './until.ts';

export const usage: Usage = { promptTokens: 1, cachedTokens: 0, completionTokens: 1, droppedMessages: 0 };
export const timings = { queuedMs: 0, prefillMs: 0, ttftMs: 0, totalMs: 0 };

export function sessionInfo(session: string, fields: Partial<SessionInfo> = {}): SessionInfo {
  return { session, model: 'fake-model', createdAtMs: 0, numTurns: 0, title: '', active: [], ...fields };
}

export class Wire {
  readonly free = new SocketFree();
  readonly client: Client;

  constructor(options: ConnectOptions = {}) {
    this.client = connect('ws://nowhere', {
      transport: this.free.open,
      retryFirstMs: 1,
      retryMaxMs: 2,
      ...options,
    });
  }

  /** Everything of this op that was sent, oldest first. */
  sent(op: number): unknown[][] {
    return (this.free.sent as unknown[][]).filter((message) => message[0] === op);
  }

  /** The `count`th message of this op, as soon as it was sent. */
  async next(op: number, count = 1): Promise<unknown[]> {
    await until(() => this.sent(op).length >= count);
    return this.sent(op)[count - 1] ?? [];
  }

  receive(...messages: ServerMessage[]): void {
    for (const message of messages) this.free.receiveBytes(encode(message));
  }

  /** The connection is lost and the next one is welcomed. */
  async reconnect(): Promise<void> {
    const before = this.free.numOpened;
    this.lose();
    await until(() => this.free.numOpened === before + 1);
    this.free.welcome();
  }

  lose(): void {
    this.free.events?.onClose(1006, '');
  }

  /** Answers the newest OpenSession. */
  async openSession(info: SessionInfo, count = 1): Promise<void> {
    const [, lane, requestId] = await this.next(Op.OpenSession, count);
    this.receive([Op.SessionOpened, lane as number, requestId as string, info]);
  }

  /** Accepts the `count`th create. */
  async created(count: number, handle: number, response: string, session: string | null = null): Promise<void> {
    const [, lane, requestId] = await this.next(Op.Create, count);
    this.receive([Op.Created, lane as number, requestId as string, handle, response, 'epoch', session]);
  }

  /** Answers the `count`th resume. */
  async resumed(count: number, isRecovered: boolean, handle: number | null, epoch: string | null): Promise<void> {
    const [, lane, requestId, options] = await this.next(Op.Resume, count);
    const { response } = options as { response: string };
    this.receive([Op.Resumed, lane as number, requestId as string, isRecovered, handle, response, epoch, null]);
  }

  done(handle: number, seq: number, reason: 'stop' | 'cancelled' = 'stop', lane = 0): void {
    this.receive([Op.Done, lane, handle, seq, reason, usage, timings, null]);
  }
}
