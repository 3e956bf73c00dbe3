// An independent BERT encoder in plain TypeScript, in double precision, written from the model's definition for these
// tests. It shares the readers of weights and config with the compiler and nothing else: no graph, no runtime.
import { encoderPart, type EncoderSpec } from '../../../workers/model/specs/bert.ts';
import { toFloats, type WeightSource } from '../../../workers/model/weights/source.ts';

type Matrix = Float64Array<ArrayBuffer>[];

export class EncoderReference {
  readonly #spec: EncoderSpec;
  readonly #read: (name: string, ...dims: number[]) => Float32Array;

  constructor(spec: EncoderSpec, source: WeightSource) {
    this.#spec = spec;
    const known = new Map<string, Float32Array>();
    this.#read = (name, ...dims) => {
      const values = known.get(name) ?? toFloats(source.read(name, dims));
      known.set(name, values);
      return values;
    };
  }

  /** Mean over all tokens, of length 1. */
  embed(ids: ArrayLike<number>): Float64Array {
    const { hiddenSize: h, vocabSize, maxPositions, numTokenTypes, numLayers } = this.#spec;
    const words = this.#read('embeddings.word_embeddings.weight', vocabSize, h);
    const positions = this.#read('embeddings.position_embeddings.weight', maxPositions, h);
    const types = this.#read('embeddings.token_type_embeddings.weight', numTokenTypes, h);
    let x = Array.from(ids, (id, s) => {
      return Float64Array.from({ length: h }, (_, i) => words[id * h + i]! + positions[s * h + i]! + types[i]!);
    });
    x = this.#norm(x, 'embeddings.LayerNorm');
    for (let layer = 0; layer < numLayers; layer++) x = this.#layer(x, layer);
    const mean = Float64Array.from({ length: h }, (_, i) => x.reduce((sum, row) => sum + row[i]!, 0) / x.length);
    const length = Math.hypot(...mean);
    return mean.map((value) => value / length);
  }

  #layer(x: Matrix, l: number): Matrix {
    const { hiddenSize: h, intermediateSize: f } = this.#spec;
    const attended = this.#attention(x, l);
    const out = this.#linear(attended, encoderPart(l, 'attention.output.dense'), h, h);
    const y = this.#norm(add(out, x), encoderPart(l, 'attention.output.LayerNorm'));
    const wide = this.#linear(y, encoderPart(l, 'intermediate.dense'), f, h);
    const narrow = this.#linear(
      wide.map((row) => row.map(gelu)),
      encoderPart(l, 'output.dense'),
      h,
      f,
    );
    return this.#norm(add(narrow, y), encoderPart(l, 'output.LayerNorm'));
  }

  #attention(x: Matrix, l: number): Matrix {
    const { hiddenSize: h, numHeads, headDim } = this.#spec;
    const [q, k, v] = (['query', 'key', 'value'] as const).map((kind) =>
      this.#linear(x, encoderPart(l, `attention.self.${kind}`), h, h),
    );
    return x.map((_, s) => {
      const row = new Float64Array(h);
      for (let head = 0; head < numHeads; head++) {
        const at = head * headDim;
        const scores = k!.map((key) => {
          let sum = 0;
          for (let i = 0; i < headDim; i++) sum += q![s]![at + i]! * key[at + i]!;
          return sum / Math.sqrt(headDim);
        });
        const largest = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (const [t, weight] of weights.entries()) {
          for (let i = 0; i < headDim; i++) row[at + i]! += (weight / total) * v![t]![at + i]!;
        }
      }
      return row;
    });
  }

  #linear(x: Matrix, name: string, rows: number, cols: number): Matrix {
    const weights = this.#read(`${name}.weight`, rows, cols);
    const bias = this.#read(`${name}.bias`, rows);
    return x.map((input) =>
      Float64Array.from({ length: rows }, (_, row) => {
        let sum = bias[row]!;
        for (let col = 0; col < cols; col++) sum += weights[row * cols + col]! * input[col]!;
        return sum;
      }),
    );
  }

  #norm(x: Matrix, name: string): Matrix {
    const { hiddenSize: h, normEpsilon } = this.#spec;
    const [scale, shift] = [this.#read(`${name}.weight`, h), this.#read(`${name}.bias`, h)];
    return x.map((row) => {
      const mean = row.reduce((sum, value) => sum + value, 0) / h;
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / h;
      return row.map((value, i) => ((value - mean) / Math.sqrt(variance + normEpsilon)) * scale[i]! + shift[i]!);
    });
  }
}

function add(a: Matrix, b: Matrix): Matrix {
  return a.map((row, s) => row.map((value, i) => value + b[s]![i]!));
}

/** x · Φ(x), with the error function by its power series near 0 and its continued fraction further out. */
function gelu(x: number): number {
  return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 60; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}
