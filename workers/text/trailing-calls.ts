// Finds tool calls in answers of models that write them last and in another form than Hermes (call-syntax.ts): what begins
// like calls is held until the answer ends, and is either calls as a whole, or text. Takes the place of tool-calls.ts in
// answer-stream.ts, for answers that no grammar holds to a form.
import type { CallSyntax } from './call-syntax.ts';
import { firstOf } from './call-syntax.ts';
import { JsonScanner } from './json-scanner.ts';
import { partialEnd } from './stop.ts';
import type { AnswerSink, CallParser } from './tool-calls.ts';

export interface TrailingCallState {
  kind: 'trailing';
  /** Generated text not passed on yet. */
  held: string;
  hasText: boolean;
  isOpen: boolean;
}

interface Call {
  name: string;
  argumentsText: string;
}

export class TrailingCallParser implements CallParser {
  /** Calls are reported when they are complete. */
  readonly isCallOpen = false;
  readonly #syntax: CallSyntax;
  readonly #names: ReadonlySet<string> | null;
  readonly #state: TrailingCallState;
  #numCalls = 0;

  /** names: only these functions are calls, others stay text; null accepts all. */
  constructor(syntax: CallSyntax, names: readonly string[] | null, state?: TrailingCallState) {
    this.#syntax = syntax;
    this.#names = names === null ? null : new Set(names);
    this.#state = { kind: 'trailing', held: '', hasText: false, isOpen: false, ...state };
  }

  get numCalls(): number {
    return this.#numCalls;
  }

  get numHeld(): number {
    return this.#state.held.length;
  }

  push(piece: string, out: AnswerSink): void {
    const state = this.#state;
    state.held += piece;
    if (state.isOpen) return;
    const { openers } = this.#syntax;
    const at = this.#opening(openers);
    if (at >= 0) {
      this.#pass(at, out);
      state.isOpen = true;
    } else if (state.held.trim() !== '') {
      this.#pass(state.held.length - Math.max(...openers.map((opener) => partialEnd(state.held, opener))), out);
    }
  }

  /** A tag opens calls anywhere, an object only where the answer begins with it. */
  #opening(openers: readonly string[]): number {
    const { held, hasText } = this.#state;
    const tags = openers.filter((opener) => !opener.startsWith('{'));
    const start = held.length - held.trimStart().length;
    if (!hasText && openers.some((opener) => held.startsWith(opener, start))) return 0;
    return firstOf(held, tags);
  }

  finish(out: AnswerSink): void {
    const calls = this.#state.isOpen ? this.#read() : null;
    if (calls === null) {
      this.#pass(this.#state.held.length, out);
      return;
    }
    this.#state.held = '';
    for (const { name, argumentsText } of calls) {
      const index = this.#numCalls++;
      out.toolBegin(index, name);
      out.toolDelta(index, argumentsText);
      out.toolEnd(index);
    }
  }

  snapshot(): TrailingCallState {
    return { ...this.#state };
  }

  #pass(end: number, out: AnswerSink): void {
    if (end === 0) return;
    out.text(this.#state.held.slice(0, end));
    this.#state.held = this.#state.held.slice(end);
    this.#state.hasText = true;
  }

  /** All that is held, as calls; null where anything of it is none. */
  #read(): Call[] | null {
    const calls = this.#syntax.kind === 'mistral-args' ? readTagged(this.#state.held) : readObjects(this.#state.held);
    const isKnown = ({ name }: Call): boolean => this.#names === null || this.#names.has(name);
    return calls !== null && calls.length > 0 && calls.every(isKnown) ? calls : null;
  }
}

/** `[TOOL_CALLS]name[ARGS]{…}`, any number of times. */
function readTagged(text: string): Call[] | null {
  const calls: Call[] = [];
  for (let rest = text.trim(); rest !== '';) {
    const head = /^\[TOOL_CALLS\]\s*([\w-]+)\s*\[ARGS\]\s*/.exec(rest);
    const object = head && readObject(rest.slice(head[0].length));
    if (!head || !object) return null;
    calls.push({ name: head[1]!, argumentsText: object.source });
    rest = object.rest.trimStart();
  }
  return calls;
}

/** Objects with name and arguments: one, or a list, perhaps behind a tag. */
function readObjects(text: string): Call[] | null {
  let rest = text.replace(/^\s*(?:<\|python_tag\|>|\[TOOL_CALLS\])/, '').trim();
  if (rest.startsWith('[') && rest.endsWith(']')) rest = rest.slice(1, -1).trim();
  const calls: Call[] = [];
  while (rest !== '') {
    const object = readObject(rest);
    const call = object && callOf(object);
    if (!object || !call) return null;
    calls.push(call);
    rest = object.rest.trimStart();
    if (rest === '') break;
    if (!/^[,;]\s*\{/.test(rest)) return null;
    rest = rest.slice(1).trimStart();
  }
  return calls;
}

interface ReadObject {
  source: string;
  rest: string;
  scanner: JsonScanner;
}

function readObject(text: string): ReadObject | null {
  if (!text.startsWith('{')) return null;
  const scanner = new JsonScanner();
  for (let at = 0; at < text.length; at++) {
    const status = scanner.feed(text[at]!);
    if (status === 'bad') return null;
    if (status === 'done') return { source: text.slice(0, at + 1), rest: text.slice(at + 1), scanner };
  }
  return null;
}

function callOf({ source, scanner }: ReadObject): Call | null {
  let name: unknown;
  let argumentsText: string | undefined;
  for (const property of scanner.properties) {
    const key: unknown = JSON.parse(source.slice(property.keyStart, property.keyEnd));
    const value = source.slice(property.valueStart, property.valueEnd);
    if (key === 'name') name = JSON.parse(value);
    else if (key === 'arguments' || key === 'parameters') argumentsText = value;
    else if (key !== 'id' && key !== 'type') return null;
  }
  if (typeof name !== 'string' || name === '' || !argumentsText?.startsWith('{')) return null;
  return { name, argumentsText };
}
