// The body of POST /v1/responses and POST /v1/responses/input_tokens → what is asked for. As in the other dialects,
// every field works, or is refused by its name, or stands in one of the short lists here (and in the README).
import { ServiceError } from '../../protocol/errors.ts';
import { boolean, integer, list, map, oneOf, refuse, string, type Check } from '../../protocol/fields.ts';
import { Limits } from '../../protocol/constants.ts';
import type { ToolDefinition } from '../../protocol/messages.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import { commonSampling, onlyFields, onlyValues, parseSampling, parseStrictTools, unsupported } from './fields.ts';
import { parseInput, type Item } from './response-items.ts';
import {
  anyText,
  autoChoice,
  parseTextFormat,
  parseToolChoice,
  type TextFormat,
  type ToolChoice,
} from './structure.ts';

export interface ResponseRequest {
  model: string | undefined;
  /** The new items; may be empty where only tokens are counted. */
  input: Item[];
  instructions: string | null;
  previousResponseId: string | null;
  /** As given; none are offered to the model with toolChoice `none`. */
  tools: ToolDefinition[];
  toolChoice: ToolChoice;
  /** Functions whose arguments must fit their schema. */
  strict: ReadonlySet<string>;
  isParallel: boolean;
  text: TextFormat;
  sampling: SamplingParams;
  /** Alternatives per token; undefined: no log-probabilities. */
  logprobs: number | undefined;
  truncation: 'auto' | 'disabled';
  metadata: Record<string, string>;
  stream: boolean;
  store: boolean;
  background: boolean;
  /** Labels that are given back. */
  user: string | null;
  promptCacheKey: string | null;
  safetyIdentifier: string | null;
}

const samplingNames = { ...commonSampling, max_output_tokens: 'maxTokens' } as const;

/** Accepted with these values only, which ask for what happens anyway. */
const fixedFields: Record<string, readonly unknown[]> = {
  service_tier: ['auto', 'default'],
};

/** What POST /v1/responses/input_tokens takes; the rest has no bearing on the count. */
const countedFields = new Set([
  'model',
  'input',
  'instructions',
  'previous_response_id',
  'tools',
  'tool_choice',
  'parallel_tool_calls',
  'truncation',
  'text',
  'reasoning',
]);

const text = string(0, Infinity);
const label = string(0, 512);
const modelId = string(1, 256);
const METADATA_PAIRS = 16;

const LOGPROBS = 'message.output_text.logprobs';

/** What `include` may name. The second only exists where there is reasoning; there is none here. */
const includable: readonly string[] = [LOGPROBS, 'reasoning.encrypted_content'];

export const parseInclude: Check<string[]> = list(
  (value, param) => {
    if (typeof value !== 'string') return refuse(param, 'a string');
    if (!includable.includes(value)) unsupported(param, `"${value.slice(0, 64)}" is not supported`);
    return value;
  },
  0,
  32,
);

const parseMetadata: Check<Record<string, string>> = (value, param) => {
  const entries = Object.entries(map(value, param));
  if (entries.length > METADATA_PAIRS) refuse(param, `a map of at most ${METADATA_PAIRS} strings`);
  for (const [key, entry] of entries) {
    if (key.length > 64) refuse(`${param}.${key.slice(0, 64)}`, 'named by at most 64 characters');
    label(entry, `${param}.${key}`);
  }
  return Object.fromEntries(entries) as Record<string, string>;
};

/** `{type: 'function', name, …}`, flat. */
const unwrapTool: Check<Record<string, unknown>> = (value, param) => {
  const { type, strict, ...tool } = map(value, param);
  if (type !== 'function') {
    return typeof type === 'string'
      ? unsupported(`${param}.type`, `"${type.slice(0, 40)}" is not supported; only functions are`)
      : refuse(`${param}.type`, '"function"');
  }
  onlyFields(tool, param, ['name', 'description', 'parameters']);
  return { ...tool, strict: strict == null ? false : boolean(strict, `${param}.strict`) };
};

function parseText(value: unknown): TextFormat {
  const config = map(value, 'text');
  onlyFields(config, 'text', ['format', 'verbosity']);
  if (config.verbosity !== undefined && config.verbosity !== null) {
    onlyValues('text.verbosity', config.verbosity, ['medium']);
  }
  return config.format == null ? anyText : parseTextFormat(config.format, 'text.format', 'responses');
}

function checkReasoning(value: unknown): void {
  const { effort, ...rest } = map(value, 'reasoning');
  onlyFields(rest, 'reasoning', []);
  if (effort !== undefined && effort !== null) onlyValues('reasoning.effort', effort, ['none']);
}

function checkStreamOptions(value: unknown, stream: unknown): void {
  const { include_obfuscation: obfuscation, ...rest } = map(value, 'stream_options');
  if (stream !== true) refuse('stream_options', 'absent unless stream is true');
  onlyFields(rest, 'stream_options', []);
  if (obfuscation !== undefined && obfuscation !== null) {
    onlyValues('stream_options.include_obfuscation', obfuscation, [false]);
  }
}

