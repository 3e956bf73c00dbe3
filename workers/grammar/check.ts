// Whether a grammar can be held to: rules first, then compiled for the model's own vocabulary and walked at random, which
// finds what explodes only while it is followed. Runs in a thread of its own (check-thread.ts) that is ended when it takes
// too long. What must stay true: what passes here compiles in an engine worker, in about the time that it took here.
import { ServiceError } from '../../protocol/errors.ts';
import type { CallForm, GrammarSpec, TextForm } from '../messages.ts';
import { uniform } from '../sampling/rng.ts';
import { compileSpec, regexRules, schemaRules } from './grammar-source.ts';
import { checkSchema, SchemaLimits } from './schema-rules.ts';
import type { Compiler, Handle, Xgrammar } from './xgrammar.ts';

/** Random tokens that a new grammar is followed for. */
const WALK_TOKENS = 64;

export interface Checker {
  xgrammar: Xgrammar;
  compiler: Compiler;
  vocabSize: number;
  /** What the library printed since it was asked last. */
  takeMessages(): string;
}

/** The library gave up on this instance: it must be loaded anew. `cause` is what the client is told. */
export class InstanceLost extends Error {
  override readonly name = 'InstanceLost';
}

/**
 * The grammar to compile: schemas of functions that are not strict, and which cannot be held to, become any object.
 * Throws ServiceError that names the field, or InstanceLost with one as its cause.
 */
export function checkGrammar(checker: Checker, spec: GrammarSpec): GrammarSpec {
  if (spec.text !== null && !spec.mustCall) checkText(checker, spec.text);
  const calls = spec.calls.map((call) => checkCall(checker, call));
  const checked = { ...spec, calls };
  const { param } = spec.text ?? spec.calls[0]!;
  walk(
    checker,
    attempt(checker, param, () => compileSpec(checker.xgrammar, checker.compiler, checked)),
  );
  return checked;
}

function checkText(checker: Checker, text: TextForm): void {
  const { param } = text;
  if (text.kind === 'regex') {
    if (text.pattern.length > SchemaLimits.patternChars) {
      throw new ServiceError('unsupported', `${param} is longer than ${SchemaLimits.patternChars} characters.`, {
        param,
      });
    }
    attempt(checker, param, () => regexRules(checker.xgrammar, text.pattern));
  } else {
    checkSchema(JSON.parse(text.schema), param, false);
    attempt(checker, param, () => schemaRules(checker.xgrammar, text.schema));
  }
}

function checkCall(checker: Checker, call: CallForm): CallForm {
  const { schema, param, isStrict } = call;
  if (schema === null) return call;
  try {
    checkSchema(JSON.parse(schema), param, true);
  } catch (error) {
    if (isStrict || !(error instanceof ServiceError)) throw error;
    return { ...call, schema: null };
  }
  attempt(checker, param, () => schemaRules(checker.xgrammar, schema));
  return call;
}

/** Runs a part of the library, which aborts where it cannot go on and says why on its console. */
function attempt<T>(checker: Checker, param: string, run: () => T): T {
  checker.takeMessages();
  let result: T;
  try {
    result = run();
  } catch {
    const reason = reasonOf(checker.takeMessages());
    const cause = new ServiceError('unsupported', `${param} cannot be held to: ${reason}.`, { param });
    throw new InstanceLost(cause.message, { cause });
  }
  const warning = checker.takeMessages();
  if (!warning.includes('[WARNING]')) return result;
  throw new ServiceError('unsupported', `${param} cannot be held to: ${reasonOf(warning)}.`, { param });
}

/** The first line that says something, without the file it comes from. */
function reasonOf(messages: string): string {
  const line = messages.split('\n').find((text) => /\[(?:FATAL|WARNING)\]/.test(text));
  const reason = line?.replace(/^.*?\[(?:FATAL|WARNING)\] \S*?:\d+: /, '').replace(/^Check failed: .*? is false: /, '');
  return reason?.slice(0, 200).replace(/[.\s]+$/, '') || 'it is too complex';
}

/** Follows the grammar for some tokens, the same ones for the same grammar, and deletes it. */
function walk({ xgrammar, vocabSize }: Checker, compiled: Handle): void {
  const matcher = new xgrammar.GrammarMatcher(compiled, undefined, false, -1);
  for (let step = 0; step < WALK_TOKENS && !matcher.IsTerminated(); step++) {
    const vector = matcher.GetNextTokenBitmask(vocabSize);
    const token = pickAllowed(xgrammar.vecIntToView(vector), vocabSize, uniform(vocabSize, step));
    vector.delete();
    if (token < 0 || !matcher.AcceptToken(token, false)) break;
  }
  matcher.delete();
  compiled.delete();
}

/** The first allowed token from a random one on, around; -1: none is. */
function pickAllowed(mask: Int32Array, vocabSize: number, u: number): number {
  const start = Math.floor(u * vocabSize);
  for (let i = 0; i < vocabSize; i++) {
    const id = (start + i) % vocabSize;
    if (((mask[id >> 5]! >>> (id & 31)) & 1) === 1) return id;
  }
  return -1;
}
