// Checks of the option maps inside client messages: chat messages, tools, sampling, session and create options.
// validate.ts uses them for the native wire; the HTTP dialects reuse the pieces with their own field names.
// All throw ServiceError `invalid_request` with the field's path in `param`.
import { Limits } from './constants.ts';
import {
  boolean,
  integer,
  list,
  map,
  matching,
  nullable,
  number,
  object,
  oneOf,
  optional,
  required,
} from './fields.ts';
import { join, refuse, string } from './fields.ts';
import { parseResponseFormat, parseToolChoice, TOOL_NAME } from './form.ts';
import type { Check, Field } from './fields.ts';
import { latencyClasses } from './messages.ts';
import type { ChatMessage, CreateOptions, HelloOptions, LaneOptions, ResumeOptions } from './messages.ts';
import type { LatencyClass, SessionOptions, ToolCall, ToolDefinition, ViewOptions } from './messages.ts';
import { samplingRanges } from './sampling.ts';
import type { SamplingParams } from './sampling.ts';

/** Largest op, lane and handle. */
export const MAX_ID = 2 ** 31 - 1;
/** Shortest name of a client instance: it has to be random, or two tabs would share their requestIds. */
const MIN_INSTANCE_CHARS = 16;

const TOKEN_ID = /^(0|[1-9][0-9]{0,8})$/;
/** Longest time that timers hold: 2^31 - 1 milliseconds. */
const MAX_DEADLINE_MS = 2 ** 31 - 1;

const text = string(0, Infinity);
const id = string(1, Limits.requestIdChars);
const modelId = string(1, 256);
const truncation = oneOf(['auto', 'error'] as const);

export const parseRequestId: Check<string> = id;
export const parseClass: Check<LatencyClass> = oneOf(latencyClasses);
/** Stop strings; HTTP bodies with a single string wrap it first. */
export const parseStop: Check<string[]> = list(string(1, Limits.stopStringChars), 0, Limits.stopStrings);

const parseBias: Check<Record<string, number>> = (value, param) => {
  const entries = Object.entries(map(value, param));
  if (entries.length > Limits.logitBiasEntries) refuse(param, `a map of at most ${Limits.logitBiasEntries} entries`);
  const bias = number(...samplingRanges.logitBias);
  return Object.fromEntries(
    entries.map(([key, amount]) => {
      if (!TOKEN_ID.test(key)) refuse(join(param, key.slice(0, 64)), 'named by a token id, a decimal integer');
      return [key, bias(amount, join(param, key))];
    }),
  );
};

const samplingFields: { [K in keyof SamplingParams]: Field<SamplingParams[K]> } = {
  temperature: optional(number(...samplingRanges.temperature)),
  topK: optional(integer(...samplingRanges.topK)),
  topP: optional(number(...samplingRanges.topP)),
  minP: optional(number(...samplingRanges.minP)),
  repetitionPenalty: optional(number(...samplingRanges.repetitionPenalty)),
  presencePenalty: optional(number(...samplingRanges.presencePenalty)),
  frequencyPenalty: optional(number(...samplingRanges.frequencyPenalty)),
  logitBias: nullable(parseBias),
  seed: nullable(integer(...samplingRanges.seed)),
  maxTokens: nullable(integer(...samplingRanges.maxTokens)),
  stop: optional(parseStop),
  ignoreEos: optional(boolean),
};

/** One sampling field under another name: `param` is what the caller calls it (`top_p` for topP). */
export function parseSamplingField<K extends keyof SamplingParams>(
  field: K,
  value: unknown,
  param: string,
): SamplingParams[K] {
  return samplingFields[field].check(value, param);
}

/** Sampling fields that were given, by their native names. `resolveSampling` fills the gaps. */
export const parseSampling: Check<Partial<SamplingParams>> = object<Partial<SamplingParams>>(samplingFields);

/** One tool definition `{name, description?, parameters?}`; HTTP bodies unwrap `function` first. */
export const parseTool: Check<ToolDefinition> = object<ToolDefinition>({
  name: required(matching(TOOL_NAME)),
  description: optional(text),
  parameters: optional(map),
  strict: optional(boolean),
});

/** At most Limits.toolsPerRequest tools with distinct names. */
export const parseTools: Check<ToolDefinition[]> = (value, param) => {
  const tools = list(parseTool, 0, Limits.toolsPerRequest)(value, param);
  const names = new Set<string>();
  for (const [index, { name }] of tools.entries()) {
    if (names.has(name)) refuse(`${param}[${index}].name`, 'different from the other tools');
    names.add(name);
  }
  return tools;
};

