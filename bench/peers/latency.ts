// What one contender does with long prompts: its first token alone, what four running streams feel of it, and how soon
// the next request is served after one was cut off in its prefill.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Prompts } from '../prompts.ts';
import { largest } from '../statistics.ts';
import { ask, type Asked } from './ask.ts';
import type { Contender } from './contenders.ts';

const SHORT_TOKENS = 64;
const MIDDLE_TOKENS = 512;
const LONG_TOKENS = 1500;
const RUNNING_STREAMS = 4;
/** More than any stream gets to before it is cut off, and within a context of 2,048. */
const RUNNING_TOKENS = 1900;
/** Streams run this long before the long prompt comes, and as long after its first token. */
const SETTLE_MS = 500;
const CANCEL_AFTER_MS = 60;
/** A contender that serves running streams first would keep the newcomer waiting until they end; they end here. */
const PATIENCE_MS = 10_000;

/** Milliseconds by what was measured; all of it once. */
export async function measureLatency(contender: Contender, prompts: Prompts): Promise<Map<string, number>> {
  const [short, next, middle, long, second, third] = [
    ...prompts.many(2, SHORT_TOKENS),
    prompts.next(MIDDLE_TOKENS),
    ...prompts.many(3, LONG_TOKENS),
  ] as [string, string, string, string, string, string];
  const figures = new Map<string, number>();
  figures.set('TTFT, 64 tokens', await timeToFirst(contender, short));
  figures.set('TTFT, 512 tokens', await timeToFirst(contender, middle));
  figures.set('TTFT, 1,500 tokens', await timeToFirst(contender, long));

  const victim = ask(contender, { content: second, maxTokens: 4, ignoreEos: true });
  await sleep(CANCEL_AFTER_MS);
  victim.abort();
  figures.set('TTFT, 64 tokens, after a cancel in prefill', await timeToFirst(contender, next));
  if (contender.isConcurrent)
    await measureStall(contender, prompts.many(RUNNING_STREAMS, SHORT_TOKENS), third, figures);
  return figures;
}

async function timeToFirst(contender: Contender, content: string): Promise<number> {
  const asked = ask(contender, { content, maxTokens: 4, ignoreEos: true });
  const ms = (await asked.first) - asked.sentAtMs;
  await asked.done;
  return ms;
}

async function measureStall(
  contender: Contender,
  contents: readonly string[],
  long: string,
  figures: Map<string, number>,
): Promise<void> {
  const options = { maxTokens: RUNNING_TOKENS, ignoreEos: true };
  const streams = contents.map((content) => ask(contender, { content, ...options }));
  const abort = (): void => streams.forEach((stream) => stream.abort());
  try {
    await Promise.all(streams.map(({ first }) => first));
    await sleep(SETTLE_MS);
    const newcomer = ask(contender, { content: long, maxTokens: 4, ignoreEos: true });
    const patience = setTimeout(abort, PATIENCE_MS);
    const firstAtMs = await newcomer.first;
    clearTimeout(patience);
    if (firstAtMs - newcomer.sentAtMs < PATIENCE_MS) await sleep(SETTLE_MS);
    const until = Math.min(performance.now(), newcomer.sentAtMs + PATIENCE_MS);
    figures.set(
      'longest gap of four streams, before',
      longestGap(streams, newcomer.sentAtMs - SETTLE_MS, newcomer.sentAtMs),
    );
    figures.set('longest gap of four streams, long prompt arriving', longestGap(streams, newcomer.sentAtMs, until));
    figures.set('TTFT, 1,500 tokens, four streams running', firstAtMs - newcomer.sentAtMs);
    await newcomer.done;
  } finally {
    abort();
  }
}

/** Longest time without text of one stream, as far as it ends in the window; one that still lasts counts until the end. */
export function longestGap(streams: readonly Pick<Asked, 'arrivals'>[], fromMs: number, toMs: number): number {
  return largest(
    streams.flatMap(({ arrivals }) => {
      const times = [...arrivals.filter((atMs) => atMs <= toMs), toMs];
      return times.slice(1).flatMap((atMs, i) => (atMs >= fromMs ? atMs - times[i]! : []));
    }),
  );
}
