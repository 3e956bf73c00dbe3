// Streams of others, which must not notice what a test does meanwhile: one on a connection of its own, and one on a lane
// of any connection. Each answers the same prompt, whose text is learned beforehand on the idle server.
import { expect } from 'vitest';
import { Op } from '../../../protocol/messages.ts';
import type { Answer } from './answer.ts';
import { NativeClient } from './native-client.ts';
import type { TestServer } from './test-server.ts';

const PROMPT = 'a bystander';
const sampling = { temperature: 0, ignoreEos: true };

export class Bystanders {
  readonly #server: TestServer;
  readonly #tokens: number;
  #expected = '';

  private constructor(server: TestServer, tokens: number) {
    this.#server = server;
    this.#tokens = tokens;
  }

  static async learn(server: TestServer, tokens: number): Promise<Bystanders> {
    const bystanders = new Bystanders(server, tokens);
    const client = await NativeClient.connect(server.streamUrl);
    const answer = client.say(PROMPT, { ...sampling, maxTokens: tokens });
    await answer.done();
    bystanders.#expected = answer.text;
    await client.close();
    return bystanders;
  }

  /** A stream on this connection. */
  start(client: NativeClient, lane = 0): Answer {
    return client.say(PROMPT, { ...sampling, maxTokens: this.#tokens }, lane);
  }

  /** Waits for the end of a stream and compares its text. */
  async isWhole(answer: Answer): Promise<void> {
    expect((await answer.done()).reason).toBe('length');
    expect(answer.text).toBe(this.#expected);
  }

  /** Runs `act` while streams of another connection flow, one after the other; each must end whole. */
  async watch(act: () => Promise<void>): Promise<void> {
    const client = await NativeClient.connect(this.#server.streamUrl);
    const acting = { isOver: false };
    const streams = (async () => {
      while (!acting.isOver) await this.isWhole(this.start(client));
    })();
    await client.next(Op.Created);
    try {
      await act();
    } finally {
      acting.isOver = true;
      await streams;
    }
    expect(client.violations).toEqual([]);
    await client.close();
  }
}