const parseToolCall: Check<ToolCall> = object<ToolCall>({
  id: required(id),
  name: required(matching(TOOL_NAME)),
  arguments: required(text),
});

const parseMessageShape = object<ChatMessage>({
  role: required(oneOf(['system', 'user', 'assistant', 'tool'] as const)),
  content: required(text),
  name: optional(string(1, Limits.requestIdChars)),
  toolCalls: optional(list(parseToolCall, 0, Limits.toolsPerRequest)),
  toolCallId: optional(id),
});

/** One chat message: only assistant has toolCalls, tool and only tool has toolCallId. */
export const parseMessage: Check<ChatMessage> = (value, param) => {
  const message = parseMessageShape(value, param);
  if (message.toolCalls !== undefined && message.role !== 'assistant') {
    refuse(`${param}.toolCalls`, 'absent unless role is "assistant"');
  }
  if (message.role === 'tool' && message.toolCallId === undefined) {
    refuse(`${param}.toolCallId`, 'given when role is "tool"');
  }
  if (message.role !== 'tool' && message.toolCallId !== undefined) {
    refuse(`${param}.toolCallId`, 'absent unless role is "tool"');
  }
  return message;
};

export const parseMessages: Check<ChatMessage[]> = list(parseMessage, 0, Limits.messagesPerRequest);

export const parseHelloOptions: Check<HelloOptions> = object<HelloOptions>({
  token: optional(string(1, 8192)),
  client: optional(string(0, 256)),
  instance: optional(string(MIN_INSTANCE_CHARS, Limits.requestIdChars)),
});

export const parseLaneOptions: Check<LaneOptions> = object<LaneOptions>({ class: optional(parseClass) });

const parseSessionShape = object<SessionOptions>({
  session: optional(id),
  model: optional(modelId),
  system: optional(text),
  tools: optional(parseTools),
  messages: optional(parseMessages),
  sampling: optional(parseSampling),
  truncation: optional(truncation),
});

/** With `session` (reopen) no other field may be given. */
export const parseSessionOptions: Check<SessionOptions> = (value, param) => {
  const options = parseSessionShape(value, param);
  const other = Object.keys(options).find((key) => key !== 'session');
  if (options.session !== undefined && other !== undefined) {
    refuse(join(param, other), 'absent when session is given: that session has its own');
  }
  return options;
};

const viewFields: { [K in keyof ViewOptions]-?: Field<boolean> } = {
  offsets: optional(boolean),
  sentences: optional(boolean),
  states: optional(boolean),
};

const handleNumber = integer(1, MAX_ID);
/** A handle, or 'lane', or a response id. */
const parseSupersede: Check<number | string> = (value, param) =>
  typeof value === 'string' ? id(value, param) : handleNumber(value, param);

const parseResumeShape = object<ResumeOptions>({
  response: required(id),
  epoch: optional(id),
  lastSeq: required(integer(0, Number.MAX_SAFE_INTEGER)),
  logprobs: optional(boolean),
  ...viewFields,
});

/** A seq means nothing without the log it counts in. */
export const parseResumeOptions: Check<ResumeOptions> = (value, param) => {
  const options = parseResumeShape(value, param);
  if (options.epoch === undefined && options.lastSeq > 0) refuse(join(param, 'epoch'), 'given when lastSeq is above 0');
  return options;
};

const parseCreateShape = object<CreateOptions>({
  session: optional(id),
  messages: required(list(parseMessage, 1, Limits.messagesPerRequest)),
  model: optional(modelId),
  tools: optional(parseTools),
  toolChoice: optional(parseToolChoice),
  parallelToolCalls: optional(boolean),
  responseFormat: optional(parseResponseFormat),
  sampling: optional(parseSampling),
  logprobs: optional(integer(0, Limits.topLogprobs)),
  class: optional(parseClass),
  truncation: optional(truncation),
  deadlineMs: optional(integer(1, MAX_DEADLINE_MS)),
  supersede: optional(parseSupersede),
  ...viewFields,
});

/** In a session only user and tool messages are new, and the model is the session's. */
export const parseCreateOptions: Check<CreateOptions> = (value, param) => {
  const options = parseCreateShape(value, param);
  if (options.session === undefined) return options;
  if (options.model !== undefined)
    refuse(join(param, 'model'), 'absent when session is given: that session has its own');
  const index = options.messages.findIndex(({ role }) => role !== 'user' && role !== 'tool');
  if (index >= 0) refuse(join(param, `messages[${index}].role`), '"user" or "tool" when session is given');
  return options;
};
