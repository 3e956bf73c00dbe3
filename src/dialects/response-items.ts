// Items of the Responses API: what a request's `input` is read into, what is kept for continuing, and what the model's
// conversation is made from. Items are plain JSON and never change once made, so chains of responses share them.
import { randomBytes } from 'node:crypto';
import { Limits } from '../../protocol/constants.ts';
import { ServiceError } from '../../protocol/errors.ts';
import { list, map, matching, oneOf, refuse, string, type Check } from '../../protocol/fields.ts';
import type { ChatMessage } from '../../protocol/messages.ts';
import { TOOL_NAME } from '../../protocol/form.ts';
import { onlyFields, unsupported } from './fields.ts';
import type { TokenObject } from './logprobs.ts';

export type ItemStatus = 'in_progress' | 'completed' | 'incomplete';

export interface OutputText {
  type: 'output_text';
  text: string;
  annotations: [];
  logprobs: TokenObject[];
}

export interface MessageItem {
  id: string;
  type: 'message';
  role: 'user' | 'system' | 'developer' | 'assistant';
  status: ItemStatus;
  content: ({ type: 'input_text'; text: string } | OutputText)[];
}

export interface CallItem {
  id: string;
  type: 'function_call';
  call_id: string;
  name: string;
  /** JSON text. */
  arguments: string;
  status: ItemStatus;
}

export interface CallOutputItem {
  id: string;
  type: 'function_call_output';
  call_id: string;
  output: string;
  status: ItemStatus;
}

export type Item = MessageItem | CallItem | CallOutputItem;

const text = string(0, Infinity);
const id = string(1, Limits.requestIdChars);
const role = oneOf(['user', 'system', 'developer', 'assistant'] as const);
const status = oneOf(['in_progress', 'completed', 'incomplete'] as const);

/** Ids are labels for paging: the caller's own where it sent one, else ours. */
const prefixes: Record<Item['type'], string> = {
  message: 'msg',
  function_call: 'fc',
  function_call_output: 'fco',
};

const newId = (type: Item['type']): string => `${prefixes[type]}_${randomBytes(12).toString('hex')}`;

export function outputText(value: string, logprobs: TokenObject[] = []): OutputText {
  return { type: 'output_text', text: value, annotations: [], logprobs };
}

/** Our own answers carry an empty list, and clients send answers back as they came. */
function emptyList(value: unknown, param: string): void {
  if (value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0)) unsupported(param);
}

const parsePart: Check<string> = (value, param) => {
  const part = map(value, param);
  if (typeof part.type !== 'string') return refuse(`${param}.type`, '"input_text" or "output_text"');
  if (part.type !== 'input_text' && part.type !== 'output_text') {
    unsupported(`${param}.type`, `"${part.type.slice(0, 40)}" is not supported; only text is`);
  }
  onlyFields(part, param, ['type', 'text', 'annotations', 'logprobs']);
  emptyList(part.annotations, `${param}.annotations`);
  // Of an answer that is sent back: of no use to the model, and not kept.
  if (part.logprobs != null) list(map, 0, Infinity)(part.logprobs, `${param}.logprobs`);
  return text(part.text, `${param}.text`);
};

const parseParts = list(parsePart, 1, 1024);

/** A string or text parts. */
function parseTexts(value: unknown, param: string): string[] {
  if (typeof value === 'string') return [value];
  if (!Array.isArray(value)) return refuse(param, 'a string or an array of text parts');
  return parseParts(value, param);
}

function idOf(item: Record<string, unknown>, type: Item['type'], param: string): string {
  return item.id === undefined || item.id === null ? newId(type) : id(item.id, `${param}.id`);
}

function statusOf(item: Record<string, unknown>, param: string): ItemStatus {
  return item.status === undefined || item.status === null ? 'completed' : status(item.status, `${param}.status`);
}

function parseMessageItem(item: Record<string, unknown>, param: string): MessageItem {
  onlyFields(item, param, ['type', 'id', 'role', 'content', 'status']);
  const parsedRole = role(item.role, `${param}.role`);
  const texts = parseTexts(item.content, `${param}.content`);
  const content = texts.map((one) =>
    parsedRole === 'assistant' ? outputText(one) : { type: 'input_text' as const, text: one },
  );
  return {
    id: idOf(item, 'message', param),
    type: 'message',
    role: parsedRole,
    status: statusOf(item, param),
    content,
  };
}

function parseCall(item: Record<string, unknown>, param: string): CallItem {
  onlyFields(item, param, ['type', 'id', 'call_id', 'name', 'arguments', 'status']);
  return {
    id: idOf(item, 'function_call', param),
    type: 'function_call',
    call_id: id(item.call_id, `${param}.call_id`),
    name: matching(TOOL_NAME)(item.name, `${param}.name`),
    arguments: text(item.arguments, `${param}.arguments`),
    status: statusOf(item, param),
  };
}

