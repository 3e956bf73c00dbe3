// Whether contenders compute the same model: their greedy answers to the same questions as ours, compared as token ids.
import type { Prompts } from '../prompts.ts';
import { sum } from '../statistics.ts';
import { ask } from './ask.ts';
import type { Contender } from './contenders.ts';

const CAPITAL = 'What is the capital of France?';
const QUESTIONS = [
  CAPITAL,
  'Hello, who are you?',
  'Why is the sky blue?',
  'Write one sentence about the ocean.',
  'What is a web server?',
  'Name three fruits.',
  'How do I sleep better?',
  'What is two plus two?',
];
const ANSWER_TOKENS = 48;

export interface Answers {
  texts: string[];
  saysParis: boolean;
}

/** Greedy, one after the other, until the model ends its answer. */
export async function collectAnswers(contender: Contender): Promise<Answers> {
  const texts: string[] = [];
  for (const content of QUESTIONS) {
    texts.push(await ask(contender, { content, maxTokens: ANSWER_TOKENS, ignoreEos: false }).done);
  }
  return { texts, saysParis: /\bParis\b/.test(texts[0]!) };
}

/** Share of ids before the first difference, over all answers. HTTP carries text, so ids are those of the texts. */
export function agreement(prompts: Prompts, ours: readonly string[], theirs: readonly string[]): number {
  const pairs = ours.map((text, i) => [prompts.text.encode(text), prompts.text.encode(theirs[i] ?? '')] as const);
  const shared = pairs.map(([a, b]) => sharedPrefix(a, b));
  return sum(shared) / Math.max(1, sum(pairs.map(([a, b]) => Math.max(a.length, b.length))));
}

export function sharedPrefix(a: readonly number[], b: readonly number[]): number {
  const end = a.findIndex((id, i) => id !== b[i]);
  return end < 0 ? a.length : end;
}
