// Whether contenders compute the same model: their greedy answers to a few questions, each judged by the float reference.
// Answers are not compared with each other: after the first near tie they are about different things.
import { largest, sum } from '../statistics.ts';
import { ask } from './ask.ts';
import type { Contender } from './contenders.ts';
import type { Judge } from './judge.ts';

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

/** Over all answers: the share of tokens that the reference would choose too, and by how much it liked one less at most. */
export function judgeAnswers(judge: Judge, texts: readonly string[]): { agreed: number; largestGap: number } {
  const judgements = texts.map((text, i) => judge.judge(QUESTIONS[i]!, text));
  const numTokens = sum(judgements.map((each) => each.numTokens));
  return {
    agreed: sum(judgements.map((each) => each.numAgreed)) / Math.max(1, numTokens),
    largestGap: largest(judgements.map((each) => each.largestGap)),
  };
}