/** Throws ServiceError `invalid_request`, or `unsupported` for what exists elsewhere but not here; both name the field. */
export function parseResponseRequest(body: Record<string, unknown>): ResponseRequest {
  const request = parseFields(body);
  if (request.input.length === 0) {
    throw new ServiceError('invalid_request', 'input is missing.', { param: 'input' });
  }
  if (request.background && !request.store) {
    refuse('store', 'true with background: what is not kept cannot be fetched later');
  }
  return request;
}

/** As parseResponseRequest, for the fields that make the prompt; `input` may be absent. */
export function parseCountRequest(body: Record<string, unknown>): ResponseRequest {
  for (const [name, value] of Object.entries(body)) {
    if (value !== null && value !== undefined && !countedFields.has(name)) unsupported(name.slice(0, 64));
  }
  return parseFields(body);
}

function parseFields(body: Record<string, unknown>): ResponseRequest {
  const request: ResponseRequest = {
    model: undefined,
    input: [],
    instructions: null,
    previousResponseId: null,
    tools: [],
    toolChoice: autoChoice,
    strict: new Set(),
    isParallel: true,
    text: anyText,
    sampling: parseSampling(body, samplingNames),
    logprobs: undefined,
    truncation: 'disabled',
    metadata: {},
    stream: false,
    store: true,
    background: false,
    user: null,
    promptCacheKey: null,
    safetyIdentifier: null,
  };
  for (const [name, value] of Object.entries(body)) {
    if (value !== null && value !== undefined && !Object.hasOwn(samplingNames, name)) {
      parseField(request, name, value, body);
    }
  }
  return request;
}

function parseField(request: ResponseRequest, name: string, value: unknown, body: Record<string, unknown>): void {
  switch (name) {
    case 'model':
      request.model = modelId(value, name);
      return;
    case 'input':
      request.input = parseInput(value, name);
      return;
    case 'instructions':
      request.instructions = text(value, name);
      return;
    case 'previous_response_id':
      request.previousResponseId = string(1, Limits.requestIdChars)(value, name);
      return;
    case 'tools':
      Object.assign(request, parseStrictTools(list(unwrapTool, 0, Limits.toolsPerRequest)(value, name)));
      return;
    case 'tool_choice':
      request.toolChoice = parseToolChoice(value, name, 'responses');
      return;
    case 'parallel_tool_calls':
      request.isParallel = boolean(value, name);
      return;
    case 'truncation':
      request.truncation = oneOf(['auto', 'disabled'] as const)(value, name);
      return;
    case 'metadata':
      request.metadata = parseMetadata(value, name);
      return;
    case 'stream':
      request.stream = boolean(value, name);
      return;
    case 'store':
      request.store = boolean(value, name);
      return;
    case 'background':
      request.background = boolean(value, name);
      return;
    case 'user':
      request.user = label(value, name);
      return;
    case 'prompt_cache_key':
      request.promptCacheKey = label(value, name);
      return;
    case 'safety_identifier':
      request.safetyIdentifier = label(value, name);
      return;
    case 'include':
      if (parseInclude(value, name).includes(LOGPROBS)) request.logprobs ??= 0;
      return;
    case 'top_logprobs': {
      const count = integer(0, Limits.topLogprobs)(value, name);
      const isIncluded = Array.isArray(body.include) && body.include.includes(LOGPROBS);
      if (count > 0 && !isIncluded) refuse(name, `0 or absent unless include names "${LOGPROBS}"`);
      if (isIncluded) request.logprobs = count;
      return;
    }
    case 'text':
      request.text = parseText(value);
      return;
    case 'reasoning':
      checkReasoning(value);
      return;
    case 'stream_options':
      checkStreamOptions(value, body.stream);
      return;
    default:
      if (!Object.hasOwn(fixedFields, name)) unsupported(name.slice(0, 64));
      onlyValues(name, value, fixedFields[name]!);
  }
}

/** Query fields of a GET; unknown ones are refused by name, and each may stand there once. */
export function parseQuery<T extends Record<string, (value: string, param: string) => unknown>>(
  query: URLSearchParams,
  fields: T,
): { [K in keyof T]?: ReturnType<T[K]> } {
  const result: Record<string, unknown> = {};
  for (const [name, value] of query) {
    // SDKs write a list as include[]=…
    if (name === 'include' || name === 'include[]') {
      parseInclude([value], 'include');
      continue;
    }
    const check = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (!check) unsupported(name.slice(0, 64));
    if (Object.hasOwn(result, name)) refuse(name, 'given once');
    result[name] = check(value, name);
  }
  return result as { [K in keyof T]?: ReturnType<T[K]> };
}

/** A whole number in the query. */
export function queryInteger(min: number, max: number) {
  return (value: string, param: string): number => integer(min, max)(/^\d+$/.test(value) ? Number(value) : null, param);
}

export function queryBoolean(value: string, param: string): boolean {
  return value === 'true' ? true : value === 'false' ? false : refuse(param, 'true or false');
}
