// What a request says about the form of its answer (response_format or text.format, tool_choice, parallel_tool_calls,
// strict) → the grammar that the engine is to hold the answer to. Shared by all dialects, which spell some of it
// differently. Schemas are only looked at later, in a thread of their own; here only their size is.
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { FORM_CHARS, TOOL_NAME } from '../../protocol/form.ts';
import { boolean, join, list, map, matching, oneOf, refuse, string } from '../../protocol/fields.ts';
import type { CreateOptions, ToolDefinition } from '../../protocol/messages.ts';
import type { CallForm, GrammarSpec, TextForm } from '../../workers/messages/grammar.ts';
import { onlyFields, unsupported } from './fields.ts';

/** `chat`: functions and schemas stand in a map of their own; `responses`: flat. */
export type Spelling = 'chat' | 'responses';

export interface ToolChoice {
  mode: 'none' | 'auto' | 'required';
  /** Functions that may be called; null: all. */
  names: readonly string[] | null;
  /** As it was sent, to be given back. */
  given: unknown;
  /** Its field, for errors. */
  param: string;
}

export const autoChoice: ToolChoice = { mode: 'auto', names: null, given: 'auto', param: 'tool_choice' };

/** Form of the text; null: any. */
export interface TextFormat {
  form: TextForm | null;
  /** As it was sent, to be given back. */
  given: Record<string, unknown>;
}

export const anyText: TextFormat = { form: null, given: { type: 'text' } };

const ANY_OBJECT = '{"type":"object"}';

const functionName = matching(TOOL_NAME);

/** Throws ServiceError that names the field. */
export function parseToolChoice(value: unknown, param: string, spelling: Spelling): ToolChoice {
  if (value === 'none' || value === 'auto' || value === 'required')
    return { mode: value, names: null, given: value, param };
  if (typeof value === 'string') return refuse(param, '"none", "auto", "required" or a choice of functions');
  const choice = map(value, param);
  if (choice.type === 'function')
    return { mode: 'required', names: [nameOf(choice, param, spelling)], given: value, param };
  if (choice.type !== 'allowed_tools') {
    return typeof choice.type === 'string' ? unsupported(`${param}.type`) : refuse(`${param}.type`, '"function"');
  }
  const at = spelling === 'chat' ? `${param}.allowed_tools` : param;
  const allowed = spelling === 'chat' ? map(choice.allowed_tools, at) : choice;
  if (spelling === 'chat') onlyFields(choice, param, ['type', 'allowed_tools']);
  onlyFields(allowed, at, spelling === 'chat' ? ['mode', 'tools'] : ['type', 'mode', 'tools']);
  const names = list<string>(
    (tool, toolParam) => {
      const fields = map(tool, toolParam);
      return fields.type === 'function' ? nameOf(fields, toolParam, spelling) : unsupported(`${toolParam}.type`);
    },
    1,
    Limits.toolsPerRequest,
  )(allowed.tools, `${at}.tools`);
  return { mode: oneOf(['auto', 'required'] as const)(allowed.mode, `${at}.mode`), names, given: value, param };
}

/** Name in `{type, function: {name}}` or `{type, name}`. */
function nameOf(choice: Record<string, unknown>, param: string, spelling: Spelling): string {
  if (spelling === 'responses') {
    onlyFields(choice, param, ['type', 'name']);
    return functionName(choice.name, `${param}.name`);
  }
  onlyFields(choice, param, ['type', 'function']);
  const fn = map(choice.function, `${param}.function`);
  onlyFields(fn, `${param}.function`, ['name']);
  return functionName(fn.name, `${param}.function.name`);
}

/** `response_format` or `text.format`. Throws ServiceError that names the field. */
export function parseTextFormat(value: unknown, param: string, spelling: Spelling): TextFormat {
  const format = map(value, param);
  switch (format.type) {
    case 'text':
      onlyFields(format, param, ['type']);
      return anyText;
    case 'json_object':
      onlyFields(format, param, ['type']);
      return { form: { kind: 'schema', schema: ANY_OBJECT, param }, given: format };
    case 'regex':
      onlyFields(format, param, ['type', 'pattern']);
      return {
        form: {
          kind: 'regex',
          pattern: string(1, FORM_CHARS)(format.pattern, `${param}.pattern`),
          param: `${param}.pattern`,
        },
        given: format,
      };
    case 'json_schema':
      return { form: schemaForm(format, param, spelling), given: format };
    default:
      return typeof format.type === 'string'
        ? unsupported(`${param}.type`, 'supports only "text", "json_object", "json_schema" and "regex"')
        : refuse(`${param}.type`, 'a string');
  }
}

