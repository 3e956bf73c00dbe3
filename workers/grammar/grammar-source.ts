// A GrammarSpec as web-xgrammar's own notation, and compiled from it. Used where grammars are checked and where they are
// followed, so that both compile the same. The form of a call is that of Hermes and Qwen templates, as forced-calls.ts
// reads it; JSON is written in one line, with one space after commas and colons, as models were trained to write it.
import { forLibrary, withShortNumbers } from './library-schema.ts';
import { withinJson } from './string-classes.ts';
import type { CallForm, GrammarSpec } from '../messages/grammar.ts';
import type { Compiler, Grammar, Handle, Xgrammar } from './xgrammar.ts';

export const CALL_OPEN = '<tool_call>';
export const CALL_CLOSE = '</tool_call>';
const ANY_OBJECT = '{"type":"object"}';
const SEPARATORS = { first: ', ', second: ': ' };

/** What a call begins with, up to its arguments. The name is letters, digits, _ and -. */
const callBegin = (name: string): string => `${CALL_OPEN}\n{"name": "${name}", "arguments": `;
const CALL_END = `}\n${CALL_CLOSE}`;
const CALL_SEPARATOR = '\n';

/** Rules of a JSON schema, the first named `root`. Throws what the library throws for what it cannot do. */
export function schemaRules(xgrammar: Xgrammar, schema: string | null): string {
  const grammar = xgrammar.Grammar.FromJSONSchema(
    schema === null ? ANY_OBJECT : JSON.stringify(forLibrary(JSON.parse(schema))),
    false,
    undefined,
    SEPARATORS,
    true,
    undefined,
    false,
  );
  return withShortNumbers(withinJson(take(grammar)));
}

export function regexRules(xgrammar: Xgrammar, pattern: string): string {
  const format = { type: 'sequence', elements: [{ type: 'regex', pattern }] };
  return take(xgrammar.Grammar.FromStructuralTag(JSON.stringify({ type: 'structural_tag', format })), true);
}

/** Compiles for the compiler's vocabulary. The result belongs to the caller. */
export function compileSpec(xgrammar: Xgrammar, compiler: Compiler, spec: GrammarSpec): Handle {
  if (spec.text === null && !spec.mustCall) return compiler.CompileStructuralTag(freeTextWithCalls(xgrammar, spec));
  const grammar = xgrammar.Grammar.FromEBNF(rulesOf(xgrammar, spec), 'root');
  try {
    return compiler.CompileGrammar(grammar);
  } finally {
    grammar.delete();
  }
}

/** Any text; whatever begins like a call goes on as one. */
function freeTextWithCalls(xgrammar: Xgrammar, { calls, isParallel }: GrammarSpec): string {
  const tags = calls.map(({ name, schema }) => ({
    type: 'tag',
    begin: callBegin(name),
    content: { type: 'grammar', grammar: schemaRules(xgrammar, schema) },
    end: CALL_END,
  }));
  const format = { type: 'triggered_tags', triggers: [CALL_OPEN], tags, stop_after_first: !isParallel };
  return JSON.stringify({ type: 'structural_tag', format: { ...format, at_least_one: false } });
}

/** Calls of an answer that has to call, at most: a small model repeats one until the context is full. */
const MAX_CALLS = 8;

/** The text's form, or calls, whichever are asked for. */
function rulesOf(xgrammar: Xgrammar, { text, calls, mustCall, isParallel }: GrammarSpec): string {
  const rules: string[] = [];
  const roots: string[] = [];
  if (text !== null && !mustCall) {
    const source = text.kind === 'schema' ? schemaRules(xgrammar, text.schema) : regexRules(xgrammar, text.pattern);
    rules.push(withPrefix(source, 'text_'));
    roots.push('text_root');
  }
  if (calls.length > 0) {
    rules.push(...callRules(xgrammar, calls));
    const most = isParallel ? MAX_CALLS : 1;
    for (let i = 1; i < most; i++) rules.push(`more_${i} ::= "" | ${quoted(CALL_SEPARATOR)} call more_${i + 1}`);
    rules.push(`more_${most} ::= ""`, 'calls ::= call more_1');
    roots.push('calls');
  }
  return [`root ::= ${roots.join(' | ')}`, ...rules].join('\n');
}

function callRules(xgrammar: Xgrammar, calls: readonly CallForm[]): string[] {
  /** Calls with the same schema share its rules. */
  const prefixes = new Map<string | null, string>();
  const rules: string[] = [];
  const forms = calls.map(({ name, schema }) => {
    let prefix = prefixes.get(schema);
    if (prefix === undefined) {
      prefix = `arguments_${prefixes.size}_`;
      prefixes.set(schema, prefix);
      rules.push(withPrefix(schemaRules(xgrammar, schema), prefix));
    }
    return `${quoted(callBegin(name))} ${prefix}root ${quoted(CALL_END)}`;
  });
  return [`call ::= ${forms.map((form) => `(${form})`).join(' | ')}`, ...rules];
}

/** The rules with other names: two sets of them can then stand in one grammar. */
function withPrefix(rules: string, prefix: string): string {
  // Strings and character classes are left as they are; what remains of letters are names.
  const token = /"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[A-Za-z_][\w-]*/g;
  return rules.replace(token, (found) => (/^["[]/.test(found) ? found : prefix + found));
}

function quoted(text: string): string {
  return JSON.stringify(text);
}

/** The grammar's rules, its first one called `root`; the grammar is given back. */
function take(grammar: Grammar, hasOwnRoot = false): string {
  try {
    const rules = grammar.ToString();
    if (!hasOwnRoot) return rules;
    // A structural tag's last rule is where it begins.
    const last = /^([\w-]+) ::=/.exec(rules.trim().split('\n').at(-1)!)![1]!;
    return last === 'root' ? rules : `${withPrefix(rules, 'r_')}\nroot ::= r_${last}`;
  } finally {
    grammar.delete();
  }
}
