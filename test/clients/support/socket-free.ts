// A transport without a socket: the test says what arrives and reads what was sent.
import { decode, encode } from '../../../protocol/codec.ts';
import { Limits } from '../../../protocol/constants.ts';
import { Op } from '../../../protocol/messages.ts';
import type { Transport, TransportEvents } from '../../../clients/index.ts';
import { fakeModel } from './fake-server.ts';

export class SocketFree {
  events: TransportEvents | null = null;
  readonly sentBytes: Uint8Array[] = [];
  closedWith: { code: number; reason: string } | null = null;
  numOpened = 0;

  readonly open = (_url: string, events: TransportEvents): Transport => {
    this.events = events;
    this.numOpened++;
    return {
      send: (bytes) => this.sentBytes.push(bytes.slice()),
      close: (code, reason) => {
        this.closedWith = { code, reason };
      },
    };
  };

  get sent(): unknown[] {
    return this.sentBytes.map((bytes) => decode(bytes));
  }

  welcome(): void {
    this.events?.onOpen();
    const info = { server: 'free/1', connection: 'c', models: [fakeModel], limits: { ...Limits } };
    this.receiveBytes(encode([Op.Welcome, 0, 1, info]));
  }

  receiveBytes(bytes: Uint8Array): void {
    this.events?.onMessage(bytes.slice());
  }
}
