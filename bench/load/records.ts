// What a load generator notes per request, and the figures drawn from it. Pure; load-client.ts fills, benches read.
import type { Timings } from '../../protocol/messages.ts';
import { largest } from '../statistics.ts';

/** Times are of one clock, milliseconds. */
export interface RequestRecord {
  sentAtMs: number;
  /** Arrivals of text, in order. */
  arrivals: { atMs: number; units: number }[];
  endAtMs: number;
  promptTokens: number;
  /** From the server's usage. */
  completionTokens: number;
  /** The server's own account, milliseconds; native only. */
  timings: Timings | null;
  cachedTokens: number;
}

/**
 * Tokens that arrived within [fromMs, toMs). An arrival may carry several tokens, and not every token has text, so the
 * tokens of a request are spread over its arrivals by their units (log events, or characters).
 */
export function tokensWithin(records: readonly RequestRecord[], fromMs: number, toMs: number): number {
  let tokens = 0;
  for (const { arrivals, completionTokens } of records) {
    const units = arrivals.reduce((total, arrival) => total + arrival.units, 0);
    const within = arrivals.reduce(
      (total, { atMs, units: each }) => (atMs >= fromMs && atMs < toMs ? total + each : total),
      0,
    );
    if (units > 0) tokens += (completionTokens * within) / units;
  }
  return tokens;
}

/** Create to first text, milliseconds, of requests sent within the window. */
export function firstTokenTimes(records: readonly RequestRecord[], fromMs = -Infinity, toMs = Infinity): number[] {
  return records
    .filter(({ sentAtMs, arrivals }) => sentAtMs >= fromMs && sentAtMs < toMs && arrivals.length > 0)
    .map(({ sentAtMs, arrivals }) => arrivals[0]!.atMs - sentAtMs);
}

/** Times between two arrivals of one stream, both within the window. */
export function gaps(records: readonly RequestRecord[], fromMs = -Infinity, toMs = Infinity): number[] {
  const all: number[] = [];
  for (const { arrivals } of records) {
    for (let i = 1; i < arrivals.length; i++) {
      const before = arrivals[i - 1]!.atMs;
      const { atMs } = arrivals[i]!;
      if (before >= fromMs && atMs < toMs) all.push(atMs - before);
    }
  }
  return all;
}

/**
 * The part of a burst in which every stream decodes: from the last first token to the first last one. Its first
 * arrivals are not counted, since their time lies before the window.
 */
export function decodePhase(records: readonly RequestRecord[]): { tokens: number; ms: number } {
  const started = largest(records.map(({ arrivals }) => arrivals[0]?.atMs ?? Infinity));
  const ended = -largest(records.map(({ arrivals }) => -(arrivals.at(-1)?.atMs ?? -Infinity)));
  if (!(ended > started)) return { tokens: 0, ms: 0 };
  // Half-open at the front: what arrived at the start was computed before it.
  const epsilon = 1e-6;
  return { tokens: tokensWithin(records, started + epsilon, ended + epsilon), ms: ended - started };
}
