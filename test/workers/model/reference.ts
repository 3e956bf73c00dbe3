// An independent Llama in plain TypeScript and float32, written from the model's definition for these tests.
// It shares the readers of weights and config with the compiler and nothing else: no graph, no quantiser, no runtime.
import type { ModelSpec } from '../../../workers/model/specs/spec.ts';
import { toFloats, type WeightSource } from '../../../workers/model/weights/source.ts';

interface Layer {
  attentionNorm: Float32Array;
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  o: Float32Array;
  mlpNorm: Float32Array;
  gate: Float32Array;
  up: Float32Array;
  down: Float32Array;
}

/** One sequence: `next(token)` appends it and returns the logits after it, in an array of its own. */
export class Reference {
  #spec: ModelSpec;
  #embedding: Float32Array;
  #head: Float32Array;
  #finalNorm: Float32Array;
  #layers: Layer[];
  /** Per layer, per position: [kvHeads · headDim]. */
  #keys: Float32Array[][] = [];
  #values: Float32Array[][] = [];

  constructor(spec: ModelSpec, source: WeightSource) {
    const { hiddenSize: h, intermediateSize: f, headDim, vocabSize } = spec;
    const [q, kv] = [spec.numHeads * headDim, spec.numKvHeads * headDim];
    const read = (name: string, ...dims: number[]): Float32Array => toFloats(source.read(`${name}.weight`, dims));
    this.#spec = spec;
    this.#embedding = read('model.embed_tokens', vocabSize, h);
    this.#head = source.has('lm_head.weight') ? read('lm_head', vocabSize, h) : this.#embedding;
    this.#finalNorm = read('model.norm', h);
    this.#layers = Array.from({ length: spec.numLayers }, (_, l) => {
      const at = `model.layers.${l}`;
      return {
        attentionNorm: read(`${at}.input_layernorm`, h),
        q: read(`${at}.self_attn.q_proj`, q, h),
        k: read(`${at}.self_attn.k_proj`, kv, h),
        v: read(`${at}.self_attn.v_proj`, kv, h),
        o: read(`${at}.self_attn.o_proj`, h, q),
        mlpNorm: read(`${at}.post_attention_layernorm`, h),
        gate: read(`${at}.mlp.gate_proj`, f, h),
        up: read(`${at}.mlp.up_proj`, f, h),
        down: read(`${at}.mlp.down_proj`, h, f),
      };
    });
    this.reset();
  }

  reset(): void {
    this.#keys = this.#layers.map(() => []);
    this.#values = this.#layers.map(() => []);
  }

  next(token: number, wantLogits = true): Float32Array {
    const { hiddenSize, normEpsilon } = this.#spec;
    let x: Float32Array = this.#embedding.slice(token * hiddenSize, (token + 1) * hiddenSize);
    for (const [l, layer] of this.#layers.entries()) {
      x = sum(x, this.#attention(l, layer, rmsNorm(x, layer.attentionNorm, normEpsilon)));
      const normed = rmsNorm(x, layer.mlpNorm, normEpsilon);
      const gate = multiply(layer.gate, normed);
      const up = multiply(layer.up, normed);
      const gated = gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!);
      x = sum(x, multiply(layer.down, gated));
    }
    return wantLogits ? multiply(this.#head, rmsNorm(x, this.#finalNorm, normEpsilon)) : new Float32Array(0);
  }

  #attention(l: number, layer: Layer, x: Float32Array): Float32Array {
    const { numHeads, numKvHeads, headDim, ropeTheta } = this.#spec;
    const [keys, values] = [this.#keys[l]!, this.#values[l]!];
    const position = keys.length;
    const query = rotate(multiply(layer.q, x), headDim, position, ropeTheta);
    keys.push(rotate(multiply(layer.k, x), headDim, position, ropeTheta));
    values.push(multiply(layer.v, x));
    const out = new Float32Array(numHeads * headDim);
    for (let head = 0; head < numHeads; head++) {
      const from = Math.floor(head / (numHeads / numKvHeads)) * headDim;
      const scores = keys.map((key) => {
        let dot = 0;
        for (let i = 0; i < headDim; i++) dot += query[head * headDim + i]! * key[from + i]!;
        return dot / Math.sqrt(headDim);
      });
      const largest = scores.reduce((a, b) => Math.max(a, b));
      const weights = scores.map((score) => Math.exp(score - largest));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < headDim; i++) {
        let value = 0;
        for (let p = 0; p <= position; p++) value += weights[p]! * values[p]![from + i]!;
        out[head * headDim + i] = value / total;
      }
    }
    return multiply(layer.o, out);
  }
}

function rmsNorm(x: Float32Array, gamma: Float32Array, epsilon: number): Float32Array {
  let squares = 0;
  for (const value of x) squares += value * value;
  const factor = 1 / Math.sqrt(squares / x.length + epsilon);
  return x.map((value, i) => value * factor * gamma[i]!);
}

/** Rotates the pairs (i, i + headDim/2) of every head by position · theta^(-2i/headDim). */
function rotate(x: Float32Array, headDim: number, position: number, theta: number): Float32Array {
  const out = new Float32Array(x.length);
  const half = headDim / 2;
  for (let head = 0; head < x.length; head += headDim) {
    for (let i = 0; i < half; i++) {
      const angle = position / theta ** ((2 * i) / headDim);
      const [a, b] = [x[head + i]!, x[head + half + i]!];
      out[head + i] = a * Math.cos(angle) - b * Math.sin(angle);
      out[head + half + i] = b * Math.cos(angle) + a * Math.sin(angle);
    }
  }
  return out;
}

/** [rows, cols] · [cols]. Four sums side by side: the processor need not wait for one addition to finish. */
function multiply(matrix: Float32Array, x: Float32Array): Float32Array {
  const cols = x.length;
  const out = new Float32Array(matrix.length / cols);
  for (let row = 0, at = 0; row < out.length; row++, at += cols) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let i = 0; i < cols; i += 4) {
      a += matrix[at + i]! * x[i]!;
      b += matrix[at + i + 1]! * x[i + 1]!;
      c += matrix[at + i + 2]! * x[i + 2]!;
      d += matrix[at + i + 3]! * x[i + 3]!;
    }
    out[row] = a + b + c + d;
  }
  return out;
}

function sum(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => value + b[i]!);
}
