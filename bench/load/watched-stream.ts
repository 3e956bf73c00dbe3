// Single answers on one native link that remember when their text arrived: what a stream feels while something else
// happens. Used by stall, long and burst; the bench itself is the client.
import { largest } from '../statistics.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { NativeLink } from './native-link.ts';

/** Lane of all requests that name none; the caller opens it. */
export const LANE = 1;

type LogitBias = SamplingParams['logitBias'];

export interface Stream {
  arrivals: number[];
  sentAtMs: number;
  handle: number;
  done: Promise<string>;
  cancelledAtMs: Promise<number>;
  first: Promise<number>;
}

/** Asks for a greedy answer of exactly `maxTokens` tokens; with `session` it is a turn of that. */
export function ask(
  link: NativeLink,
  content: string,
  maxTokens: number,
  { lane = LANE, session, logitBias = null }: { lane?: number; session?: string; logitBias?: LogitBias } = {},
): Stream {
  const arrivals: number[] = [];
  const first = Promise.withResolvers<number>();
  const done = Promise.withResolvers<string>();
  const cancelledAt = Promise.withResolvers<number>();
  // The same failure reaches whichever of them is awaited.
  for (const { promise } of [first, done, cancelledAt]) promise.catch(() => {});
  const stream: Stream = {
    arrivals,
    sentAtMs: performance.now(),
    handle: 0,
    done: done.promise,
    cancelledAtMs: cancelledAt.promise,
    first: first.promise,
  };
  const options = {
    ...(session === undefined ? {} : { session }),
    messages: [{ role: 'user' as const, content }],
    sampling: { temperature: 0, maxTokens, ignoreEos: true, logitBias },
  };
  link.create(lane, options, {
    onCreated(handle) {
      stream.handle = handle;
    },
    onText(atMs) {
      arrivals.push(atMs);
      first.resolve(atMs);
    },
    onDone(atMs, reason) {
      // An answer may have no text at all: tokens that end it, and were told not to.
      first.resolve(atMs);
      done.resolve(reason);
    },
    onCancelled: (atMs) => cancelledAt.resolve(atMs),
    onError(message) {
      const error = new Error(message);
      for (const each of [first, done, cancelledAt]) each.reject(error);
    },
  });
  return stream;
}

/** Milliseconds from sending Cancel to Cancelled. */
export async function cancel(link: NativeLink, stream: Stream): Promise<number> {
  if (stream.handle === 0) throw new Error('the response has no handle yet');
  const sentAtMs = performance.now();
  link.cancel(LANE, stream.handle);
  return (await stream.cancelledAtMs) - sentAtMs;
}

/** Times between two arrivals of one stream, of which the later lies in the window. */
export function gapsWithin(streams: readonly Stream[], fromMs: number, toMs: number): number[] {
  return streams.flatMap(({ arrivals }) =>
    arrivals.slice(1).flatMap((atMs, i) => (atMs >= fromMs && atMs <= toMs ? atMs - arrivals[i]! : [])),
  );
}

export function longestGap(streams: readonly Stream[], fromMs: number, toMs: number): number {
  return largest(gapsWithin(streams, fromMs, toMs));
}