function schemaForm(format: Record<string, unknown>, param: string, spelling: Spelling): TextForm {
  const at = spelling === 'chat' ? `${param}.json_schema` : param;
  if (spelling === 'chat') onlyFields(format, param, ['type', 'json_schema']);
  const fields = spelling === 'chat' ? map(format.json_schema, at) : format;
  onlyFields(fields, at, ['type', 'name', 'description', 'schema', 'strict'].slice(spelling === 'chat' ? 1 : 0));
  functionName(fields.name, `${at}.name`);
  if (fields.description != null) string(0, Infinity)(fields.description, `${at}.description`);
  if (fields.strict != null) boolean(fields.strict, `${at}.strict`);
  if (fields.schema == null) return { kind: 'schema', schema: ANY_OBJECT, param: `${at}.schema` };
  const schema = JSON.stringify(map(fields.schema, `${at}.schema`));
  if (schema.length > FORM_CHARS) unsupported(`${at}.schema`, `is longer than ${FORM_CHARS} characters`);
  return { kind: 'schema', schema, param: `${at}.schema` };
}

/**
 * The grammar of an answer; undefined: anything goes. strict: names of the functions whose arguments must fit their
 * schema. Throws ServiceError that names the field.
 */
export function grammarOf(
  request: {
    text: TextFormat;
    tools: readonly ToolDefinition[];
    strict: ReadonlySet<string>;
    choice: ToolChoice;
    isParallel: boolean;
  },
  spelling: Spelling,
): GrammarSpec | undefined {
  const { text, tools, strict, choice, isParallel } = request;
  const { param } = choice;
  if (choice.mode === 'required' && tools.length === 0) {
    throw new ServiceError('invalid_request', `${param} needs tools to choose from.`, { param });
  }
  const unknown = choice.names?.find((name) => tools.every((tool) => tool.name !== name));
  if (unknown !== undefined) {
    throw new ServiceError('invalid_request', `${param} names ${unknown}, which is not in tools.`, { param });
  }
  const mustCall = choice.mode === 'required';
  const calls =
    choice.mode === 'none' ? [] : tools.flatMap((tool, index) => (isOffered(tool) ? [formOf(tool, index)] : []));
  if (text.form === null && calls.length === 0) return undefined;
  return { text: mustCall ? null : text.form, calls, mustCall, isParallel };

  function isOffered({ name }: ToolDefinition): boolean {
    return choice.names === null || choice.names.includes(name);
  }

  /** Also one that is not strict is held to its schema, where that can be done: a small model gains from it. */
  function formOf({ name, parameters }: ToolDefinition, index: number): CallForm {
    const isStrict = strict.has(name);
    const at = join(`tools[${index}]${spelling === 'chat' ? '.function' : ''}`, 'parameters');
    const isHeld = parameters !== undefined && Object.keys(parameters).length > 0;
    let schema = isHeld ? JSON.stringify(parameters) : null;
    if (schema !== null && schema.length > FORM_CHARS) {
      if (isStrict) unsupported(at, `is longer than ${FORM_CHARS} characters`);
      schema = null;
    }
    return { name, schema, isStrict, param: at };
  }
}

/**
 * The form that a native Create asks for; undefined where it says nothing of one: calls are then parsed as the model
 * writes them. Throws ServiceError that names the field.
 */
export function nativeForm(options: CreateOptions, tools: readonly ToolDefinition[]): GrammarSpec | undefined {
  const { responseFormat, toolChoice, parallelToolCalls } = options;
  const strict = new Set(tools.flatMap(({ name, strict: isStrict }) => (isStrict ? name : [])));
  const isAsked = responseFormat !== undefined || toolChoice !== undefined || parallelToolCalls !== undefined;
  if (!isAsked && strict.size === 0) return undefined;
  const text = responseFormat === undefined ? anyText : parseTextFormat(responseFormat, 'responseFormat', 'responses');
  const choice = parseToolChoice(toolChoice ?? 'auto', 'toolChoice', 'responses');
  return grammarOf({ text, tools, strict, choice, isParallel: parallelToolCalls ?? true }, 'responses');
}
