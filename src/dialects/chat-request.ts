// The body of POST /v1/chat/completions → what the engine is asked for. Every field either works, or is refused by its
// name, or stands in `ignoredFields` below; nothing else is accepted. Used by chat-completions.ts.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { boolean, integer, list, map, matching, oneOf, refuse, string, type Check } from '../../protocol/fields.ts';
import type { ChatMessage, ToolCall, ToolDefinition } from '../../protocol/messages.ts';
import { TOOL_NAME } from '../../protocol/form.ts';
import type { SamplingParams } from '../../protocol/sampling.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import { commonSampling, onlyFields, onlyValues, parseSampling, parseStrictTools, unsupported } from './fields.ts';
import { anyText, autoChoice, grammarOf, parseTextFormat, parseToolChoice } from './structure.ts';

export interface ChatRequest {
  model: string | undefined;
  messages: ChatMessage[];
  /** Empty with tool_choice `none`. */
  tools: ToolDefinition[];
  /** What the answer must look like; undefined: anything. */
  grammar: GrammarSpec | undefined;
  sampling: SamplingParams;
  stream: boolean;
  includeUsage: boolean;
  /** Answers to the same prompt. */
  n: number;
  /** Alternatives per token; undefined: no log-probabilities. */
  logprobs: number | undefined;
}

/** Accepted without effect: they label a request, or name what happens anyway. The whole list; see the README. */
export const ignoredFields = ['user', 'metadata', 'prompt_cache_key', 'safety_identifier'] as const;

/** Accepted with these values only, which ask for what happens anyway. */
const fixedFields: Record<string, readonly unknown[]> = {
  store: [false],
  service_tier: ['auto', 'default'],
};

const samplingNames = {
  ...commonSampling,
  max_tokens: 'maxTokens',
  max_completion_tokens: 'maxTokens',
} as const;

const modelId = string(1, 256);
const anyString = string(0, Infinity);

/** A string, or text parts that are joined; other kinds of parts are refused by index. */
const parseContent: Check<string> = (value, param) => {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return refuse(param, 'a string or an array of text parts');
  return list<string>(
    (part, partParam) => {
      const fields = map(part, partParam);
      if (fields.type !== 'text') {
        if (typeof fields.type !== 'string') return refuse(`${partParam}.type`, '"text"');
        return unsupported(`${partParam}.type`, `"${fields.type.slice(0, 40)}" is not supported; only text is`);
      }
      onlyFields(fields, partParam, ['type', 'text']);
      return anyString(fields.text, `${partParam}.text`);
    },
    1,
    1024,
  )(value, param).join('');
};

const parseToolCall: Check<ToolCall> = (value, param) => {
  const call = map(value, param);
  if (call.type !== 'function') {
    return call.type === undefined ? refuse(`${param}.type`, '"function"') : unsupported(`${param}.type`);
  }
  onlyFields(call, param, ['id', 'type', 'function', 'index']);
  const fn = map(call.function, `${param}.function`);
  onlyFields(fn, `${param}.function`, ['name', 'arguments']);
  return {
    id: string(1, Limits.requestIdChars)(call.id, `${param}.id`),
    name: matching(TOOL_NAME)(fn.name, `${param}.function.name`),
    arguments: anyString(fn.arguments, `${param}.function.arguments`),
  };
};

const messageFields = {
  system: ['role', 'content', 'name'],
  user: ['role', 'content', 'name'],
  assistant: ['role', 'content', 'name', 'tool_calls', 'annotations'],
  tool: ['role', 'content', 'tool_call_id'],
} as const;

const parseMessage: Check<ChatMessage> = (value, param) => {
  const fields = map(value, param);
  const given = string(1, 64)(fields.role, `${param}.role`);
  const role = given === 'developer' ? 'system' : given;
  if (role !== 'system' && role !== 'user' && role !== 'assistant' && role !== 'tool') {
    return unsupported(`${param}.role`, `"${given}" is not supported; system, developer, user, assistant and tool are`);
  }
  onlyFields(fields, param, messageFields[role]);
  // Our own answers carry an empty list, and clients send answers back as they came.
  if (Array.isArray(fields.annotations) ? fields.annotations.length > 0 : fields.annotations != null) {
    unsupported(`${param}.annotations`);
  }
  const message: ChatMessage = { role, content: '' };
  const calls = fields.tool_calls ?? [];
  if (role === 'assistant') {
    const toolCalls = list(parseToolCall, 0, Limits.toolsPerRequest)(calls, `${param}.tool_calls`);
    if (toolCalls.length > 0) message.toolCalls = toolCalls;
  }
  const mayLackContent = message.toolCalls !== undefined;
  if (!mayLackContent || (fields.content !== null && fields.content !== undefined)) {
    message.content = parseContent(fields.content, `${param}.content`);
  }
  if (fields.name !== undefined && fields.name !== null) {
    message.name = string(1, Limits.requestIdChars)(fields.name, `${param}.name`);
  }
  if (role === 'tool') {
    message.toolCallId = string(1, Limits.requestIdChars)(fields.tool_call_id, `${param}.tool_call_id`);
  }
  return message;
};

