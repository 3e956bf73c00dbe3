// The direct line between the lead and one decode worker. A message is posted first and the mail counter bumped
// after it, so a worker that sees the counter move always finds the message.
import { receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { Ctl } from './messages/shared.ts';
import type { LeaveKind } from './decode-range.ts';
import type { SequenceState } from './sequence.ts';
import type { Claim } from './shares.ts';

/** lead → decode worker */
export type LeadMessage =
  | { op: 'lend'; sequence: SequenceState }
  /** Give up to this many sequences back, KV in their homes. */
  | { op: 'recall'; count: number }
  /** Send this one back, KV in its home: others need its row. */
  | { op: 'yield'; id: number };

/** decode worker → lead */
export type DecodeMessage =
  | { op: 'left'; sequence: SequenceState; kind: LeaveKind }
  /** It should be left more or fewer streams (EngineShared.soloRows) than before. */
  | { op: 'solo' }
  /** Answers a recall: how many are coming. */
  | { op: 'recalled'; count: number }
  /** First message on a new link: what it holds (a new lead must not touch those homes). */
  | { op: 'inventory'; held: { id: number; home: number; claim: Claim }[] };

export class Link<Out, In> {
  readonly #port: MessagePort;
  readonly #peer: Int32Array;

  /** `peer`: control buffer of the worker at the other end. */
  constructor(port: MessagePort, peer: SharedArrayBuffer) {
    this.#port = port;
    this.#peer = new Int32Array(peer);
  }

  send(message: Out): void {
    this.#port.postMessage(message);
    Atomics.add(this.#peer, Ctl.mail, 1);
    Atomics.notify(this.#peer, Ctl.mail);
  }

  receive(): In | undefined {
    return receiveMessageOnPort(this.#port)?.message as In | undefined;
  }

  close(): void {
    this.#port.close();
  }
}
