// Submits to an Engine and collects what its sink hears; used by engine tests with real threads.
import { defaultSampling } from '../../../protocol/sampling.ts';
import type { SamplingParams } from '../../../protocol/sampling.ts';
import type { ServiceError } from '../../../protocol/errors.ts';
import type { PromptInput } from '../../../workers/messages/requests.ts';
import type { Engine, EngineSink, SubmitOptions } from '../../../src/engine/types.ts';

export interface Collected {
  id: number;
  text: string;
  tokenIds: number[];
  cachedTokens: number;
  promptTokens: number;
  reason: string;
  error: ServiceError | null;
  numEnds: number;
  /** performance.now() of each token's arrival. */
  times: number[];
}

export interface Running {
  readonly result: Collected;
  readonly done: Promise<Collected>;
  /** Resolves when this many tokens have arrived, or at the end. */
  tokens(count: number): Promise<void>;
  cancel(): void;
}

export function chat(content: string): PromptInput {
  return { kind: 'chat', messages: [{ role: 'user', content }], tools: [], history: null, truncation: 'auto' };
}

export function generate(
  engine: Engine,
  prompt: string | PromptInput,
  sampling: Partial<SamplingParams> = {},
  options: Partial<SubmitOptions> = {},
): Running {
  const result: Collected = {
    id: 0,
    text: '',
    tokenIds: [],
    cachedTokens: -1,
    promptTokens: 0,
    reason: '',
    error: null,
    numEnds: 0,
    times: [],
  };
  const waiters: { count: number; resolve: () => void }[] = [];
  const wakeUp = (): void => {
    for (const waiter of waiters) {
      if (result.tokenIds.length >= waiter.count || result.numEnds > 0) waiter.resolve();
    }
  };
  const { promise: done, resolve } = Promise.withResolvers<Collected>();
  const sink: EngineSink = {
    onEncoded(promptTokens) {
      result.promptTokens = promptTokens;
    },
    onPrompt() {},
    onPrefill(cachedTokens) {
      result.cachedTokens = cachedTokens;
    },
    onToken(tokenId, text) {
      if (result.numEnds > 0) throw new Error('token after the end');
      result.tokenIds.push(tokenId);
      result.text += text;
      result.times.push(performance.now());
      wakeUp();
    },
    onText(text) {
      result.text += text;
    },
    onLogprobs() {},
    onToolBegin() {},
    onToolDelta() {},
    onToolEnd() {},
    onEnd(reason, error) {
      result.numEnds++;
      result.reason = reason;
      result.error = error;
      wakeUp();
      resolve(result);
    },
  };
  [result.id] = engine.submit(
    {
      tenant: 'test',
      session: '',
      class: 'chat',
      toolNames: [],
      prompt: typeof prompt === 'string' ? chat(prompt) : prompt,
      sampling: { ...defaultSampling, temperature: 0, seed: 1, ...sampling },
      ...options,
    },
    [sink],
  ) as [number];
  return {
    result,
    done,
    tokens: (count) => {
      const { promise, resolve: reached } = Promise.withResolvers<void>();
      waiters.push({ count, resolve: reached });
      wakeUp();
      return promise;
    },
    cancel: () => engine.cancel(result.id),
  };
}
