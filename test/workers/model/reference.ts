// An independent decoder in plain TypeScript and float32, written from the families' definitions for these tests.
// It shares the readers of weights and config with the compiler and nothing else: no graph, no quantiser, no runtime.
import type { LayerSpec, ModelSpec, Rope } from '../../../workers/model/specs/spec.ts';
import { toFloats, type WeightSource } from '../../../workers/model/weights/source.ts';

type Vector = Float32Array;

interface Linear {
  matrix: Vector;
  bias: Vector | null;
}

interface Layer {
  spec: LayerSpec;
  attentionNorm: Vector;
  q: Linear;
  k: Linear;
  v: Linear;
  o: Linear;
  qNorm: Vector | null;
  kNorm: Vector | null;
  /** After the attention, before and after the MLP; null: not there. */
  afterAttention: Vector | null;
  mlpNorm: Vector;
  afterMlp: Vector | null;
  gate: Vector;
  up: Vector;
  down: Vector;
}

/** One sequence: `next(token)` appends it and returns the logits after it, in an array of its own. */
export class Reference {
  #spec: ModelSpec;
  #longest: number;
  #embedding: Vector;
  #head: Vector;
  #finalNorm: Vector;
  #layers: Layer[];
  /** Per layer, per position: [kvHeads · headDim]. */
  #keys: Vector[][] = [];
  #values: Vector[][] = [];

