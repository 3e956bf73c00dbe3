// One visitor of a soak: its own connection through a network that can be cut, its own random numbers, and the short ways
// in which all visits talk. Made by soak-run.ts; used by native-visits.ts and http-visits.ts.
import { connect } from '../../clients/index.ts';
import type { Client, LatencyClass, ResponseStream, SendOptions } from '../../clients/index.ts';
import { TcpProxy } from '../../clients/demos/tcp-proxy.ts';
import { random } from '../../test/support/random.ts';
import type { Ledger } from './ledger.ts';

export type Visit = (visitor: Visitor) => Promise<void>;

const WORDS = 'river stone 月亮 garden letter music 🙂 bread silver market island engine paper mountain captain'.split(
  ' ',
);
const CLASSES: readonly LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];
/** How soon a cut client comes back, milliseconds. */
const RETRY_MS = 20;

export class Visitor {
  readonly url: string;
  readonly streamUrl: string;
  readonly ledger: Ledger;
  readonly client: Client;
  readonly network: TcpProxy;
  readonly #next: () => number;

  private constructor(port: number, seed: number, ledger: Ledger, network: TcpProxy) {
    this.url = `http://127.0.0.1:${port}`;
    this.streamUrl = `ws://127.0.0.1:${port}/v1/stream`;
    this.ledger = ledger;
    this.network = network;
    this.#next = random(seed);
    this.client = connect(`http://127.0.0.1:${network.port}`, {
      name: 'soak',
      retryFirstMs: RETRY_MS,
      retryMaxMs: 10 * RETRY_MS,
    });
  }

  static async arrive(port: number, seed: number, ledger: Ledger): Promise<Visitor> {
    return new Visitor(port, seed, ledger, await TcpProxy.start(port));
  }

  async leave(): Promise<void> {
    this.client.close();
    await this.network.stop();
  }

  /** A whole number from 0 to `below` - 1. */
  pick(below: number): number {
    return Math.floor(this.#next() * below);
  }

  chance(share: number): boolean {
    return this.#next() < share;
  }

  get class(): LatencyClass {
    return CLASSES[this.pick(CLASSES.length)]!;
  }

  /** Up to this many words, at least one. */
  words(most: number): string {
    return Array.from({ length: 1 + this.pick(most) }, () => WORDS[this.pick(WORDS.length)]).join(' ');
  }

  sampling(maxTokens: number): Pick<SendOptions, 'temperature' | 'seed' | 'maxTokens'> {
    return { temperature: this.chance(0.5) ? 0 : 1, seed: this.pick(1000), maxTokens: 1 + this.pick(maxTokens) };
  }

  /** Waits for the end of an answer and counts it. Returns its reason, or the code of its error. */
  async finish(kind: string, response: ResponseStream): Promise<void> {
    try {
      const { reason, text } = await response.finished;
      this.ledger.end(reason);
      if (text !== response.text) this.ledger.wrong(`${kind}: the text of ${response.id} is not what was streamed`);
    } catch (error) {
      this.ledger.error(kind, error);
    }
  }
}
