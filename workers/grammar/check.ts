// Whether a grammar can be held to: rules first, then compiled for the model's own vocabulary and walked at random, which
// finds what explodes only while it is followed. Runs in a thread of its own (check-thread.ts) that is ended when it takes
// too long. What passes goes to the engine workers as it was compiled here.
import { ServiceError } from '../../protocol/errors.ts';
import type { CallForm, GrammarCheck, GrammarSpec, TextForm } from '../messages/grammar.ts';
import { uniform } from '../sampling/rng.ts';
import { compileSpec, regexRules, schemaRules } from './grammar-source.ts';
import type { GrammarInstance } from './instance.ts';
import { checkSchema, SchemaLimits } from './schema-rules.ts';
import { patternSize, schemaSize, type GrammarSize } from './schema-size.ts';
import type { Handle } from './xgrammar.ts';

/** A counted character of a string costs so much for each token of the vocabulary, on a fast core. */
const MS_PER_CHARACTER = 0.0005;
/** So many times too much is not tried. */
const SURELY = 1.25;
/** Random tokens that a new grammar is followed for. */
const WALK_TOKENS = 64;

export interface Checker {
  instance: GrammarInstance;
  /** Computing time that there is for a grammar. */
  limitMs: number;
  /** What the library printed since it was asked last. */
  takeMessages(): string;
}

/** The library gave up on this instance: it must be loaded anew. `cause` is what the client is told. */
export class InstanceLost extends Error {
  override readonly name = 'InstanceLost';
}

/**
 * The grammar with its image: schemas of functions that are not strict, and which cannot be held to, become any object.
 * Throws ServiceError that names the field, or InstanceLost with one as its cause.
 */
export function checkGrammar(checker: Checker, { spec, address }: GrammarCheck): GrammarSpec {
  const { instance } = checker;
  if (spec.text !== null && !spec.mustCall) checkText(checker, spec.text);
  const calls = spec.calls.map((call) => checkCall(checker, call));
  const checked = { ...spec, calls };
  const { param } = spec.text ?? spec.calls[0]!;
  const made = instance.compileAt(address, () =>
    attempt(checker, param, () => compileSpec(instance.xgrammar, instance.compiler, checked, instance.callSyntax)),
  );
  if (made === null) throw new ServiceError('unsupported', `${param} is too complex.`, { param });
  walk(instance, made.compiled);
  instance.restore();
  return { ...checked, image: made.image };
}

function checkText(checker: Checker, text: TextForm): void {
  const { param } = text;
  if (text.kind === 'regex') {
    if (text.pattern.length > SchemaLimits.patternChars) {
      throw new ServiceError('unsupported', `${param} is longer than ${SchemaLimits.patternChars} characters.`, {
        param,
      });
    }
    checkSize(checker, patternSize(text.pattern, param), param);
    attempt(checker, param, () => regexRules(checker.instance.xgrammar, text.pattern));
  } else {
    checkSchema(JSON.parse(text.schema), param, false);
    checkSize(checker, schemaSize(text.schema, param), param);
    attempt(checker, param, () => schemaRules(checker.instance.xgrammar, text.schema));
  }
}

/** What would surely take too long is told at once. */
function checkSize({ instance, limitMs }: Checker, { characters }: GrammarSize, param: string): void {
  const most = Math.floor((SURELY * limitMs) / (MS_PER_CHARACTER * instance.vocabSize));
  if (characters <= most) return;
  const message = `${param} is too complex: its strings count ${characters} characters, and ${most} is the most for this vocabulary.`;
  throw new ServiceError('unsupported', message, { param });
}

function checkCall(checker: Checker, call: CallForm): CallForm {
  const { schema, param, isStrict } = call;
  if (schema === null) return call;
  try {
    checkSchema(JSON.parse(schema), param, true);
    checkSize(checker, schemaSize(schema, param), param);
  } catch (error) {
    if (isStrict || !(error instanceof ServiceError)) throw error;
    return { ...call, schema: null };
  }
  attempt(checker, param, () => schemaRules(checker.instance.xgrammar, schema));
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

/** Follows the grammar for some tokens, the same ones for the same grammar. */
function walk({ xgrammar, vocabSize }: GrammarInstance, compiled: Handle): void {
  const matcher = new xgrammar.GrammarMatcher(compiled, undefined, false, -1);
  for (let step = 0; step < WALK_TOKENS && !matcher.IsTerminated(); step++) {
    const vector = matcher.GetNextTokenBitmask(vocabSize);
    const token = pickAllowed(xgrammar.vecIntToView(vector), vocabSize, uniform(vocabSize, step));
    vector.delete();
    if (token < 0 || !matcher.AcceptToken(token, false)) break;
  }
  matcher.delete();
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
