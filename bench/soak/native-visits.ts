// What visitors of a soak do over the native socket: conversations, cancels, cuts of the network with and without a
// return, readers that stop, deadlines that are missed, forks, tools and frames that are none.
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { ClientCreateOptions, ResponseStream, ToolDefinition } from '../../clients/index.ts';
import { Limits, SUBPROTOCOL } from '../../protocol/constants.ts';
import { NativeLink } from '../load/native-link.ts';
import { StateWatch } from './state-watch.ts';
import type { Visit, Visitor } from './visit.ts';

/** More than a reader's credit and the backlog behind it: one that stops is set aside. */
const PARKING_TOKENS = Limits.creditEvents + Limits.parkBacklogEvents + 200;
/** A busy machine takes its time to make that many. */
const PARKED_MS = 30_000;
/** Whoever reads on waits no longer for a place, even on a crowded machine: there are more places than visitors. */
const GO_ON_MS = 60_000;
const LONG_WORDS = 500;
const CLOSED_MS = 15_000;

const tools: ToolDefinition[] = [
  {
    name: 'weather',
    description: 'The weather in a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
];

function ask(
  visitor: Visitor,
  content: string,
  maxTokens: number,
  more: Partial<ClientCreateOptions> = {},
): ResponseStream {
  const messages = [{ role: 'user' as const, content }];
  return visitor.client.create({ messages, class: visitor.class, sampling: visitor.sampling(maxTokens), ...more });
}

/** At most as long as a reader of some patience would wait. */
async function untilParked(response: ResponseStream): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stopListening = response.onState(({ state }) => {
    if (state === 'parked' || state === 'ended') resolve();
  });
  const timer = setTimeout(resolve, PARKED_MS);
  await promise;
  clearTimeout(timer);
  stopListening();
}

const endless = { temperature: 1, ignoreEos: true } as const;

