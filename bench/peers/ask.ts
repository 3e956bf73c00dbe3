// One streamed request from the bench's own process, for the tests that act while answers run. Same code on the wire as
// the load generator's.
import http from 'node:http';
import { sseRequest } from '../load/sse-request.ts';
import type { Contender } from './contenders.ts';

export interface Asked {
  sentAtMs: number;
  /** Times of text. */
  arrivals: number[];
  /** Resolves with the time of the first text. */
  first: Promise<number>;
  /** Resolves with the whole text. */
  done: Promise<string>;
  /** Cuts the connection, which is how HTTP cancels. */
  abort(): void;
}

export interface AskOptions {
  content: string;
  maxTokens: number;
  ignoreEos: boolean;
}

const agent = new http.Agent({ keepAlive: true });
/** Of one answer that somebody waits for. */
const ANSWER_TIMEOUT_MS = 60_000;

export function ask({ url, model }: Contender, { content, maxTokens, ignoreEos }: AskOptions): Asked {
  const arrivals: number[] = [];
  const first = Promise.withResolvers<number>();
  const done = Promise.withResolvers<string>();
  // The same failure reaches whichever of them is awaited.
  for (const { promise } of [first, done]) promise.catch(() => {});
  let text = '';
  const end = (error: Error): void => {
    clearTimeout(timer);
    first.reject(error);
    done.reject(error);
  };
  const body = {
    ...(model === undefined ? {} : { model }),
    messages: [{ role: 'user', content }],
    temperature: 0,
    max_tokens: maxTokens,
    ...(ignoreEos ? { ignore_eos: true } : {}),
  };
  const sentAtMs = performance.now();
  const cut = sseRequest(url, agent, body, {
    onText(atMs, piece) {
      text += piece;
      arrivals.push(atMs);
      first.resolve(atMs);
    },
    onDone() {
      clearTimeout(timer);
      done.resolve(text);
      first.reject(new Error('the answer has no text'));
    },
    onError: (message) => end(new Error(message)),
  });
  const abort = (): void => {
    cut();
    end(new Error('aborted'));
  };
  const timer = setTimeout(() => {
    cut();
    end(new Error(`no whole answer within ${ANSWER_TIMEOUT_MS / 1000} s`));
  }, ANSWER_TIMEOUT_MS);
  return { sentAtMs, arrivals, first: first.promise, done: done.promise, abort };
}