  /** `longest`: of the sequences that are served, which scalings may depend on. */
  constructor(spec: ModelSpec, source: WeightSource, longest = spec.maxPositions) {
    this.#longest = longest;
    const { hiddenSize: h, intermediateSize: f, headDim, vocabSize, branchNorms } = spec;
    const [q, kv] = [spec.numHeads * headDim, spec.numKvHeads * headDim];
    const read = (name: string, ...dims: number[]): Vector => toFloats(source.read(`${name}.weight`, dims));
    const norm = (name: string, length = h): Vector => read(name, length).map((value) => value + spec.normOffset);
    const linear = (name: string, rows: number, cols: number, hasBias: boolean): Linear => ({
      matrix: read(name, rows, cols),
      bias: hasBias ? toFloats(source.read(`${name}.bias`, [rows])) : null,
    });
    this.#spec = spec;
    this.#embedding = read('model.embed_tokens', vocabSize, h);
    this.#head = source.has('lm_head.weight') ? read('lm_head', vocabSize, h) : this.#embedding;
    this.#finalNorm = norm('model.norm');
    this.#layers = spec.layers.map((layer, l) => {
      const at = `model.layers.${l}`;
      const attention = `${at}.self_attn`;
      return {
        spec: layer,
        attentionNorm: norm(`${at}.input_layernorm`),
        q: linear(`${attention}.q_proj`, q, h, spec.qkvBias),
        k: linear(`${attention}.k_proj`, kv, h, spec.qkvBias),
        v: linear(`${attention}.v_proj`, kv, h, spec.qkvBias),
        o: linear(`${attention}.o_proj`, h, q, spec.outputBias),
        qNorm: spec.qkNorm ? norm(`${attention}.q_norm`, headDim) : null,
        kNorm: spec.qkNorm ? norm(`${attention}.k_norm`, headDim) : null,
        afterAttention: branchNorms ? norm(`${at}.post_attention_layernorm`) : null,
        mlpNorm: norm(`${at}.${branchNorms ? 'pre_feedforward_layernorm' : 'post_attention_layernorm'}`),
        afterMlp: branchNorms ? norm(`${at}.post_feedforward_layernorm`) : null,
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

  next(token: number, wantLogits = true): Vector {
    const { hiddenSize, embeddingScale, logitCap } = this.#spec;
    let x: Vector = this.#embedding.slice(token * hiddenSize, (token + 1) * hiddenSize);
    x = x.map((value) => value * embeddingScale);
    for (const [l, layer] of this.#layers.entries()) {
      const attended = this.#attention(l, layer, this.#norm(x, layer.attentionNorm));
      x = sum(x, layer.afterAttention === null ? attended : this.#norm(attended, layer.afterAttention));
      const mixed = this.#mlp(layer, this.#norm(x, layer.mlpNorm));
      x = sum(x, layer.afterMlp === null ? mixed : this.#norm(mixed, layer.afterMlp));
    }
    if (!wantLogits) return new Float32Array(0);
    const logits = multiply(this.#head, this.#norm(x, this.#finalNorm));
    return logitCap === null ? logits : logits.map((value) => logitCap * Math.tanh(value / logitCap));
  }

  #mlp(layer: Layer, x: Vector): Vector {
    const { activation } = this.#spec;
    const up = multiply(layer.up, x);
    const gated = multiply(layer.gate, x).map((g, i) => {
      const inner = Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3);
      const active = activation === 'silu' ? g / (1 + Math.exp(-g)) : 0.5 * g * (1 + Math.tanh(inner));
      return active * up[i]!;
    });
    return multiply(layer.down, gated);
  }

  #attention(l: number, layer: Layer, x: Vector): Vector {
    const { numHeads, numKvHeads, headDim, queryScale, scoreCap } = this.#spec;
    const { window } = layer.spec;
    const [keys, values] = [this.#keys[l]!, this.#values[l]!];
    const position = keys.length;
    const query = this.#place(layer, apply(layer.q, x), layer.qNorm, position);
    keys.push(this.#place(layer, apply(layer.k, x), layer.kNorm, position));
    values.push(apply(layer.v, x));
    const first = window === null ? 0 : Math.max(0, position - window + 1);
    const out = new Float32Array(numHeads * headDim);
    for (let head = 0; head < numHeads; head++) {
      const from = Math.floor(head / (numHeads / numKvHeads)) * headDim;
      const scores = keys.slice(first).map((key) => {
        let dot = 0;
        for (let i = 0; i < headDim; i++) dot += query[head * headDim + i]! * key[from + i]!;
        const score = dot * queryScale;
        return scoreCap === null ? score : scoreCap * Math.tanh(score / scoreCap);
      });
      const largest = scores.reduce((a, b) => Math.max(a, b));
      const weights = scores.map((score) => Math.exp(score - largest));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < headDim; i++) {
        let value = 0;
        for (const [p, weight] of weights.entries()) value += weight * values[first + p]![from + i]!;
        out[head * headDim + i] = value / total;
      }
    }
    return apply(layer.o, out);
  }

  /** Queries or keys of all heads: normed where the family does so, then rotated where the layer does so. */
  #place(layer: Layer, x: Vector, gamma: Vector | null, position: number): Vector {
    const { headDim, rotaryDim } = this.#spec;
    const out = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += headDim) {
      const head = x.subarray(at, at + headDim);
      const normed = gamma === null ? head : this.#norm(head, gamma);
      out.set(
        layer.spec.rope === null ? normed : rotate(normed, rotaryDim, position, layer.spec.rope, this.#longest),
        at,
      );
    }
    return out;
  }

  #norm(x: Vector, gamma: Vector): Vector {
    let squares = 0;
    for (const value of x) squares += value * value;
    const factor = 1 / Math.sqrt(squares / x.length + this.#spec.normEpsilon);
    return x.map((value, i) => value * factor * gamma[i]!);
  }
}

/**
 * Rotates the pairs (i, i + dims/2) of one head by their angle at this position; channels from dims on stay. `longest`: of
 * the sequences that are served.
 */
function rotate(x: Vector, dims: number, position: number, rope: Rope, longest: number): Vector {
  const out = x.slice();
  const half = dims / 2;
  const { scaling } = rope;
  const factor = scaling?.type === 'yarn' || scaling?.type === 'longrope' ? scaling.attentionFactor : 1;
  for (let i = 0; i < half; i++) {
    const angle = position * frequency(rope, i, dims, longest);
    const [a, b] = [x[i]! * factor, x[half + i]! * factor];
    out[i] = a * Math.cos(angle) - b * Math.sin(angle);
    out[half + i] = b * Math.cos(angle) + a * Math.sin(angle);
  }
  return out;
}

/** Of pair i under the model's scaling, each as its authors describe it. */
function frequency({ theta, scaling }: Rope, i: number, dims: number, longest: number): number {
  const plain = 1 / theta ** ((2 * i) / dims);
  switch (scaling?.type) {
    case undefined:
      return plain;
    case 'linear':
      return plain / scaling.factor;
    case 'divisors':
      return plain / scaling.divisors[i]!;
    case 'longrope':
      return plain / (longest > scaling.originalPositions ? scaling.long : scaling.short)[i]!;
    case 'llama3': {
      const { factor, lowFactor, highFactor, originalPositions } = scaling;
      const wavelength = (2 * Math.PI) / plain;
      if (wavelength < originalPositions / highFactor) return plain;
      if (wavelength > originalPositions / lowFactor) return plain / factor;
      const smooth = (originalPositions / wavelength - lowFactor) / (highFactor - lowFactor);
      return ((1 - smooth) * plain) / factor + smooth * plain;
    }
    case 'yarn': {
      // Counted out: the first pair that turns slower than a bound, less one where it does not lie on it.
      const { factor, originalPositions, fastTurns, slowTurns } = scaling;
      const turnsOf = (pair: number): number => originalPositions / (2 * Math.PI * theta ** ((2 * pair) / dims));
      let [low, high] = [0, 0];
      while (low + 1 < dims && turnsOf(low + 1) >= fastTurns) low++;
      while (high < dims - 1 && turnsOf(high) > slowTurns) high++;
      const ramp = Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low)));
      return plain * (1 - ramp) + (plain / factor) * ramp;
    }
  }
}

function apply({ matrix, bias }: Linear, x: Vector): Vector {
  const product = multiply(matrix, x);
  return bias === null ? product : sum(product, bias);
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
