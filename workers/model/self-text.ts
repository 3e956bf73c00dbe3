// Text that the model writes itself, for everything the compiler measures: no tokenizer, no prompts, the same tokens on
// every run. Called by agreement (how far apart are two graphs?) and kv-scales (how large do keys and values get?).
import { GraphNames } from './graph-builder.ts';
import { OrtSession, tensor, type Tensors } from './ort-binding.ts';
import { kvArray, type ModelShape } from '../messages/models.ts';

/** Called before each run of a graph; throws when the work is to stop. */
export type OnStep = () => void;

/** Runs `rows` sequences of equal length on; returns the logits of the flat positions [positions, vocab]. */
export interface Rows {
  /** `tokens` [rows, S], appended after `past` ones. */
  run(tokens: readonly number[], past: number, positions: readonly number[]): Float32Array;
  /** Per layer K and V, alternating: [rows, kvHeads, maxLength, headDim]. */
  readonly kv: readonly (Float32Array | Int8Array)[];
}

/** Opens the graph of `file` for the time of `use`, with one thread. */
export function withSession<T>(file: string, use: (session: OrtSession) => T): T {
  const session = new OrtSession(file, { threads: 1 });
  try {
    return use(session);
  } finally {
    session.dispose();
  }
}

/** Rows over KV memory of their own. `also`: further outputs of the graph, filled by every run. */
export function openRows(
  session: OrtSession,
  shape: ModelShape,
  numRows: number,
  maxLength: number,
  also: Tensors = {},
): Rows {
  const { numLayers, numKvHeads, headDim, vocabSize, kvType } = shape;
  const kv = Array.from({ length: 2 * numLayers }, () => kvArray(kvType, numRows * numKvHeads * maxLength * headDim));
  const tensors = kv.map((memory) => tensor(kvType, memory, [numRows, numKvHeads, maxLength, headDim]));
  const run = (tokens: readonly number[], past: number, positions: readonly number[]): Float32Array => {
    const added = tokens.length / numRows;
    const logits = new Float32Array(positions.length * vocabSize);
    const feeds: Tensors = {
      [GraphNames.ids]: tensor('int64', BigInt64Array.from(tokens, BigInt), [numRows, added]),
      [GraphNames.lengths]: tensor('int32', new Int32Array(numRows).fill(past + added - 1), [numRows]),
      [GraphNames.longest]: tensor('int32', Int32Array.of(past + added), [1]),
      [GraphNames.logitIndex]: tensor('int64', BigInt64Array.from(positions, BigInt), [positions.length]),
    };
    const fetches: Tensors = { [GraphNames.tick]: tensor('int64', new BigInt64Array(1), [1]) };
    for (let layer = 0; layer < numLayers; layer++) {
      for (const [i, kind] of (['k', 'v'] as const).entries()) {
        feeds[GraphNames.past(kind, layer)] = fetches[GraphNames.present(kind, layer)] = tensors[2 * layer + i]!;
      }
    }
    fetches[GraphNames.logits] = tensor('float32', logits, [positions.length, vocabSize]);
    session.run(feeds, { ...fetches, ...also });
    return logits;
  };
  return { run, kv };
}

/** A text per row, `length` tokens each, begun differently, each token drawn from the model's own distribution. */
export function writeTexts(
  rows: Rows,
  options: { numRows: number; length: number; vocabSize: number; firstToken: number },
  onStep: OnStep = () => {},
): number[][] {
  const { numRows, length, vocabSize, firstToken } = options;
  const texts: number[][] = Array.from({ length: numRows }, () => [firstToken]);
  const every = Array.from({ length: numRows }, (_, row) => row);
  const random = shares();
  for (let step = 0; step < length - 1; step++) {
    onStep();
    const last = texts.map((text) => text.at(-1)!);
    const logits = rows.run(last, step, every);
    for (const [row, text] of texts.entries()) {
      // The second tokens are spread over the vocabulary: other beginnings than the one the model likes best.
      const spread = Math.floor(((row + 0.5) * vocabSize) / numRows);
      const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      text.push(step === 0 ? spread : draw(own, random()));
    }
  }
  return texts;
}

export function logNormaliser(logits: Float32Array): number {
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
