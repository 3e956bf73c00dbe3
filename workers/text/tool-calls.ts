// Finds tool calls in an answer as it grows: <tool_call>{"name": …, "arguments": {…}}</tool_call>, the form of Hermes
// and Qwen templates. Last stage of answer-stream.ts. What must stay true: a call is only reported when it is
// complete and well formed; everything else comes out as text, character for character as generated.
import type { TokenLogprob } from '../../protocol/messages.ts';
import type { ForcedCallState } from './forced-calls.ts';
import { JsonScanner } from './json-scanner.ts';
import { partialEnd } from './stop.ts';
import type { TrailingCallState } from './trailing-calls.ts';

/** Receives an answer's text and calls, in order. `index` counts the calls of the answer from 0. */
export interface AnswerSink {
  text(text: string): void;
  /** Tokens that are now decided to be (part of) the answer's text; the text itself may have come before. */
  logprobs?(tokens: TokenLogprob[]): void;
  toolBegin(index: number, name: string): void;
  /** Piece of the JSON text of the arguments object. */
  toolDelta(index: number, text: string): void;
  toolEnd(index: number): void;
}

/**
 * Finds the calls in an answer's text: ToolCallParser, TrailingCallParser for other forms, ForcedCallParser where a
 * grammar makes them.
 */
export interface CallParser {
  readonly numCalls: number;
  /** The text ends within a call. */
  readonly isCallOpen: boolean;
  readonly numHeld: number;
  push(piece: string, out: AnswerSink): void;
  finish(out: AnswerSink): void;
  snapshot(): ToolCallState | ForcedCallState | TrailingCallState;
}

export interface ToolCallState {
  kind: 'found';
  /** Generated text not passed on yet: a call that may still become complete, or what could begin one. */
  held: string;
  numCalls: number;
  /** Nothing but white space was generated since the last call. */
  isAfterCall: boolean;
}

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const spaces = ' \t\n\r';

/** An opened call: how far it was read and what it consists of so far. Rebuilt from the held text after a move. */
interface OpenCall {
  scanner: JsonScanner;
  /** Positions in the held text of the JSON object's '{', and after its '}'. 0: not yet. */
  objectStart: number;
  objectEnd: number;
  /** Next unit of the held text to read. */
  at: number;
  call: { name: string; argumentsText: string } | null;
}

export class ToolCallParser implements CallParser {
  /** Calls are reported when they are complete. */
  readonly isCallOpen = false;
  readonly #names: ReadonlySet<string> | null;
  #held = '';
  #numCalls: number;
  #isAfterCall: boolean;
  #open: OpenCall | null = null;

  /** names: only these functions are calls, others stay text; null accepts all. */
  constructor(names: readonly string[] | null, state?: ToolCallState) {
    this.#names = names === null ? null : new Set(names);
    this.#numCalls = state?.numCalls ?? 0;
    this.#isAfterCall = state?.isAfterCall ?? false;
    if (state !== undefined && state.held !== '') this.push(state.held, ignore);
  }

  get numCalls(): number {
    return this.#numCalls;
  }

  /** Characters at the end of what was pushed that are not passed on, nor part of a call, for certain. */
  get numHeld(): number {
    return this.#held.length;
  }

