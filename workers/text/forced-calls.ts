// Finds tool calls in an answer that a grammar holds to their form, so that what begins like a call is one: arguments are
// passed on as they are made. Takes the place of tool-calls.ts in answer-stream.ts. What must stay true: the form is that
// of call-syntax.ts; the pieces of a call's arguments joined are a JSON object, or, where the
// answer was cut off, the beginning of one.
import { firstOf, hermesCalls, type CallSyntax } from './call-syntax.ts';
import { partialEnd } from './stop.ts';
import type { AnswerSink, CallParser } from './tool-calls.ts';

/** Plain data: everything to go on from. */
export interface ForcedCallState {
  kind: 'forced';
  /** Generated text not passed on yet. */
  held: string;
  numCalls: number;
  /** Nothing but white space was generated since the last call. */
  isAfterCall: boolean;
  phase: Phase;
  /** Within arguments: open brackets, and where in a string. */
  depth: number;
  inString: boolean;
  isEscaped: boolean;
}

/** `more`: behind a call of a list. */
type Phase = 'text' | 'head' | 'arguments' | 'tail' | 'more';

export class ForcedCallParser implements CallParser {
  readonly #state: ForcedCallState;
  readonly #syntax: CallSyntax;

  constructor(state?: ForcedCallState, syntax: CallSyntax = hermesCalls) {
    this.#syntax = syntax;
    const none = { kind: 'forced', held: '', numCalls: 0, isAfterCall: false, phase: 'text' } as const;
    this.#state = { ...none, depth: 0, inString: false, isEscaped: false, ...state };
  }

  /** Calls begun, the open one included. */
  get numCalls(): number {
    return this.#state.numCalls;
  }

  get isCallOpen(): boolean {
    return this.#state.phase === 'head' || this.#state.phase === 'arguments';
  }

  /** Characters at the end of what was pushed that are not passed on, nor part of a call, for certain. */
  get numHeld(): number {
    return this.#state.held.length;
  }

  push(piece: string, out: AnswerSink): void {
    this.#state.held += piece;
    while (this.#advance(out));
  }

  /** What was cut off before the arguments began is no call, and no text either: but an object may be an answer. */
  finish(out: AnswerSink): void {
    const { phase, held } = this.#state;
    if (phase === 'text' && !this.#isBlankAfterCall(held)) this.#pass(held.length, out);
    this.#state.held = '';
  }

  snapshot(): ForcedCallState {
    return { ...this.#state };
  }

  /** One phase on; false when more text is needed. */
  #advance(out: AnswerSink): boolean {
    switch (this.#state.phase) {
      case 'text':
        return this.#readText(out);
      case 'head':
        return this.#readHead(out);
      case 'arguments':
        return this.#readArguments(out);
      case 'tail':
        if (this.#state.held.length < this.#syntax.end.length) return false;
        this.#take(this.#syntax.end.length);
        this.#state.isAfterCall = true;
        this.#state.phase = this.#syntax.close === '' ? 'text' : 'more';
        return true;
      case 'more':
        return this.#readMore();
    }
  }

  #readText(out: AnswerSink): boolean {
    const { held } = this.#state;
    const { openers } = this.#syntax;
    const tag = firstOf(held, openers);
    let end = tag < 0 ? held.length - Math.max(...openers.map((opener) => partialEnd(held, opener))) : tag;
    // A line break before the tag belongs to the tag, as templates write it.
    if (held[end - 1] === '\n') end--;
    // After a call, white space belongs to the next call if one follows.
    const isBlank = this.#isBlankAfterCall(held.slice(0, end));
    if (!isBlank) this.#pass(end, out);
    if (tag < 0) return false;
    this.#take(firstOf(this.#state.held, openers));
    this.#state.phase = 'head';
    return true;
  }

  #readHead(out: AnswerSink): boolean {
    const { held } = this.#state;
    const [before, after] = this.#syntax.begin;
    const head = this.#lead(held) + before;
    if (!held.startsWith(head)) return head.startsWith(held) ? false : this.#giveUp(out);
    const at = head.length;
    const name = /^[\w-]*/.exec(held.slice(at))![0];
    const rest = held.slice(at + name.length, at + name.length + after.length);
    if (!after.startsWith(rest)) return this.#giveUp(out);
    if (rest.length < after.length) return false;
    this.#take(at + name.length + after.length);
    this.#state.phase = 'arguments';
    this.#state.depth = 0;
    out.toolBegin(this.#state.numCalls++, name);
    return true;
  }

  /** What stands before a call's own beginning. */
  #lead(held: string): string {
    const { kind, open, close, separator, openers } = this.#syntax;
    if (close !== '' && held.startsWith(separator)) return separator;
    // Llama's tag may be left out.
    return kind === 'llama' && held.startsWith(openers[0]!) ? openers[0]! : open;
  }

  /** An object that an answer's own form asks for, and which only begins like a call. */
  #giveUp(out: AnswerSink): true {
    this.#state.phase = 'text';
    this.#pass(this.#syntax.openers.find((opener) => this.#state.held.startsWith(opener))?.length ?? 1, out);
    return true;
  }

  #readMore(): boolean {
    const { close, separator } = this.#syntax;
    const { held } = this.#state;
    if (held.startsWith(close)) {
      this.#take(close.length);
      this.#state.phase = 'text';
      return true;
    }
    if (!held.startsWith(separator)) return false;
    this.#state.phase = 'head';
    return true;
  }

  #readArguments(out: AnswerSink): boolean {
    const { held, numCalls } = this.#state;
    if (held === '') return false;
    const end = this.#endOfObject(held);
    out.toolDelta(numCalls - 1, this.#take(end < 0 ? held.length : end));
    if (end < 0) return false;
    out.toolEnd(numCalls - 1);
    this.#state.phase = 'tail';
    return true;
  }

  /** Position behind the arguments object's last bracket; -1: it goes on. It is known to be JSON. */
  #endOfObject(text: string): number {
    const state = this.#state;
    for (let at = 0; at < text.length; at++) {
      const unit = text[at];
      if (state.inString) {
        if (state.isEscaped) state.isEscaped = false;
        else if (unit === '\\') state.isEscaped = true;
        else if (unit === '"') state.inString = false;
      } else if (unit === '"') state.inString = true;
      else if (unit === '{' || unit === '[') state.depth++;
      else if ((unit === '}' || unit === ']') && --state.depth === 0) return at + 1;
    }
    return -1;
  }

  #isBlankAfterCall(text: string): boolean {
    return this.#state.isAfterCall && text.trim() === '';
  }

  #pass(end: number, out: AnswerSink): void {
    if (end === 0) return;
    out.text(this.#state.held.slice(0, end));
    this.#take(end);
    this.#state.isAfterCall = false;
  }

  #take(length: number): string {
    const taken = this.#state.held.slice(0, length);
    this.#state.held = this.#state.held.slice(length);
    return taken;
  }
}