function parseCallOutput(item: Record<string, unknown>, param: string): CallOutputItem {
  onlyFields(item, param, ['type', 'id', 'call_id', 'output', 'status']);
  return {
    id: idOf(item, 'function_call_output', param),
    type: 'function_call_output',
    call_id: id(item.call_id, `${param}.call_id`),
    output: parseTexts(item.output, `${param}.output`).join(''),
    status: statusOf(item, param),
  };
}

const parseItem: Check<Item> = (value, param) => {
  const item = map(value, param);
  const type = item.type ?? 'message';
  switch (type) {
    case 'message':
      return parseMessageItem(item, param);
    case 'function_call':
      return parseCall(item, param);
    case 'function_call_output':
      return parseCallOutput(item, param);
    default:
      if (typeof type !== 'string') return refuse(`${param}.type`, 'a string');
      return unsupported(`${param}.type`, `"${type.slice(0, 40)}" is not supported`);
  }
};

/** The items of `input`: a string is one user message. */
export function parseInput(value: unknown, param: string): Item[] {
  if (typeof value === 'string') {
    return [parseMessageItem({ role: 'user', content: value }, param)];
  }
  return list(parseItem, 1, Limits.messagesPerRequest)(value, param);
}

/**
 * Earlier items and new ones as one conversation: repeated ids get new ones, so that a page can be asked for behind
 * each. Throws `invalid_request` for the output of a call that was never made, and when there are too many.
 */
export function joinItems(earlier: readonly Item[], own: readonly Item[]): Item[] {
  const items: Item[] = [...earlier];
  const ids = new Set(earlier.map((item) => item.id));
  const calls = new Set(earlier.flatMap((item) => (item.type === 'function_call' ? [item.call_id] : [])));
  for (const [index, item] of own.entries()) {
    if (item.type === 'function_call') calls.add(item.call_id);
    if (item.type === 'function_call_output' && !calls.has(item.call_id)) {
      refuse(`input[${index}].call_id`, 'that of a function_call before it');
    }
    items.push(ids.has(item.id) ? { ...item, id: newId(item.type) } : item);
    ids.add(item.id);
  }
  if (items.length > Limits.messagesPerRequest) {
    const message = `The conversation has ${items.length} items; at most ${Limits.messagesPerRequest} can be continued.`;
    throw new ServiceError('invalid_request', message, { param: 'input' });
  }
  return items;
}

/**
 * Messages of another dialect as items: `toMessages` gives the same conversation again. Ids are made from `idBase` and
 * the place, so that every listing has the same.
 */
export function toItems(messages: readonly ChatMessage[], idBase: string): Item[] {
  const items: Item[] = [];
  const idAt = (type: Item['type']): string => `${prefixes[type]}_${idBase}_in_${items.length}`;
  let before: ChatMessage['role'] | null = null;
  for (const { role: from, content, toolCalls = [], toolCallId = '' } of messages) {
    if (from === 'tool') {
      const itemId = idAt('function_call_output');
      items.push({
        id: itemId,
        type: 'function_call_output',
        call_id: toolCallId,
        output: content,
        status: 'completed',
      });
    } else if (content !== '' || toolCalls.length === 0 || before === 'assistant') {
      const part = from === 'assistant' ? outputText(content) : { type: 'input_text' as const, text: content };
      items.push({ id: idAt('message'), type: 'message', role: from, status: 'completed', content: [part] });
    }
    for (const { id: callId, name, arguments: json } of toolCalls) {
      const itemId = idAt('function_call');
      items.push({ id: itemId, type: 'function_call', call_id: callId, name, arguments: json, status: 'completed' });
    }
    before = from;
  }
  return items;
}

/** What the model is shown: an answer's text and the calls behind it are one message. */
export function toMessages(instructions: string | null, items: readonly Item[]): ChatMessage[] {
  const messages: ChatMessage[] = instructions === null ? [] : [{ role: 'system', content: instructions }];
  for (const item of items) {
    if (item.type === 'message') {
      const content = item.content.map((part) => part.text).join('');
      messages.push({ role: item.role === 'developer' ? 'system' : item.role, content });
    } else if (item.type === 'function_call_output') {
      messages.push({ role: 'tool', content: item.output, toolCallId: item.call_id });
    } else {
      let last = messages.at(-1);
      if (last?.role !== 'assistant') messages.push((last = { role: 'assistant', content: '' }));
      (last.toolCalls ??= []).push({ id: item.call_id, name: item.name, arguments: item.arguments });
    }
  }
  return messages;
}

/** Estimated memory of items, in bytes. */
export function itemBytes(items: readonly Item[]): number {
  let bytes = 0;
  for (const item of items) {
    bytes += 512;
    if (item.type === 'message') for (const part of item.content) bytes += 128 + 2 * part.text.length;
    else bytes += 2 * (item.type === 'function_call' ? item.arguments : item.output).length;
  }
  return bytes;
}
