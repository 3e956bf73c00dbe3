// Checks that the OpenAI dialects share: what is refused by name, what is accepted without effect, and the sampling
// fields under OpenAI's names. A field that is null counts as absent everywhere.
import { ServiceError } from '../../protocol/errors.ts';
import type { ToolDefinition } from '../../protocol/messages.ts';
import { parseSamplingField, parseTools } from '../../protocol/options.ts';
import { defaultSampling, type SamplingParams } from '../../protocol/sampling.ts';

/** Throws `unsupported`: it exists elsewhere, but not here. */
export function unsupported(param: string, why = 'is not supported'): never {
  throw new ServiceError('unsupported', `${param} ${why}.`, { param });
}

/** Refuses every field of `value` that is not listed. */
export function onlyFields(value: Record<string, unknown>, param: string, names: readonly string[]): void {
  for (const [name, field] of Object.entries(value)) {
    if (field !== null && field !== undefined && !names.includes(name)) unsupported(`${param}.${name.slice(0, 64)}`);
  }
}

/** Throws unless the value asks for what happens anyway. */
export function onlyValues(param: string, value: unknown, allowed: readonly unknown[]): void {
  if (allowed.includes(value)) return;
  unsupported(param, `supports only ${allowed.map((one) => JSON.stringify(one)).join(' and ')}`);
}

/** Sampling fields that several dialects take, also those known from other servers only. */
export const commonSampling = {
  temperature: 'temperature',
  top_p: 'topP',
  top_k: 'topK',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  presence_penalty: 'presencePenalty',
  frequency_penalty: 'frequencyPenalty',
  logit_bias: 'logitBias',
  seed: 'seed',
  stop: 'stop',
  ignore_eos: 'ignoreEos',
} as const satisfies Record<string, keyof SamplingParams>;

/** The body's sampling fields, found by the given names, over the defaults. */
export function parseSampling(
  body: Record<string, unknown>,
  names: Readonly<Record<string, keyof SamplingParams>>,
): SamplingParams {
  const sampling: SamplingParams = { ...defaultSampling };
  for (const [name, field] of Object.entries(names)) {
    let value = body[name];
    if (value === undefined || value === null) continue;
    if (name === 'stop' && typeof value === 'string') value = [value];
    // vLLM's spelling of "all".
    if (name === 'top_k' && value === -1) value = 0;
    Object.assign(sampling, { [field]: parseSamplingField(field, value, name) });
  }
  return sampling;
}

/** Unwrapped functions, and the names of those whose arguments must fit their schema. */
export function parseStrictTools(functions: readonly Record<string, unknown>[]): {
  tools: ToolDefinition[];
  strict: Set<string>;
} {
  const tools = parseTools(
    functions.map(({ strict: _strict, ...rest }) => rest),
    'tools',
  );
  return {
    tools,
    strict: new Set(tools.flatMap(({ name }, index) => (functions[index]!.strict === true ? name : []))),
  };
}
