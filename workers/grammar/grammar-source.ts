// A GrammarSpec as web-xgrammar's own notation, and compiled from it. Used where grammars are checked and where they are
// followed, so that both compile the same. The form of a call is the model's own (text/call-syntax.ts); JSON is written in one line, with one space after commas and colons, as models were trained to write it.
import { forLibrary, withShortNumbers } from './library-schema.ts';
import { withinJson } from './string-classes.ts';
import type { CallForm, GrammarSpec } from '../messages/grammar.ts';
import { hermesCalls, type CallSyntax } from '../text/call-syntax.ts';
import type { Compiler, Grammar, Handle, Xgrammar } from './xgrammar.ts';

const ANY_OBJECT = '{"type":"object"}';
const SEPARATORS = { first: ', ', second: ': ' };

/** What a call begins with, up to its arguments. The name is letters, digits, _ and -. */
const callBegin = ({ begin: [before, after] }: CallSyntax, name: string): string => before + name + after;

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
export function compileSpec(
  xgrammar: Xgrammar,
  compiler: Compiler,
  spec: GrammarSpec,
  syntax: CallSyntax = hermesCalls,
): Handle {
  if (spec.text === null && !spec.mustCall) {
    return compiler.CompileStructuralTag(freeTextWithCalls(xgrammar, spec, syntax));
  }
  const grammar = xgrammar.Grammar.FromEBNF(rulesOf(xgrammar, spec, syntax), 'root');
  try {
    return compiler.CompileGrammar(grammar);
  } finally {
    grammar.delete();
  }
}

function tag(begin: string, grammar: string, end: string): object {
  return { type: 'tag', begin, content: { type: 'grammar', grammar }, end };
}

/** Any text; whatever begins like a call goes on as one. */
function freeTextWithCalls(xgrammar: Xgrammar, { calls, isParallel }: GrammarSpec, syntax: CallSyntax): string {
  const { kind, openers, open, close, end, maxCalls } = syntax;
  let tags: object[];
  if (close !== '') {
    // A list of calls goes on as a whole.
    const rules = listRules(xgrammar, calls, isParallel, syntax);
    tags = [tag(open, ['root ::= call more_1', ...rules].join('\n'), close)];
  } else {
    const prefixes = kind === 'llama' ? ['', openers[0]!] : [''];
    tags = prefixes.flatMap((prefix) =>
      calls.map(({ name, schema }) => tag(prefix + callBegin(syntax, name), schemaRules(xgrammar, schema), end)),
    );
  }
  const isLast = !isParallel || maxCalls === 1 || close !== '';
  const format = { type: 'triggered_tags', triggers: openers, tags, stop_after_first: isLast, at_least_one: false };
  return JSON.stringify({ type: 'structural_tag', format });
}

/** The text's form, or calls, whichever are asked for. */
function rulesOf(xgrammar: Xgrammar, { text, calls, mustCall, isParallel }: GrammarSpec, syntax: CallSyntax): string {
  const rules: string[] = [];
  const roots: string[] = [];
  if (text !== null && !mustCall) {
    const source = text.kind === 'schema' ? schemaRules(xgrammar, text.schema) : regexRules(xgrammar, text.pattern);
    rules.push(withPrefix(source, 'text_'));
    roots.push('text_root');
  }
  if (calls.length > 0) {
    const { open, close } = syntax;
    rules.push(...listRules(xgrammar, calls, isParallel, syntax));
    rules.push(`calls ::= ${quoted(open)} call more_1 ${quoted(close)}`);
    roots.push('calls');
  }
  return [`root ::= ${roots.join(' | ')}`, ...rules].join('\n');
}

/** `call`, and with `more_1` as many further ones as there may be. */
function listRules(xgrammar: Xgrammar, calls: readonly CallForm[], isParallel: boolean, syntax: CallSyntax): string[] {
  const rules = callRules(xgrammar, calls, syntax);
  const most = isParallel ? syntax.maxCalls : 1;
  for (let i = 1; i < most; i++) rules.push(`more_${i} ::= "" | ${quoted(syntax.separator)} call more_${i + 1}`);
  return [...rules, `more_${most} ::= ""`];
}

function callRules(xgrammar: Xgrammar, calls: readonly CallForm[], syntax: CallSyntax): string[] {
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
    return `${quoted(callBegin(syntax, name))} ${prefix}root ${quoted(syntax.end)}`;
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
