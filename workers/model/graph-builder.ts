// Builds the decoder graphs of a ModelSpec: one forward pass over rows of tokens against KV memory that the caller owns.
// Called by compile. Inputs and outputs are listed at `GraphNames`; onnx-model is the only other file that knows them.
// Every choice of operator and attribute here is a measured one: see README before changing any.
import { BlockProducts } from './block-products.ts';
import { chunkMlp } from './chunk-mlp.ts';
import { float32ToFloat16 } from './floats.ts';
import { DataType, OnnxWriter, type Attribute } from './onnx-writer.ts';
import { kvLevels, type KvLevels } from './kv-levels.ts';
import { factorOfRow, type BlockFormat, type QuantizationPlan, type RowFactor } from './quantize.ts';
import { RowInt8, type MatrixPart } from './row-int8.ts';
import { rotaryTables } from './rotary.ts';
import { EMBEDDING, FINAL_NORM, HEAD, layerBias, layerTensor, mlpNorm } from './specs/spec.ts';
import type { LayerMatrix, ModelSpec, Rope } from './specs/spec.ts';
import { boundOfNorm, boundOfProduct, largest, TwoTermProducts } from './two-terms.ts';
import { toFloats, type WeightSource } from './weights/source.ts';

const MS = 'com.microsoft';
/** Place of k_scale among the inputs of GroupQueryAttention. */
const ATTENTION_K_SCALE = 12;

/**
 * input_ids int64 [B, S]; seqlens_k int32 [B] = length after this step - 1; total_len int32 [1] = longest such length;
 * logit_idx int64 [n]: which of the B·S positions get logits; past_k.l, past_v.l float32 or int8
 * [B, kvHeads, maxLen, headDim].
 * tick int64 [1] comes first so that the no-copy hook fires on it; present_* are the past_* buffers, written in
 * place; logits float32 [n, vocab].
 */
export const GraphNames = {
  ids: 'input_ids',
  lengths: 'seqlens_k',
  longest: 'total_len',
  logitIndex: 'logit_idx',
  tick: 'tick',
  logits: 'logits',
  past: (kind: 'k' | 'v', layer: number) => `past_${kind}.${layer}`,
  present: (kind: 'k' | 'v', layer: number) => `present_${kind}.${layer}`,
};

/**
 * What an int8 of one layer's KV memory stands for: [kvHeads · headDim] each, one scale per channel. Two channels of K that
 * positions rotate together have the same.
 */
export interface LayerKvScales {
  k: Float32Array;
  v: Float32Array;
}

export interface BuildOptions {
  spec: ModelSpec;
  source: WeightSource;
  plan: QuantizationPlan;
  /** Length of the rotary tables. */
  maxPositions: number;
  /** File for the large tensors, beside the model. */
  dataPath: string;
  /**
   * steps: products in blocks, good from one row on. chunks: about 1.5x from 16 rows on, a little less exact (row-int8.ts).
   * rows: for both where the processor multiplies 8-bit rows in tiles, and more exact than either (two-terms.ts).
   */
  form: 'steps' | 'chunks' | 'rows';
  /** KV memory of 8 bits with these scales; null: float32. */
  kvScales: readonly LayerKvScales[] | null;
  /** Chunks only: by layer, the channels between gate and down that stay float, ascending. */
  mlpOutliers?: readonly (readonly number[])[];
  /** Called after each layer with 0..1. */
  onProgress: (done: number) => void | Promise<void>;
}

/** What down multiplies in a graph for steps: [B, S, intermediate]. mlp-outliers looks at it. */
export function gatedName(layer: number): string {
  return `l${layer}_gated`;
}

/** Returns the bytes of the model file. Reads one tensor at a time. Throws what the weight source throws. */
export async function buildGraph(options: BuildOptions): Promise<Uint8Array> {
  const writer = new OnnxWriter(options.dataPath);
  try {
    const builder = new GraphBuilder(writer, options);
    builder.begin();
    for (let layer = 0; layer < options.spec.numLayers; layer++) {
      builder.layer(layer);
      await options.onProgress((layer + 1) / (options.spec.numLayers + 1));
    }
    builder.head();
    return writer.finish();
  } finally {
    writer.abort();
  }
}

