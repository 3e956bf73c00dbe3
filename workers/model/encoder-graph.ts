// Builds the graph of an encoder: tokens of several texts in, one mean-pooled vector per text out. Called by
// compile-encoder; encoder-model is the only other file that knows `EncoderNames`.
// What must stay true: everything but the attention works on the tokens of all texts in one flat list, so that texts of
// different lengths share a run without padding, and a text's result does not depend on its neighbours.
import { float16ToFloat32, float32ToFloat16 } from './floats.ts';
import { DataType, OnnxWriter } from './onnx-writer.ts';
import { EMBEDDING_NORM, encoderPart, POSITIONS, TOKEN_TYPES, WORDS, type EncoderSpec } from './specs/bert.ts';
import { toFloats, type WeightSource } from './weights/source.ts';

const MS = 'com.microsoft';

/**
 * T tokens of B texts, the longest with S of them. input_ids and positions int64 [T]; lengths int32 [B];
 * spread int64 [B, S]: which token stands at each place, any one behind a text's end; collect int64 [T]: place
 * b·S + s of each token; weights float32 [B, T]: 1 / length where the token belongs to the text, else 0.
 * pooled float32 [B, hidden]: means over the tokens of each text, not normalised.
 */
export const EncoderNames = {
  ids: 'input_ids',
  positions: 'positions',
  lengths: 'lengths',
  spread: 'spread',
  collect: 'collect',
  weights: 'weights',
  pooled: 'pooled',
} as const;

/** Returns the bytes of the model file; large tensors go to `dataPath`. Throws what the weight source throws. */
export function buildEncoder(spec: EncoderSpec, source: WeightSource, dataPath: string): Uint8Array {
  const writer = new OnnxWriter(dataPath);
  try {
    const builder = new EncoderBuilder(writer, spec, source);
    builder.begin();
    for (let layer = 0; layer < spec.numLayers; layer++) builder.layer(layer);
    builder.pool();
    return writer.finish();
  } finally {
    writer.abort();
  }
}

class EncoderBuilder {
  readonly #w: OnnxWriter;
  readonly #spec: EncoderSpec;
  readonly #source: WeightSource;
  /** [T, hidden]: what the last block gave, normed; input and residual of the next one. */
  #x = '';

  constructor(writer: OnnxWriter, spec: EncoderSpec, source: WeightSource) {
    this.#w = writer;
    this.#spec = spec;
    this.#source = source;
  }