export const nativeVisits: Readonly<Record<string, Visit>> = {
  async conversation(visitor) {
    const session = visitor.client.session({ class: visitor.class, system: `Be brief. ${visitor.words(4)}` });
    for (let turn = 1 + visitor.pick(4); turn > 0; turn--) {
      await visitor.finish('conversation', session.send(visitor.words(40), visitor.sampling(60)));
    }
    await session.close();
  },

  async fork(visitor) {
    const session = visitor.client.session({ class: 'chat' });
    for (let turn = 0; turn < 2; turn++) {
      // An answer that failed leaves no turn; then there is nothing to fork.
      await visitor.finish('fork', session.send(visitor.words(30), visitor.sampling(40)));
    }
    const fork = await session.fork(Math.min(1, session.numTurns));
    await Promise.all([
      visitor.finish('fork', fork.send(visitor.words(10), visitor.sampling(40))),
      visitor.finish('fork', session.send(visitor.words(10), visitor.sampling(40))),
    ]);
    await session.rollback(0);
    await visitor.finish('fork', session.send(visitor.words(10), visitor.sampling(20)));
    await Promise.all([fork.close(), session.close()]);
  },

  async cancelInPrefill(visitor) {
    const response = ask(visitor, visitor.words(LONG_WORDS), 50);
    await sleep(visitor.pick(80));
    await response.cancel();
    await visitor.finish('cancelInPrefill', response);
  },

  async cancelInDecode(visitor) {
    const response = ask(visitor, visitor.words(20), 400, { sampling: { ...endless, maxTokens: 400 } });
    const wanted = visitor.pick(60);
    for await (const _text of response) if (response.numEvents > wanted) await response.cancel();
    await visitor.finish('cancelInDecode', response);
  },

  async cutAndResume(visitor) {
    const response = ask(visitor, visitor.words(20), 300, {
      sampling: { ...endless, maxTokens: 100 + visitor.pick(200) },
    });
    for (let cuts = 1 + visitor.pick(3); cuts > 0 && !response.isEnded; cuts--) {
      await sleep(visitor.pick(150));
      visitor.network.cut(visitor.pick(2) * 50);
    }
    await visitor.finish('cutAndResume', response);
  },

  /** Nobody comes back: the answer goes on to its end for nobody. */
  async vanish(visitor) {
    const link = await NativeLink.open(visitor.streamUrl);
    const messages = [{ role: 'user' as const, content: visitor.words(60) }];
    const observer = { onText: () => undefined, onDone: () => undefined, onError: () => undefined };
    link.create(0, { messages, sampling: visitor.sampling(200) }, observer);
    await sleep(visitor.pick(200));
    link.drop();
  },

  /** Reads a little, stops until the answer is set aside, and reads on: then it goes on where it stopped. */
  async stopReading(visitor) {
    const sampling = { ...endless, maxTokens: PARKING_TOKENS };
    const response = ask(visitor, visitor.words(20), 1, { sampling, states: true });
    const stopAt = visitor.pick(100);
    let readOnMs: number | null = null;
    const watch = new StateWatch(response);
    for await (const _text of response) {
      if (readOnMs !== null || response.numEvents < stopAt) continue;
      await untilParked(response);
      readOnMs = performance.now();
      watch.begin();
      if (visitor.chance(0.3)) await response.cancel();
    }
    await visitor.finish('stopReading', response);
    if (readOnMs === null) return;
    visitor.ledger.took('stopReading, read on', performance.now() - readOnMs);
    for (const [state, ms] of watch.end()) {
      visitor.ledger.took(`stopReading, read on, ${state}`, ms);
      if ((state === 'queued' || state === 'parked') && ms > GO_ON_MS) {
        visitor.ledger.wrong(`stopReading: ${state} for ${Math.round(ms)} ms after reading on`);
      }
    }
  },

  /** Never acknowledges, so that its answer is set aside, and says goodbye in the end. */
  async neverAck(visitor) {
    const link = await NativeLink.open(visitor.streamUrl);
    link.stall(visitor.chance(0.5));
    const messages = [{ role: 'user' as const, content: visitor.words(20) }];
    const observer = { onText: () => undefined, onDone: () => undefined, onError: () => undefined };
    link.create(0, { messages, sampling: { ...endless, maxTokens: PARKING_TOKENS } }, observer);
    await sleep(1000 + visitor.pick(4000));
    link.close();
  },

  async missDeadline(visitor) {
    const deadlineMs = 1 + visitor.pick(60);
    await visitor.finish('missDeadline', ask(visitor, visitor.words(LONG_WORDS), 200, { deadlineMs }));
  },

  async longPrompt(visitor) {
    await visitor.finish('longPrompt', ask(visitor, visitor.words(2 * LONG_WORDS), 30, { truncation: 'error' }));
  },

  async callTools(visitor) {
    const content = `What is the weather in ${visitor.words(2)}?`;
    await visitor.finish('callTools', ask(visitor, content, 80, { tools }));
  },

  async supersede(visitor) {
    const session = visitor.client.session({ class: visitor.chance(0.5) ? 'voice' : 'ide' });
    const responses: ResponseStream[] = [];
    for (let i = 0; i < 4; i++) {
      responses.push(session.send(visitor.words(20), { ...visitor.sampling(100), supersede: 'lane' }));
      await sleep(visitor.pick(60));
    }
    for (const response of responses) await visitor.finish('supersede', response);
    await session.close();
  },

  /** A frame that is none ends its connection, and nothing else. */
  async badFrame(visitor) {
    const socket = new WebSocket(visitor.streamUrl, SUBPROTOCOL, { perMessageDeflate: false });
    const closed = new Promise<number>((resolve) => {
      socket.on('close', resolve);
      socket.on('error', () => resolve(0));
    });
    socket.on('open', () => socket.send(Uint8Array.from({ length: 1 + visitor.pick(40) }, () => visitor.pick(256))));
    const timer = setTimeout(() => socket.terminate(), CLOSED_MS);
    const code = await closed;
    clearTimeout(timer);
    if (code < 1007 || code > 1008) visitor.ledger.wrong(`badFrame: closed with ${code}`);
  },
};