class GraphBuilder {
  #w: OnnxWriter;
  #spec: ModelSpec;
  #source: WeightSource;
  #plan: QuantizationPlan;
  #maxPositions: number;
  #kvScales: readonly LayerKvScales[] | null;
  #mlpOutliers: BuildOptions['mlpOutliers'];
  #blocks: BlockProducts;
  #chunks: RowInt8 | null;
  #rows: TwoTermProducts | null;
  /** Normed input of the next block, what it cannot exceed, and the residual stream beside it. */
  #x = '';
  #bound = 0;
  #residual = '';
  /** Name of the shape [B, S, width of qkv], once there is one. */
  #sequenceShape = '';
  /** Names of the tables of each Rope, by its fields. */
  #rotary = new Map<string, [cos: string, sin: string]>();

  constructor(writer: OnnxWriter, options: BuildOptions) {
    this.#w = writer;
    this.#spec = options.spec;
    this.#source = options.source;
    this.#plan = options.plan;
    this.#maxPositions = options.maxPositions;
    this.#kvScales = options.kvScales;
    this.#mlpOutliers = options.mlpOutliers;
    this.#blocks = new BlockProducts(writer, options.source);
    this.#chunks = options.form === 'chunks' ? new RowInt8(writer, options.source) : null;
    this.#rows = options.form === 'rows' ? new TwoTermProducts(writer, options.source) : null;
  }