  /** Inputs, and the sum of word, position and token type 0, normed. */
  begin(): void {
    const w = this.#w;
    const { vocabSize, hiddenSize, maxPositions, numTokenTypes } = this.#spec;
    w.input(EncoderNames.ids, DataType.int64, ['T']);
    w.input(EncoderNames.positions, DataType.int64, ['T']);
    w.input(EncoderNames.lengths, DataType.int32, ['B']);
    w.input(EncoderNames.spread, DataType.int64, ['B', 'S']);
    w.input(EncoderNames.collect, DataType.int64, ['T']);
    w.input(EncoderNames.weights, DataType.float32, ['B', 'T']);
    const words = this.#read(WORDS, [vocabSize, hiddenSize]);
    const halves = float32ToFloat16(words);
    if (isExact(words, halves)) {
      w.tensor('words', DataType.float16, [vocabSize, hiddenSize], halves);
      w.node('Gather', ['words', EncoderNames.ids], 'word_halves', { axis: 0 });
      w.node('Cast', ['word_halves'], 'word', { to: DataType.float32 });
    } else {
      w.tensor('words', DataType.float32, [vocabSize, hiddenSize], words);
      w.node('Gather', ['words', EncoderNames.ids], 'word', { axis: 0 });
    }
    // The token type is the first one everywhere, so its vector goes into those of the positions.
    const positions = this.#read(POSITIONS, [maxPositions, hiddenSize]).slice();
    const types = this.#read(TOKEN_TYPES, [numTokenTypes, hiddenSize]);
    for (let i = 0; i < positions.length; i++) positions[i]! += types[i % hiddenSize]!;
    w.tensor('places', DataType.float32, [maxPositions, hiddenSize], positions);
    w.node('Gather', ['places', EncoderNames.positions], 'place', { axis: 0 });
    w.node('Add', ['word', 'place'], 'embedded');
    this.#x = w.node('LayerNormalization', ['embedded', ...this.#norm(EMBEDDING_NORM)], 'embedded_norm', {
      axis: -1,
      epsilon: { float: this.#spec.normEpsilon },
    });
  }

  layer(l: number): void {
    const w = this.#w;
    const { hiddenSize, intermediateSize } = this.#spec;
    const attended = this.#attention(l);
    const out = encoderPart(l, 'attention.output.dense');
    const projected = this.#product(attended, [out], hiddenSize, hiddenSize);
    this.#addAndNorm(projected, out, encoderPart(l, 'attention.output.LayerNorm'));
    const up = encoderPart(l, 'intermediate.dense');
    const wide = this.#product(this.#x, [up], intermediateSize, hiddenSize);
    w.node('BiasGelu', [wide, this.#bias([up], intermediateSize)], `l${l}_gelu`, {}, MS);
    const down = encoderPart(l, 'output.dense');
    const narrow = this.#product(`l${l}_gelu`, [down], hiddenSize, intermediateSize);
    this.#addAndNorm(narrow, down, encoderPart(l, 'output.LayerNorm'));
  }

  pool(): void {
    this.#w.node('MatMul', [EncoderNames.weights, this.#x], EncoderNames.pooled);
    this.#w.output(EncoderNames.pooled, DataType.float32, ['B', this.#spec.hiddenSize]);
  }

  /** [T, hidden] → [T, hidden]. */
  #attention(l: number): string {
    const w = this.#w;
    const { hiddenSize, numHeads } = this.#spec;
    const parts = (['query', 'key', 'value'] as const).map((kind) => encoderPart(l, `attention.self.${kind}`));
    const qkv = this.#product(this.#x, parts, 3 * hiddenSize, hiddenSize);
    w.node('Gather', [qkv, EncoderNames.spread], `l${l}_qkv`, { axis: 0 }); // [B, S, 3 · hidden]
    const split = [`l${l}_q`, `l${l}_k`, `l${l}_v`];
    w.node('Split', [`l${l}_qkv`], split, { axis: 2, num_outputs: 3 });
    const inputs = [...split, this.#bias(parts, 3 * hiddenSize), EncoderNames.lengths];
    w.node('MultiHeadAttention', inputs, `l${l}_attention`, { num_heads: numHeads }, MS); // [B, S, hidden]
    w.tensor('flat_shape', DataType.int64, [2], BigInt64Array.of(-1n, BigInt(hiddenSize)));
    w.node('Reshape', [`l${l}_attention`, 'flat_shape'], `l${l}_places`);
    return w.node('Gather', [`l${l}_places`, EncoderNames.collect], `l${l}_attended`, { axis: 0 });
  }

  #addAndNorm(branch: string, biasOf: string, norm: string): void {
    this.#x = this.#w.node(
      'SkipLayerNormalization',
      [branch, this.#x, ...this.#norm(norm), this.#bias([biasOf], this.#spec.hiddenSize)],
      `${norm}_out`,
      { epsilon: { float: this.#spec.normEpsilon } },
      MS,
    );
  }

  /** x · Wᵀ where W stacks the parts' rows: [T, cols] → [T, rows]. */
  #product(x: string, parts: readonly string[], rows: number, cols: number): string {
    const matrix = new Float32Array(rows * cols); // [cols, rows]
    const own = rows / parts.length;
    for (const [i, part] of parts.entries()) {
      const values = this.#read(`${part}.weight`, [own, cols]);
      for (let row = 0; row < own; row++) {
        for (let col = 0; col < cols; col++) matrix[col * rows + i * own + row] = values[row * cols + col]!;
      }
    }
    this.#w.tensor(`${parts[0]}_w`, DataType.float32, [cols, rows], matrix);
    return this.#w.node('MatMul', [x, `${parts[0]}_w`], `${parts[0]}_out`);
  }

  #bias(parts: readonly string[], rows: number): string {
    const own = rows / parts.length;
    const values = new Float32Array(rows);
    for (const [i, part] of parts.entries()) values.set(this.#read(`${part}.bias`, [own]), i * own);
    return this.#w.tensor(`${parts[0]}_bias`, DataType.float32, [rows], values);
  }

  /** Names of scale and shift. */
  #norm(name: string): string[] {
    const dims = [this.#spec.hiddenSize];
    return ['weight', 'bias'].map((part) => {
      return this.#w.tensor(`${name}.${part}`, DataType.float32, dims, this.#read(`${name}.${part}`, dims));
    });
  }

  #read(name: string, dims: readonly number[]): Float32Array {
    return toFloats(this.#source.read(name, dims));
  }
}

/** Whether half precision holds these very values, as it does where the checkpoint came in it. */
function isExact(values: Float32Array, halves: Uint16Array): boolean {
  const back = float16ToFloat32(halves);
  return values.every((value, i) => value === back[i]);
}
