// SamplingParams: names, defaults and ranges, shared by the native wire, the HTTP dialects and the sampler.

/** How the next token is chosen. All fields are optional on the wire; `defaultSampling` fills the gaps. */
export interface SamplingParams {
  /** 0 is greedy. */
  temperature: number;
  /** Keep the k likeliest tokens; 0 keeps all. */
  topK: number;
  /** Keep the smallest set of tokens whose probability reaches topP. */
  topP: number;
  /** Drop tokens less likely than minP times the likeliest. */
  minP: number;
  /** Divides (positive) or multiplies (negative) the logits of tokens seen in prompt or answer; 1 is off. */
  repetitionPenalty: number;
  /** Subtracted once from the logit of each token already in the answer. */
  presencePenalty: number;
  /** Subtracted per occurrence from the logit of each token already in the answer. */
  frequencyPenalty: number;
  /** Token id → added to its logit. */
  logitBias: Record<string, number> | null;
  /** Same seed, same request: same text. Null draws one. */
  seed: number | null;
  /** Most tokens of the answer; null is as many as the context holds. */
  maxTokens: number | null;
  /** The answer ends before the first of these strings. */
  stop: string[];
  /** Go on past the model's end token (benchmarks). */
  ignoreEos: boolean;
}

export const defaultSampling: Readonly<SamplingParams> = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: null,
  seed: null,
  maxTokens: null,
  stop: [],
  ignoreEos: false,
};

/** Inclusive ranges of the numeric fields. */
export const samplingRanges = {
  temperature: [0, 2],
  topK: [0, 1_000_000],
  topP: [0, 1],
  minP: [0, 1],
  repetitionPenalty: [0.01, 10],
  presencePenalty: [-2, 2],
  frequencyPenalty: [-2, 2],
  logitBias: [-100, 100],
  seed: [-(2 ** 53) + 1, 2 ** 53 - 1],
  maxTokens: [1, 10_000_000],
} as const;

/**
 * All fields, from those given: later layers go before earlier ones (session, then request), and the defaults
 * fill the rest. A field that is undefined counts as not given; null is a value (seed, maxTokens, logitBias).
 */
export function resolveSampling(...layers: readonly (Partial<SamplingParams> | undefined)[]): SamplingParams {
  const resolved: SamplingParams = { ...defaultSampling, stop: [] };
  for (const layer of layers) {
    for (const [field, value] of Object.entries(layer ?? {})) {
      if (value !== undefined) Object.assign(resolved, { [field]: value });
    }
  }
  return resolved;
}
