// How far one graph's next-token distributions are from another's, on text the model writes itself. Called by
// build-entry: a prefill graph is kept only where this stays small, and the cost of 8-bit KV memory is written down.
import { logNormaliser, openRows, withSession, writeTexts, type OnStep } from './self-text.ts';
import type { ModelShape } from '../messages/models.ts';

const ROWS = 4;
const MAX_LENGTH = 48;
/** The first third of a text is noise: it begins with a token that nothing led to. */
const UNCOUNTED = 1 / 3;

/** A graph's file and the KV memory it runs on. */
export interface Graph {
  file: string;
  shape: ModelShape;
}

/**
 * Mean Kullback-Leibler divergence (nats) of the next-token distributions of `other` from those of `base`, over about
 * 130 positions of text that `base` writes. `firstToken` opens every text. NaN when a graph computes no numbers.
 */
export function divergence(base: Graph, other: Graph, firstToken: number, onStep?: OnStep): number {
  const { vocabSize, maxPositions } = base.shape;
  const length = Math.min(MAX_LENGTH, maxPositions);
  const options = { numRows: ROWS, length, vocabSize, firstToken };
  const first = Math.floor(length * UNCOUNTED);
  return withSession(base.file, (expected) => {
    const texts = writeTexts(openRows(expected, base.shape, ROWS, length), options, onStep);
    return withSession(other.file, (found) => {
      let total = 0;
      for (const text of texts) {
        onStep?.();
        const positions = Array.from({ length: length - first }, (_, i) => first + i);
        const p = openRows(expected, base.shape, 1, length).run(text, 0, positions);
        const q = openRows(found, other.shape, 1, length).run(text, 0, positions);
        total += divergenceOfRows(p, q, vocabSize);
      }
      return total / (ROWS * (length - first));
    });
  });
}

/** Sum over the rows of KL(p ‖ q). */
function divergenceOfRows(p: Float32Array, q: Float32Array, vocabSize: number): number {
  let sum = 0;
  for (let start = 0; start < p.length; start += vocabSize) {
    const [a, b] = [p, q].map((logits) => logNormaliser(logits.subarray(start, start + vocabSize)));
    for (let i = start; i < start + vocabSize; i++) {
      const logP = p[i]! - a!;
      sum += Math.exp(logP) * (logP - (q[i]! - b!));
    }
  }
  return sum;
}