  /** Inputs, embedding and the first norm. */
  begin(): void {
    const w = this.#w;
    const { hiddenSize, vocabSize, embeddingScale } = this.#spec;
    w.input(GraphNames.ids, DataType.int64, ['B', 'S']);
    w.input(GraphNames.lengths, DataType.int32, ['B']);
    w.input(GraphNames.longest, DataType.int32, [1]);
    w.input(GraphNames.logitIndex, DataType.int64, ['n']);
    w.node('Shape', [GraphNames.logitIndex], GraphNames.tick);
    w.output(GraphNames.tick, DataType.int64, [1]);

    const table = toFloats(this.#source.read(EMBEDDING, [vocabSize, hiddenSize]));
    if (embeddingScale !== 1) for (let i = 0; i < table.length; i++) table[i]! *= embeddingScale;
    if (this.#plan.embedding === 'float16') {
      w.tensor('embedding', DataType.float16, [vocabSize, hiddenSize], float32ToFloat16(table));
      w.node('Gather', ['embedding', GraphNames.ids], 'embedded_half', { axis: 0 });
      this.#residual = w.node('Cast', ['embedded_half'], 'embedded', { to: DataType.float32 });
    } else {
      w.tensor('embedding', DataType.float32, [vocabSize, hiddenSize], table);
      this.#residual = w.node('Gather', ['embedding', GraphNames.ids], 'embedded', { axis: 0 });
    }
    // Row by row from here on, [B·S, hidden] or [B·S, 1, hidden], where matrix products want it so.
    if (this.#isByRow) {
      const shape = this.#rowShape('residual_shape', hiddenSize);
      this.#residual = w.node('Reshape', [this.#residual, shape], 'embedded_rows');
    }
    const first = layerTensor(0, 'input_layernorm');
    this.#x = this.#norm(this.#residual, 'l0_attention_norm', this.#normWeight(first));
    this.#bound = boundOfNorm(this.#normValues(first));
  }

  layer(l: number): void {
    this.#attention(l);
    this.#mlp(l);
  }

  /** Logits of the positions named by logit_idx; none of it runs when that is empty. */
  head(): void {
    const w = this.#w;
    const { hiddenSize, vocabSize, tiedEmbeddings, logitCap } = this.#spec;
    const x = this.#isByRow ? this.#x : w.node('Reshape', [this.#x, this.#rowShape('flat_shape', hiddenSize)], 'flat');
    const selected = w.node('Gather', [x, GraphNames.logitIndex], 'selected', { axis: 0 });
    // An exported graph holds the head as a matrix of its own even when it is tied, quantised on its own terms.
    const name = this.#source.has(HEAD) || !tiedEmbeddings ? HEAD : EMBEDDING;
    const parts = [{ name, rows: vocabSize }];
    let logits =
      this.#rows === null
        ? this.#blocks.multiply(selected, 'head', parts, hiddenSize, this.#plan.head)
        : this.#rows.multiplyOrNone(selected, 'head', parts, hiddenSize, this.#bound);
    if (logitCap !== null) logits = this.#cap(logits, logitCap);
    w.node('Identity', [logits], GraphNames.logits);
    w.output(GraphNames.logits, DataType.float32, ['n', vocabSize]);
  }

  #attention(l: number): void {
    const { numHeads, numKvHeads, headDim, hiddenSize, queryScale, qkNorm, qkvBias, outputBias } = this.#spec;
    const scales = this.#kvScales?.[l];
    const levels = scales === undefined ? null : kvLevels(this.#spec, scales);
    const part = (matrix: LayerMatrix, rows: number, factor: RowFactor = 1): MatrixPart => {
      const bias = qkvBias ? { bias: layerBias(l, matrix) } : {};
      return { name: layerTensor(l, matrix), rows, factor, ...bias };
    };
    const kvRows = numKvHeads * headDim;
    const parts = [
      // scale 1 in the attention and the queries scaled here: the attention's fast path exists for scale 1 only. A norm
      // would undo it, so that normed queries and keys are scaled by the norm's weight.
      part('self_attn.q_proj', numHeads * headDim, qkNorm ? 1 : (levels?.q ?? queryScale)),
      part('self_attn.k_proj', kvRows, qkNorm ? 1 : (levels?.k ?? 1)),
      part('self_attn.v_proj', kvRows, levels?.v ?? 1),
    ];
    // In blocks for chunks too: what is lost in K and V stays in KV memory for every later token.
    const format = this.#chunks === null ? this.#plan.matrices : this.#plan.chunkQkv;
    let qkv = this.#matmul(this.#x, `l${l}_qkv`, parts, hiddenSize, format, this.#bound);
    if (this.#isByRow) qkv = this.#perSequence(qkv, numHeads * headDim + 2 * kvRows);
    if (qkNorm) qkv = this.#normHeads(l, qkv, levels);
    let attention = this.#attend(l, qkv, levels !== null);
    const width = numHeads * headDim;
    if (this.#isByRow) {
      const shape = this.#rowShape('attention_shape', width);
      attention = this.#w.node('Reshape', [attention, shape], `${attention}_rows`);
    }
    if (levels !== null) {
      const scale = this.#w.tensor(`l${l}_v_scale`, DataType.float32, [width], levels.result);
      attention = this.#w.node('Mul', [attention, scale], `l${l}_attention_scaled`);
    }
    const bias = outputBias ? { bias: layerBias(l, 'self_attn.o_proj') } : {};
    const output = { name: layerTensor(l, 'self_attn.o_proj'), rows: hiddenSize, ...bias };
    let out = this.#project(attention, `l${l}_o`, [output], width, this.#attentionBound(l, levels));
    if (this.#spec.branchNorms) out = this.#normBranch(l, out, 'post_attention_layernorm');
    this.#addAndNorm(out, `l${l}_mlp_norm`, layerTensor(l, mlpNorm(this.#spec)));
  }

  /** Attention of packed q, k and v [B, S, heads and kv heads] over KV memory: [B, S, heads · headDim]. */
  #attend(l: number, qkv: string, isInt8: boolean): string {
    const w = this.#w;
    const { numHeads, numKvHeads, headDim, scoreCap } = this.#spec;
    const { rope, window } = this.#spec.layers[l]!;
    const inputs = [qkv, '', ''];
    const outputs = [`l${l}_attention`];
    const kvType = isInt8 ? DataType.int8 : DataType.float32;
    for (const kind of ['k', 'v'] as const) {
      const dims = ['B', numKvHeads, 'M', headDim];
      inputs.push(w.input(GraphNames.past(kind, l), kvType, dims));
      outputs.push(w.output(GraphNames.present(kind, l), kvType, dims));
    }
    inputs.push(GraphNames.lengths, GraphNames.longest);
    const attributes: Record<string, Attribute> = {
      num_heads: numHeads,
      kv_num_heads: numKvHeads,
      do_rotary: rope === null ? 0 : 1,
      rotary_interleaved: 0,
      scale: { float: 1 },
    };
    if (rope !== null) inputs.push(...this.#rotaryTables(rope));
    if (scoreCap !== null) attributes['softcap'] = { float: scoreCap };
    if (window !== null && window < this.#maxPositions) attributes['local_window_size'] = window;
    if (isInt8) {
      // Tables where there are none, positions, attention bias and head sink are absent.
      while (inputs.length < ATTENTION_K_SCALE) inputs.push('');
      const unit = w.tensor('kv_unit', DataType.float32, [1], Float32Array.of(1));
      inputs.push(unit, unit);
      Object.assign(attributes, { k_quant_type: 'PER_TENSOR', v_quant_type: 'PER_TENSOR', kv_cache_bit_width: 8 });
    }
    return w.node('GroupQueryAttention', inputs, outputs, attributes, MS);
  }

  /** Norms every head of q and k in packed q, k and v [B, S, width], and scales them. */
  #normHeads(l: number, qkv: string, levels: KvLevels | null): string {
    const w = this.#w;
    const { numHeads, numKvHeads, headDim, queryScale } = this.#spec;
    const numAll = numHeads + 2 * numKvHeads;
    w.tensor('heads_shape', DataType.int64, [4], BigInt64Array.of(0n, 0n, BigInt(numAll), BigInt(headDim)));
    w.tensor('packed_shape', DataType.int64, [3], BigInt64Array.of(0n, 0n, BigInt(numAll * headDim)));
    w.tensor('head_counts', DataType.int64, [3], BigInt64Array.from([numHeads, numKvHeads, numKvHeads].map(BigInt)));
    const at = `l${l}_heads`;
    w.node('Reshape', [qkv, 'heads_shape'], at);
    w.node('Split', [at, 'head_counts'], [`${at}_q`, `${at}_k`, `${at}_v`], { axis: 2 });
    const [query, key] = [layerTensor(l, 'self_attn.q_norm'), layerTensor(l, 'self_attn.k_norm')];
    const q = this.#norm(`${at}_q`, `${at}_q_norm`, this.#normWeight(query, headDim, levels?.q ?? queryScale));
    const k = this.#norm(`${at}_k`, `${at}_k_norm`, this.#normWeight(key, headDim, levels?.k ?? 1));
    w.node('Concat', [q, k, `${at}_v`], `${at}_normed`, { axis: 2 });
    return w.node('Reshape', [`${at}_normed`, 'packed_shape'], `${at}_packed`);
  }

  #mlp(l: number): void {
    const { numLayers } = this.#spec;
    let down = this.#chunks === null ? this.#plainMlp(l) : this.#chunkMlp(l, this.#chunks);
    if (this.#spec.branchNorms) down = this.#normBranch(l, down, 'post_feedforward_layernorm');
    const isLast = l === numLayers - 1;
    this.#addAndNorm(
      down,
      isLast ? 'final_norm' : `l${l + 1}_attention_norm`,
      isLast ? FINAL_NORM : layerTensor(l + 1, 'input_layernorm'),
    );
  }

  #plainMlp(l: number): string {
    const { hiddenSize, intermediateSize } = this.#spec;
    const { matrices, down } = this.#plan;
    const part = (tensor: LayerMatrix, rows: number): MatrixPart => ({ name: layerTensor(l, tensor), rows });
    const [gate, up] = [part('mlp.gate_proj', intermediateSize), part('mlp.up_proj', intermediateSize)];
    const last = [part('mlp.down_proj', hiddenSize)];
    if (this.#rows !== null) {
      const both = this.#rows.multiply(this.#x, `l${l}_gate_up`, [gate, up], hiddenSize, this.#bound);
      this.#w.node('Split', [both], [`l${l}_gate`, `l${l}_up`], { axis: -1, num_outputs: 2 });
      const active = this.#activate(`l${l}_gate`, `l${l}_active`);
      const gated = this.#w.node('Mul', [active, `l${l}_up`], gatedName(l));
      return this.#rows.multiplyAny(gated, `l${l}_down`, last, intermediateSize);
    }
    const project = (name: string, matrix: MatrixPart): string =>
      this.#blocks.multiply(this.#x, name, [matrix], hiddenSize, matrices);
    const active = this.#activate(project(`l${l}_gate`, gate), `l${l}_active`);
    const gated = this.#w.node('Mul', [active, project(`l${l}_up`, up)], gatedName(l));
    return this.#blocks.multiply(gated, `l${l}_down`, last, intermediateSize, down);
  }

  #chunkMlp(l: number, rows: RowInt8): string {
    const outliers = this.#mlpOutliers?.[l] ?? [];
    const activate = (gate: string, name: string): string => this.#activate(gate, name);
    const parts = { writer: this.#w, rows, source: this.#source, spec: this.#spec, layer: l, outliers, activate };
    return chunkMlp(parts, this.#x);
  }

  #activate(gate: string, name: string): string {
    // QuickGelu with alpha 1 is SiLU; FastGelu is the tanh form.
    if (this.#spec.activation === 'silu') return this.#w.node('QuickGelu', [gate], name, { alpha: { float: 1 } }, MS);
    return this.#w.node('FastGelu', [gate], name, {}, MS);
  }

  #normBranch(l: number, branch: string, tensor: 'post_attention_layernorm' | 'post_feedforward_layernorm'): string {
    return this.#norm(branch, `l${l}_${tensor}`, this.#normWeight(layerTensor(l, tensor)));
  }

  #addAndNorm(branch: string, name: string, gammaName: string): void {
    const gamma = this.#normWeight(gammaName);
    const sum = `${name}_sum`;
    this.#w.node(
      'SkipSimplifiedLayerNormalization',
      [branch, this.#residual, gamma],
      [name, '', '', sum],
      { epsilon: { float: this.#spec.normEpsilon } },
      MS,
    );
    this.#x = name;
    this.#bound = boundOfNorm(this.#normValues(gammaName));
    this.#residual = sum;
  }

  /** Root-mean-square norm over the last axis. */
  #norm(x: string, name: string, gamma: string): string {
    const attributes = { axis: -1, epsilon: { float: this.#spec.normEpsilon }, stash_type: 1 };
    return this.#w.node('SimplifiedLayerNormalization', [x, gamma], name, attributes);
  }

  /** Weights of a norm as it multiplies by them, times `factor`. */
  #normWeight(name: string, length = this.#spec.hiddenSize, factor: RowFactor = 1): string {
    return this.#w.tensor(name, DataType.float32, [length], this.#normValues(name, length, factor));
  }

  #normValues(name: string, length = this.#spec.hiddenSize, factor: RowFactor = 1): Float32Array {
    const { normOffset } = this.#spec;
    const stored = toFloats(this.#source.read(name, [length]));
    return stored.map((value, i) => (value + normOffset) * factorOfRow(factor, i));
  }

  /** cap · tanh(x / cap) */
  #cap(x: string, cap: number): string {
    const w = this.#w;
    w.tensor('cap', DataType.float32, [], Float32Array.of(cap));
    w.node('Div', [x, 'cap'], `${x}_share`);
    w.node('Tanh', [`${x}_share`], `${x}_bent`);
    return w.node('Mul', [`${x}_bent`, 'cap'], `${x}_capped`);
  }

  /** One of the layer's products, in the form this graph wants. */
  #project(x: string, name: string, parts: MatrixPart[], cols: number, bound: number): string {
    if (this.#chunks !== null) return this.#addBias(this.#chunks.multiply(x, name, parts, cols), name, parts);
    return this.#matmul(x, name, parts, cols, this.#plan.matrices, bound);
  }

  /** In blocks of `format`, or in rows for an x of at most `bound`. */
  #matmul(
    x: string,
    name: string,
    parts: MatrixPart[],
    cols: number,
    format: BlockFormat | null,
    bound: number,
  ): string {
    const product =
      this.#rows === null
        ? this.#blocks.multiply(x, name, parts, cols, format)
        : this.#rows.multiply(x, name, parts, cols, bound);
    return this.#addBias(product, name, parts);
  }