/** Unwraps `{type: 'function', function: {…}}`. */
const unwrapTool: Check<Record<string, unknown>> = (tool, param) => {
  const fields = map(tool, param);
  if (fields.type !== 'function') {
    return typeof fields.type === 'string' ? unsupported(`${param}.type`) : refuse(`${param}.type`, '"function"');
  }
  onlyFields(fields, param, ['type', 'function']);
  const fn = { ...map(fields.function, `${param}.function`) };
  if (fn.strict != null) boolean(fn.strict, `${param}.function.strict`);
  onlyFields(fn, `${param}.function`, ['name', 'description', 'parameters', 'strict']);
  return fn;
};

function parseChatTools(value: unknown): { tools: ToolDefinition[]; strict: Set<string> } {
  const functions = list(unwrapTool, 0, Limits.toolsPerRequest)(value, 'tools');
  try {
    return parseStrictTools(functions);
  } catch (error) {
    throw asFunctionPath(error);
  }
}

/** tools[0].name → tools[0].function.name, the path in the body as it was sent. */
function asFunctionPath(error: unknown): unknown {
  if (!(error instanceof ServiceError) || error.param === undefined) return error;
  const param = error.param.replace(/^(tools\[\d+\])\./, '$1.function.');
  return new ServiceError(error.code, error.message.replace(error.param, param), { param });
}

/** Throws ServiceError `invalid_request`, or `unsupported` for what exists elsewhere but not here; both name the field. */
export function parseChatRequest(body: Record<string, unknown>): ChatRequest {
  const request: ChatRequest = {
    model: undefined,
    messages: [],
    tools: [],
    grammar: undefined,
    sampling: parseSampling(body, samplingNames),
    stream: false,
    includeUsage: false,
    n: 1,
    logprobs: body.logprobs === true ? 0 : undefined,
  };
  let choice = autoChoice;
  let text = anyText;
  let strict: ReadonlySet<string> = new Set();
  let isParallel = true;
  for (const [name, value] of Object.entries(body)) {
    if (value === null || value === undefined || Object.hasOwn(samplingNames, name)) continue;
    switch (name) {
      case 'model':
        request.model = modelId(value, name);
        break;
      case 'messages':
        request.messages = list(parseMessage, 1, Limits.messagesPerRequest)(value, name);
        break;
      case 'tools':
        ({ tools: request.tools, strict } = parseChatTools(value));
        break;
      case 'tool_choice':
        choice = parseToolChoice(value, name, 'chat');
        break;
      case 'parallel_tool_calls':
        isParallel = boolean(value, name);
        break;
      case 'n':
        request.n = integer(1, Limits.choices)(value, name);
        break;
      case 'logprobs':
        boolean(value, name);
        break;
      case 'top_logprobs':
        if (body.logprobs !== true) refuse(name, 'absent unless logprobs is true');
        request.logprobs = integer(0, Limits.topLogprobs)(value, name);
        break;
      case 'stream':
        request.stream = boolean(value, name);
        break;
      case 'stream_options':
        request.includeUsage = parseStreamOptions(value, body.stream);
        break;
      case 'response_format':
        text = parseTextFormat(value, name, 'chat');
        break;
      case 'modalities':
        list(oneOf(['text', 'audio'] as const), 1, 2)(value, name);
        if ((value as string[]).includes('audio')) unsupported(name, 'supports only ["text"]');
        break;
      default:
        checkWithoutEffect(name, value);
    }
  }
  if (request.messages.length === 0) {
    throw new ServiceError('invalid_request', 'messages is missing.', { param: 'messages' });
  }
  if (body.max_tokens != null && body.max_completion_tokens != null && body.max_tokens !== body.max_completion_tokens) {
    refuse('max_tokens', 'equal to max_completion_tokens when both are given');
  }
  request.grammar = grammarOf({ text, tools: request.tools, strict, choice, isParallel }, 'chat');
  if (choice.mode === 'none') request.tools = [];
  return request;
}

function parseStreamOptions(value: unknown, stream: unknown): boolean {
  const options = map(value, 'stream_options');
  if (stream !== true) refuse('stream_options', 'absent unless stream is true');
  onlyFields(options, 'stream_options', ['include_usage', 'include_obfuscation']);
  if (options.include_obfuscation != null && options.include_obfuscation !== false) {
    unsupported('stream_options.include_obfuscation');
  }
  return options.include_usage == null ? false : boolean(options.include_usage, 'stream_options.include_usage');
}

function checkWithoutEffect(name: string, value: unknown): void {
  if ((ignoredFields as readonly string[]).includes(name)) return;
  if (!Object.hasOwn(fixedFields, name)) unsupported(name.slice(0, 64));
  onlyValues(name, value, fixedFields[name]!);
}
