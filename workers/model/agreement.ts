// How far the prefill graph is from the decode graph, on text the model writes itself: no tokenizer, no prompts, the
// same numbers on every run. Called by compile, which keeps a prefill graph only where this stays small.
import { GraphNames } from './graph-builder.ts';
import { OrtSession, tensor, type Tensors } from './ort-binding.ts';
import type { ModelShape } from '../messages.ts';

const ROWS = 4;
const MAX_LENGTH = 48;
/** The first third of a text is noise: it begins with a token that nothing led to. */
const UNCOUNTED = 1 / 3;

/**
 * Mean Kullback-Leibler divergence (nats) of the next-token distributions of `chunks` from those of `steps`, both
 * paths of graphs, over about 130 positions. `firstToken` opens every text. NaN when a graph computes no numbers.
 */
export function divergence(steps: string, chunks: string, shape: ModelShape, firstToken: number): number {
  const length = Math.min(MAX_LENGTH, shape.maxPositions);
  const texts = withSession(steps, (session) => writeTexts(session, shape, length, firstToken));
  const first = Math.floor(length * UNCOUNTED);
  let total = 0;
  withSession(steps, (expected) => {
    withSession(chunks, (found) => {
      for (const text of texts) {
        const [p, q] = [expected, found].map((session) => logitsFrom(session, shape, text, first));
        total += divergenceOfRows(p!, q!, shape.vocabSize);
      }
    });
  });
  return total / (ROWS * (length - first));
}

function withSession<T>(file: string, use: (session: OrtSession) => T): T {
  const session = new OrtSession(file, { threads: 1 });
  try {
    return use(session);
  } finally {
    session.dispose();
  }
}

/** ROWS texts side by side, each begun differently, each token drawn from the model's own distribution. */
function writeTexts(session: OrtSession, shape: ModelShape, length: number, firstToken: number): number[][] {
  const { vocabSize } = shape;
  const texts: number[][] = Array.from({ length: ROWS }, () => [firstToken]);
  const run = prepare(session, shape, ROWS, length);
  const every = Array.from({ length: ROWS }, (_, row) => row);
  const random = shares();
  for (let step = 0; step < length - 1; step++) {
    const last = texts.map((text) => text.at(-1)!);
    const logits = run(last, step, every);
    for (const [row, text] of texts.entries()) {
      // The second tokens are spread over the vocabulary: other beginnings than the one the model likes best.
      const spread = Math.floor(((row + 0.5) * vocabSize) / ROWS);
      const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      text.push(step === 0 ? spread : draw(own, random()));
    }
  }
  return texts;
}

/** Logits [length - first, vocab] of one text run as one chunk. */
function logitsFrom(session: OrtSession, shape: ModelShape, text: readonly number[], first: number): Float32Array {
  const positions = Array.from({ length: text.length - first }, (_, i) => first + i);
  return prepare(session, shape, 1, text.length)(text, 0, positions);
}

/** A run of `rows` sequences over KV memory of its own; tokens are [rows, S], logits those of the flat positions. */
function prepare(session: OrtSession, shape: ModelShape, rows: number, maxLength: number) {
  const kv = Array.from({ length: 2 * shape.numLayers }, () => {
    const memory = new Float32Array(rows * shape.numKvHeads * maxLength * shape.headDim);
    return tensor('float32', memory, [rows, shape.numKvHeads, maxLength, shape.headDim]);
  });
  return (tokens: readonly number[], past: number, positions: readonly number[]): Float32Array => {
    const added = tokens.length / rows;
    const logits = new Float32Array(positions.length * shape.vocabSize);
    const feeds: Tensors = {
      [GraphNames.ids]: tensor('int64', BigInt64Array.from(tokens, BigInt), [rows, added]),
      [GraphNames.lengths]: tensor('int32', new Int32Array(rows).fill(past + added - 1), [rows]),
      [GraphNames.longest]: tensor('int32', Int32Array.of(past + added), [1]),
      [GraphNames.logitIndex]: tensor('int64', BigInt64Array.from(positions, BigInt), [positions.length]),
    };
    const fetches: Tensors = { [GraphNames.tick]: tensor('int64', new BigInt64Array(1), [1]) };
    for (let layer = 0; layer < shape.numLayers; layer++) {
      for (const [i, kind] of (['k', 'v'] as const).entries()) {
        feeds[GraphNames.past(kind, layer)] = fetches[GraphNames.present(kind, layer)] = kv[2 * layer + i]!;
      }
    }
    fetches[GraphNames.logits] = tensor('float32', logits, [positions.length, shape.vocabSize]);
    session.run(feeds, fetches);
    return logits;
  };
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

function logNormaliser(logits: Float32Array): number {
  let largest = -Infinity;
  for (const value of logits) if (value > largest) largest = value;
  let total = 0;
  for (const value of logits) total += Math.exp(value - largest);
  return largest + Math.log(total);
}

/** The token at which the cumulated distribution passes `share` (0..1). */
function draw(logits: Float32Array, share: number): number {
  const normaliser = logNormaliser(logits);
  let rest = share;
  let token = 0;
  for (; token < logits.length - 1; token++) if ((rest -= Math.exp(logits[token]! - normaliser)) <= 0) break;
  return token;
}

/** Golden-ratio steps: as good as random here, and the same in every run. */
function shares(): () => number {
  let state = 0.5;
  return () => (state = (state + 0.618033988749895) % 1);
}