  #addBias(product: string, name: string, parts: readonly MatrixPart[]): string {
    const biases = parts.flatMap(({ bias, rows, factor = 1 }) => {
      return bias === undefined
        ? []
        : Array.from(toFloats(this.#source.read(bias, [rows])), (value, i) => value * factorOfRow(factor, i));
    });
    if (biases.length === 0) return product;
    this.#w.tensor(`${name}_bias`, DataType.float32, [biases.length], Float32Array.from(biases));
    return this.#w.node('Add', [product, `${name}_bias`], `${name}_biased`);
  }

  /** Whether activations are [B·S, ..] and not [B, S, ..] outside the attention. */
  get #isByRow(): boolean {
    return this.#chunks !== null || this.#rows !== null;
  }

  /** Shape of activations by row: [-1, width], or [-1, 1, width] where the terms of a row will be beside each other. */
  #rowShape(name: string, width: number): string {
    const dims = this.#rows === null ? [-1n, BigInt(width)] : [-1n, 1n, BigInt(width)];
    return this.#w.tensor(name, DataType.int64, [dims.length], BigInt64Array.from(dims));
  }

  /** What the attention's output cannot exceed: it is a mean of values, and those are sums over a normed row. */
  #attentionBound(l: number, levels: KvLevels | null): number {
    const { numKvHeads, headDim, hiddenSize, qkvBias } = this.#spec;
    if (this.#rows === null) return 0;
    if (levels !== null) return 128 * largest(levels.result);
    const rows = numKvHeads * headDim;
    const values = toFloats(this.#source.read(layerTensor(l, 'self_attn.v_proj'), [rows, hiddenSize]));
    const bias = qkvBias ? largest(toFloats(this.#source.read(layerBias(l, 'self_attn.v_proj'), [rows]))) : 0;
    return boundOfProduct(values, this.#normValues(layerTensor(l, 'input_layernorm'))) + bias;
  }

  /** [B·S, .., width] → [B, S, width], as the attention wants it. All layers have one width. */
  #perSequence(x: string, width: number): string {
    const w = this.#w;
    if (this.#sequenceShape === '') {
      w.node('Shape', [GraphNames.ids], 'ids_shape');
      w.tensor('qkv_width', DataType.int64, [1], BigInt64Array.of(BigInt(width)));
      this.#sequenceShape = w.node('Concat', ['ids_shape', 'qkv_width'], 'qkv_shape', { axis: 0 });
    }
    return w.node('Reshape', [x, this.#sequenceShape], `${x}_per_sequence`);
  }

  /** Names of the cosines and sines of a Rope. */
  #rotaryTables(rope: Rope): [cos: string, sin: string] {
    const key = JSON.stringify(rope);
    const known = this.#rotary.get(key);
    if (known !== undefined) return known;
    const { rotaryDim } = this.#spec;
    const { cos, sin } = rotaryTables(rope, rotaryDim, this.#maxPositions);
    const suffix = this.#rotary.size === 0 ? '' : `_${this.#rotary.size}`;
    const dims = [this.#maxPositions, rotaryDim / 2];
    const names: [string, string] = [`rotary_cos${suffix}`, `rotary_sin${suffix}`];
    this.#w.tensor(names[0], DataType.float32, dims, cos);
    this.#w.tensor(names[1], DataType.float32, dims, sin);
    this.#rotary.set(key, names);
    return names;
  }
}
