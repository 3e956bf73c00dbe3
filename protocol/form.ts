// Checks of what a Create says about the form of its answer: responseFormat, toolChoice. options.ts uses them; the names
// inside are those of OpenAI's Responses API. All throw ServiceError `invalid_request` with the field's path in `param`.
import { Limits } from './constants.ts';
import { boolean, list, map, matching, object, oneOf, optional, refuse, required, string } from './fields.ts';
import type { Check } from './fields.ts';
import type { ResponseFormat, ToolChoice } from './messages.ts';

/** Names of functions and forms, as OpenAI allows them. */
export const TOOL_NAME = /^[a-zA-Z0-9_-]{1,64}$/;

/** Longest schema, as JSON, and longest pattern that are looked at at all. */
export const FORM_CHARS = 64 << 10;

const name = matching(TOOL_NAME);

type Kind<T extends { type: string }, K extends T['type']> = Extract<T, { type: K }>;

const formats: { [K in ResponseFormat['type']]: Check<Kind<ResponseFormat, K>> } = {
  text: object<Kind<ResponseFormat, 'text'>>({ type: required(oneOf(['text'] as const)) }),
  json_object: object<Kind<ResponseFormat, 'json_object'>>({ type: required(oneOf(['json_object'] as const)) }),
  regex: object<Kind<ResponseFormat, 'regex'>>({
    type: required(oneOf(['regex'] as const)),
    pattern: required(string(1, FORM_CHARS)),
  }),
  json_schema: object<Kind<ResponseFormat, 'json_schema'>>({
    type: required(oneOf(['json_schema'] as const)),
    name: required(name),
    description: optional(string(0, Infinity)),
    schema: optional(map),
    strict: optional(boolean),
  }),
};
const formatType = oneOf(Object.keys(formats) as ResponseFormat['type'][]);

/** Whether a schema is one, and can be held to, is told by the response itself. */
export const parseResponseFormat: Check<ResponseFormat> = (value, param) =>
  formats[formatType(map(value, param).type, `${param}.type`)](value, param);

const parseFunction = object<Kind<Exclude<ToolChoice, string>, 'function'>>({
  type: required(oneOf(['function'] as const)),
  name: required(name),
});

const parseAllowed = object<Kind<Exclude<ToolChoice, string>, 'allowed_tools'>>({
  type: required(oneOf(['allowed_tools'] as const)),
  mode: required(oneOf(['auto', 'required'] as const)),
  tools: required(list(parseFunction, 1, Limits.toolsPerRequest)),
});

const choiceType = oneOf(['function', 'allowed_tools'] as const);
const simpleChoice = oneOf(['none', 'auto', 'required'] as const);

export const parseToolChoice: Check<ToolChoice> = (value, param) => {
  if (typeof value === 'string') return simpleChoice(value, param);
  if (typeof value !== 'object' || value === null) refuse(param, '"none", "auto", "required" or a choice of functions');
  const type = choiceType(map(value, param).type, `${param}.type`);
  return type === 'function' ? parseFunction(value, param) : parseAllowed(value, param);
};
