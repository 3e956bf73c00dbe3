// How the models of a family write tool calls: one description per form, for the grammar that makes them
// (grammar/grammar-source.ts), the parsers that find them, and the markers that answers must show. What must stay true:
// `head` and `tail` read exactly what `begin` and `end` write.

export type CallForms = 'hermes' | 'llama' | 'mistral' | 'mistral-args';

export interface CallSyntax {
  readonly kind: CallForms;
  /** Added tokens that are part of calls: shown, though the tokenizer hides them. */
  readonly markers: readonly string[];
  /** What a call begins like, in a text. */
  readonly openers: readonly string[];
  /** Before the first call, and behind the last: calls are a list. */
  readonly open: string;
  readonly close: string;
  /** Around a function's name; its arguments follow. */
  readonly begin: readonly [before: string, after: string];
  /** Behind the arguments. */
  readonly end: string;
  readonly separator: string;
  /** Calls of one answer, at most: a small model repeats one until the context is full. */
  readonly maxCalls: number;
}

const MAX_CALLS = 8;
const jsonBegin = (argumentsKey: string) => ['{"name": "', `", "${argumentsKey}": `] as const;

/** Hermes and Qwen: each call between tags. */
export const hermesCalls: CallSyntax = {
  kind: 'hermes',
  markers: [],
  openers: ['<tool_call>'],
  open: '',
  close: '',
  begin: ['<tool_call>\n{"name": "', '", "arguments": '],
  end: '}\n</tool_call>',
  separator: '\n',
  maxCalls: MAX_CALLS,
};

/** Llama 3.1 and later: the answer is one object, perhaps behind a tag. */
export const llamaCalls: CallSyntax = {
  kind: 'llama',
  markers: ['<|python_tag|>'],
  openers: ['<|python_tag|>', '{"name": "'],
  open: '',
  close: '',
  begin: jsonBegin('parameters'),
  end: '}',
  separator: '',
  maxCalls: 1,
};

/** Mistral since its third tokenizer: a list behind a tag, with or without a space. */
export function mistralCalls(space: string): CallSyntax {
  return {
    kind: 'mistral',
    markers: ['[TOOL_CALLS]'],
    openers: ['[TOOL_CALLS]'],
    open: `[TOOL_CALLS]${space}[`,
    close: ']',
    begin: jsonBegin('arguments'),
    end: '}',
    separator: ', ',
    maxCalls: MAX_CALLS,
  };
}

/** Mistral since its eleventh: name and arguments, each behind a tag. */
export const mistralArgsCalls: CallSyntax = {
  kind: 'mistral-args',
  markers: ['[TOOL_CALLS]', '[ARGS]'],
  openers: ['[TOOL_CALLS]'],
  open: '',
  close: '',
  begin: ['[TOOL_CALLS]', '[ARGS]'],
  end: '',
  separator: '',
  maxCalls: MAX_CALLS,
};

/**
 * The form that a template asks for. shown: a question with a tool; called: a call of `name` in an answer, both rendered.
 * Null: calls of this template cannot be read.
 */
export function syntaxOf(shown: string, called: string, name: string): CallSyntax | null {
  if (shown.includes('<tool_call>')) return hermesCalls;
  if (called.includes(`[TOOL_CALLS]${name}[ARGS]`)) return mistralArgsCalls;
  const space = /\[TOOL_CALLS\]( ?)\[\{"name": "/.exec(called)?.[1];
  if (space !== undefined) return mistralCalls(space);
  return called.includes(`{"name": "${name}", "parameters": `) ? llamaCalls : null;
}

/** Where the first of them begins in a text; -1: nowhere. */
export function firstOf(text: string, openers: readonly string[]): number {
  const found = openers.map((opener) => text.indexOf(opener)).filter((at) => at >= 0);
  return found.length === 0 ? -1 : Math.min(...found);
}
