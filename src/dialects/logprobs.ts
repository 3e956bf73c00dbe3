// Log-probabilities in OpenAI's form, the same in Chat Completions and Responses.
import type { TokenAlternative, TokenLogprob } from '../../protocol/messages.ts';

function alternative([token, logprob, bytes]: TokenAlternative) {
  return { token, logprob, bytes };
}

/** One object per token, with the likeliest tokens in its place. */
export function tokenObjects(tokens: readonly TokenLogprob[]) {
  return tokens.map(([token, logprob, bytes, top]) => ({
    ...alternative([token, logprob, bytes]),
    top_logprobs: top.map(alternative),
  }));
}

export type TokenObject = ReturnType<typeof tokenObjects>[number];