  push(piece: string, out: AnswerSink): void {
    this.#held += piece;
    for (;;) {
      if (this.#open === null && !this.#search(out)) return;
      if (!this.#readCall(out)) return;
    }
  }

  /** The answer is over: a call that lacks only its closing tag counts, anything else is text. */
  finish(out: AnswerSink): void {
    const open = this.#open;
    if (open?.call !== null && open?.call !== undefined) {
      const rest = this.#held.slice(open.objectEnd).trimStart();
      if (CLOSE.startsWith(rest)) {
        this.#held = '';
        this.#report(open.call, out);
      }
    }
    this.#open = null;
    // White space after the last call is how models end a call, not an answer.
    if (!this.#isBlankAfterCall(this.#held)) this.#pass(this.#held.length, out);
    this.#held = '';
  }

  snapshot(): ToolCallState {
    return { kind: 'found', held: this.#held, numCalls: this.#numCalls, isAfterCall: this.#isAfterCall };
  }

  /** Passes on text up to the next opening tag; false when there is none yet. */
  #search(out: AnswerSink): boolean {
    const held = this.#held;
    const tag = held.indexOf(OPEN);
    if (tag < 0) {
      // A line break before the tag belongs to the tag, as templates write it.
      let end = held.length - partialEnd(held, OPEN);
      if (held[end - 1] === '\n') end--;
      // After a call, white space belongs to the next call if one follows.
      if (!this.#isBlankAfterCall(held.slice(0, end))) this.#pass(end, out);
      return false;
    }
    const before = held[tag - 1] === '\n' ? tag - 1 : tag;
    const from = this.#isBlankAfterCall(held.slice(0, before)) ? 0 : before;
    this.#pass(from, out);
    const at = tag - from + OPEN.length;
    this.#open = { scanner: new JsonScanner(), objectStart: 0, objectEnd: 0, at, call: null };
    return true;
  }

  #isBlankAfterCall(text: string): boolean {
    return this.#isAfterCall && text.trim() === '';
  }

  /** The first units of the held text are text of the answer. */
  #pass(end: number, out: AnswerSink): void {
    if (end === 0) return;
    out.text(this.#held.slice(0, end));
    this.#held = this.#held.slice(end);
    this.#isAfterCall = false;
  }

  /** Reads on in the open call. True when it ended, one way or the other, and the rest is to be searched. */
  #readCall(out: AnswerSink): boolean {
    const open = this.#open;
    if (open === null) return false;
    const held = this.#held;
    while (open.objectEnd === 0) {
      const unit = held[open.at];
      if (unit === undefined) return false;
      if (open.objectStart === 0 && !spaces.includes(unit)) open.objectStart = open.at;
      const status = open.objectStart === 0 ? 'more' : open.scanner.feed(unit);
      if (status === 'bad') return this.#giveUp(open.at, out);
      open.at++;
      if (status !== 'done') continue;
      open.objectEnd = open.at;
      open.call = this.#check(open, held);
      if (open.call === null) return this.#giveUp(open.at, out);
    }
    while (spaces.includes(held[open.at] ?? 'x')) open.at++;
    const rest = held.slice(open.at, open.at + CLOSE.length);
    if (rest.length < CLOSE.length && CLOSE.startsWith(rest)) return false;
    if (rest !== CLOSE || open.call === null) return this.#giveUp(open.at, out);
    this.#held = held.slice(open.at + CLOSE.length);
    this.#open = null;
    this.#report(open.call, out);
    return true;
  }

  /**
   * No call: what was read is text. The search goes on where reading failed and not behind the tag, so that junk
   * full of tags costs linear time; a real call after broken JSON is found all the same.
   */
  #giveUp(end: number, out: AnswerSink): true {
    this.#pass(end, out);
    this.#open = null;
    return true;
  }

  /** Name and arguments' source of a complete object; null unless it is exactly a known function's call. */
  #check(open: OpenCall, held: string): OpenCall['call'] {
    const source = held.slice(open.objectStart, open.objectEnd);
    let name: unknown;
    let argumentsText: string | undefined;
    for (const property of open.scanner.properties) {
      const key: unknown = JSON.parse(source.slice(property.keyStart, property.keyEnd));
      const value = source.slice(property.valueStart, property.valueEnd);
      if (key === 'name' && name === undefined) name = JSON.parse(value);
      else if (key === 'arguments' && argumentsText === undefined) argumentsText = objectSource(value);
      else return null;
    }
    if (typeof name !== 'string' || name === '' || argumentsText === undefined) return null;
    return this.#names === null || this.#names.has(name) ? { name, argumentsText } : null;
  }

  #report(call: { name: string; argumentsText: string }, out: AnswerSink): void {
    const index = this.#numCalls++;
    this.#isAfterCall = true;
    out.toolBegin(index, call.name);
    out.toolDelta(index, call.argumentsText);
    out.toolEnd(index);
  }
}

/** JSON source of an arguments object, given as an object or as a string that holds one. */
function objectSource(value: string): string | undefined {
  if (value.startsWith('{')) return value;
  if (!value.startsWith('"')) return undefined;
  const inner = JSON.parse(value) as string;
  try {
    const parsed: unknown = JSON.parse(inner);
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? inner : undefined;
  } catch {
    return undefined;
  }
}

const ignore: AnswerSink = { text: () => {}, toolBegin: () => {}, toolDelta: () => {}, toolEnd: () => {} };
