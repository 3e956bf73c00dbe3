// Builds the decoder graphs of a ModelSpec: one forward pass over rows of tokens against KV memory that the caller owns.
// Called by compile. Inputs and outputs are listed at `GraphNames`; onnx-model is the only other file that knows them.
// Every choice of operator and attribute here is a measured one: see README before changing any.
import { float32ToFloat16 } from './floats.ts';
import { DataType, OnnxWriter, type Attribute } from './onnx-writer.ts';
import { createPacked, packRows, type BlockFormat, type QuantizationPlan } from './quantize.ts';
import { RowInt8, type MatrixPart } from './row-int8.ts';
import { EMBEDDING, FINAL_NORM, HEAD, layerTensor, type LayerTensor, type ModelSpec } from './specs/spec.ts';
import { toFloats, type WeightSource } from './weights/source.ts';

const MS = 'com.microsoft';

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

/** What an int8 of one layer's KV memory stands for: [kvHeads · headDim] each, one scale per channel. */
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
  /** steps: good from one row on. chunks: about 1.5x from 16 rows on, a little less exact (row-int8.ts). */
  form: 'steps' | 'chunks';
  /** KV memory of 8 bits with these scales; null: float32. */
  kvScales: readonly LayerKvScales[] | null;
  /** Called after each layer with 0..1. */
  onProgress: (done: number) => void | Promise<void>;
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
  #rows: RowInt8 | null;
  /** Normed input of the next block, and the residual stream beside it. */
  #x = '';
  #residual = '';
  /** Name of the shape [B, S, width of qkv], once there is one. */
  #sequenceShape = '';

  constructor(writer: OnnxWriter, options: BuildOptions) {
    this.#w = writer;
    this.#spec = options.spec;
    this.#source = options.source;
    this.#plan = options.plan;
    this.#maxPositions = options.maxPositions;
    this.#kvScales = options.kvScales;
    this.#rows = options.form === 'chunks' ? new RowInt8(writer, options.source) : null;
  }

  /** Inputs, rotary tables, embedding and the first norm. */
  begin(): void {
    const w = this.#w;
    const { hiddenSize, vocabSize } = this.#spec;
    w.input(GraphNames.ids, DataType.int64, ['B', 'S']);
    w.input(GraphNames.lengths, DataType.int32, ['B']);
    w.input(GraphNames.longest, DataType.int32, [1]);
    w.input(GraphNames.logitIndex, DataType.int64, ['n']);
    w.node('Shape', [GraphNames.logitIndex], GraphNames.tick);
    w.output(GraphNames.tick, DataType.int64, [1]);
    this.#rotaryTables();

    const table = toFloats(this.#source.read(EMBEDDING, [vocabSize, hiddenSize]));
    if (this.#plan.embedding === 'float16') {
      w.tensor('embedding', DataType.float16, [vocabSize, hiddenSize], float32ToFloat16(table));
      w.node('Gather', ['embedding', GraphNames.ids], 'embedded_half', { axis: 0 });
      this.#residual = w.node('Cast', ['embedded_half'], 'embedded', { to: DataType.float32 });
    } else {
      w.tensor('embedding', DataType.float32, [vocabSize, hiddenSize], table);
      this.#residual = w.node('Gather', ['embedding', GraphNames.ids], 'embedded', { axis: 0 });
    }
    // Row by row from here on, [B·S, hidden], where matrix products want it so.
    if (this.#rows !== null) this.#residual = w.node('Reshape', [this.#residual, this.#flat()], 'embedded_rows');
    const gamma = this.#vector(layerTensor(0, 'input_layernorm'));
    this.#x = w.node('SimplifiedLayerNormalization', [this.#residual, gamma], 'l0_attention_norm', {
      axis: -1,
      epsilon: { float: this.#spec.normEpsilon },
      stash_type: 1,
    });
  }

  layer(l: number): void {
    this.#attention(l);
    this.#mlp(l);
  }

  /** Logits of the positions named by logit_idx; none of it runs when that is empty. */
  head(): void {
    const w = this.#w;
    const { hiddenSize, vocabSize, tiedEmbeddings } = this.#spec;
    w.node('Reshape', [this.#x, this.#flat()], 'flat');
    const selected = w.node('Gather', ['flat', GraphNames.logitIndex], 'selected', { axis: 0 });
    // An exported graph holds the head as a matrix of its own even when it is tied, quantised on its own terms.
    const name = this.#source.has(HEAD) || !tiedEmbeddings ? HEAD : EMBEDDING;
    const logits = this.#matmul(selected, 'head', [{ name, rows: vocabSize }], hiddenSize, this.#plan.head);
    w.node('Identity', [logits], GraphNames.logits);
    w.output(GraphNames.logits, DataType.float32, ['n', vocabSize]);
  }

  #attention(l: number): void {
    const w = this.#w;
    const { numHeads, numKvHeads, headDim, hiddenSize } = this.#spec;
    const kvRows = numKvHeads * headDim;
    const parts = [
      // scale 1 in the attention and 1/sqrt(headDim) here: the attention's fast path exists for scale 1 only.
      { name: layerTensor(l, 'self_attn.q_proj'), rows: numHeads * headDim, factor: 1 / Math.sqrt(headDim) },
      { name: layerTensor(l, 'self_attn.k_proj'), rows: kvRows },
      { name: layerTensor(l, 'self_attn.v_proj'), rows: kvRows },
    ];
    // In blocks in both forms: what is lost in K and V stays in KV memory for every later token.
    const format = this.#rows === null ? this.#plan.matrices : this.#plan.chunkQkv;
    let qkv = this.#matmul(this.#x, `l${l}_qkv`, parts, hiddenSize, format);
    if (this.#rows !== null) qkv = this.#perSequence(qkv, numHeads * headDim + 2 * kvRows);
    const inputs = [qkv, '', ''];
    const outputs = [`l${l}_attention`];
    const kvType = this.#kvScales === null ? DataType.float32 : DataType.int8;
    for (const kind of ['k', 'v'] as const) {
      const dims = ['B', numKvHeads, 'M', headDim];
      inputs.push(w.input(GraphNames.past(kind, l), kvType, dims));
      outputs.push(w.output(GraphNames.present(kind, l), kvType, dims));
    }
    inputs.push(GraphNames.lengths, GraphNames.longest, 'rotary_cos', 'rotary_sin');
    const attributes: Record<string, Attribute> = {
      num_heads: numHeads,
      kv_num_heads: numKvHeads,
      do_rotary: 1,
      rotary_interleaved: 0,
      scale: { float: 1 },
    };
    const scales = this.#kvScales?.[l];
    if (scales !== undefined) {
      // Positions, attention bias and head sink are absent.
      inputs.push('', '', '');
      for (const kind of ['k', 'v'] as const) {
        const dims = [1, numKvHeads, 1, headDim];
        inputs.push(w.tensor(`l${l}_${kind}_scale`, DataType.float32, dims, scales[kind]));
      }
      Object.assign(attributes, { k_quant_type: 'PER_CHANNEL', v_quant_type: 'PER_CHANNEL', kv_cache_bit_width: 8 });
    }
    let attention = w.node('GroupQueryAttention', inputs, outputs, attributes, MS);
    if (this.#rows !== null) attention = this.#flatAttention(attention);
    const name = layerTensor(l, 'self_attn.o_proj');
    const out = this.#project(attention, `l${l}_o`, [{ name, rows: hiddenSize }], numHeads * headDim);
    this.#addAndNorm(out, `l${l}_mlp_norm`, layerTensor(l, 'post_attention_layernorm'));
  }

  #mlp(l: number): void {
    const w = this.#w;
    const { hiddenSize, intermediateSize, numLayers } = this.#spec;
    const project = (short: string, tensor: LayerTensor): string =>
      this.#project(this.#x, `l${l}_${short}`, [{ name: layerTensor(l, tensor), rows: intermediateSize }], hiddenSize);
    const gate = project('gate', 'mlp.gate_proj');
    const up = project('up', 'mlp.up_proj');
    // QuickGelu with alpha 1 is SiLU.
    w.node('QuickGelu', [gate], `l${l}_silu`, { alpha: { float: 1 } }, MS);
    w.node('Mul', [`l${l}_silu`, up], `l${l}_gated`);
    const name = layerTensor(l, 'mlp.down_proj');
    // In blocks in both forms: one scale per row would be spent on the outliers of this input.
    const down = this.#matmul(
      `l${l}_gated`,
      `l${l}_down`,
      [{ name, rows: hiddenSize }],
      intermediateSize,
      this.#plan.down,
    );
    const isLast = l === numLayers - 1;
    this.#addAndNorm(
      down,
      isLast ? 'final_norm' : `l${l + 1}_attention_norm`,
      isLast ? FINAL_NORM : layerTensor(l + 1, 'input_layernorm'),
    );
  }

  #addAndNorm(branch: string, name: string, gammaName: string): void {
    const gamma = this.#vector(gammaName);
    const sum = `${name}_sum`;
    this.#w.node(
      'SkipSimplifiedLayerNormalization',
      [branch, this.#residual, gamma],
      [name, '', '', sum],
      { epsilon: { float: this.#spec.normEpsilon } },
      MS,
    );
    this.#x = name;
    this.#residual = sum;
  }

  /** One of the layer's products, in the form this graph wants. */
  #project(x: string, name: string, parts: MatrixPart[], cols: number): string {
    if (this.#rows !== null) return this.#rows.multiply(x, name, parts, cols);
    return this.#matmul(x, name, parts, cols);
  }

  /** x · Wᵀ where W stacks the parts' rows: [.., cols] → [.., sum of rows]. */
  #matmul(
    x: string,
    name: string,
    parts: MatrixPart[],
    cols: number,
    format: BlockFormat | null = this.#plan.matrices,
  ): string {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    if (format === null) return this.#floatMatmul(x, name, parts, rows, cols);
    const matrix = createPacked(rows, cols, format);
    let row = 0;
    for (const part of parts) {
      packRows(matrix, row, this.#source.read(part.name, [part.rows, cols]), part.factor);
      row += part.rows;
    }
    const { blockSize, bits } = matrix;
    const blocks = cols / blockSize;
    this.#w.tensor(`${name}_q`, DataType.uint8, [rows, blocks, (blockSize * bits) / 8], matrix.packed);
    this.#w.tensor(`${name}_s`, DataType.float32, [rows, blocks], matrix.scales);
    // accuracy_level 4 = int8 arithmetic. Level 0 with 8 bits falls into a path ~20x slower.
    const attributes = { K: cols, N: rows, bits, block_size: blockSize, accuracy_level: 4 };
    return this.#w.node('MatMulNBits', [x, `${name}_q`, `${name}_s`], `${name}_out`, attributes, MS);
  }

  #floatMatmul(x: string, name: string, parts: MatrixPart[], rows: number, cols: number): string {
    const matrix = new Float32Array(rows * cols); // [cols, rows]
    let first = 0;
    for (const part of parts) {
      const values = toFloats(this.#source.read(part.name, [part.rows, cols]));
      for (let row = 0; row < part.rows; row++) {
        for (let col = 0; col < cols; col++) {
          matrix[col * rows + first + row] = values[row * cols + col]! * (part.factor ?? 1);
        }
      }
      first += part.rows;
    }
    this.#w.tensor(`${name}_w`, DataType.float32, [cols, rows], matrix);
    return this.#w.node('MatMul', [x, `${name}_w`], `${name}_out`);
  }

  #vector(name: string): string {
    const { hiddenSize } = this.#spec;
    return this.#w.tensor(name, DataType.float32, [hiddenSize], toFloats(this.#source.read(name, [hiddenSize])));
  }

  /** Shape [-1, hidden]. */
  #flat(): string {
    const shape = BigInt64Array.of(-1n, BigInt(this.#spec.hiddenSize));
    return this.#w.tensor('flat_shape', DataType.int64, [2], shape);
  }

  /** [B·S, width] → [B, S, width], as the attention wants it. All layers have one width. */
  #perSequence(x: string, width: number): string {
    const w = this.#w;
    if (this.#sequenceShape === '') {
      w.node('Shape', [GraphNames.ids], 'ids_shape');
      w.tensor('qkv_width', DataType.int64, [1], BigInt64Array.of(BigInt(width)));
      this.#sequenceShape = w.node('Concat', ['ids_shape', 'qkv_width'], 'qkv_shape', { axis: 0 });
    }
    return w.node('Reshape', [x, this.#sequenceShape], `${x}_per_sequence`);
  }

  /** [B, S, heads · headDim] → [B·S, heads · headDim]. */
  #flatAttention(attention: string): string {
    const width = BigInt(this.#spec.numHeads * this.#spec.headDim);
    this.#w.tensor('attention_shape', DataType.int64, [2], BigInt64Array.of(-1n, width));
    return this.#w.node('Reshape', [attention, 'attention_shape'], `${attention}_rows`);
  }

  #rotaryTables(): void {
    const { headDim, ropeTheta } = this.#spec;
    const half = headDim / 2;
    const cos = new Float32Array(this.#maxPositions * half);
    const sin = new Float32Array(this.#maxPositions * half);
    for (let i = 0; i < half; i++) {
      const frequency = ropeTheta ** ((-2 * i) / headDim);
      for (let position = 0; position < this.#maxPositions; position++) {
        cos[position * half + i] = Math.cos(position * frequency);
        sin[position * half + i] = Math.sin(position * frequency);
      }
    }
    this.#w.tensor('rotary_cos', DataType.float32, [this.#maxPositions, half], cos);
    this.#w.tensor('rotary_sin', DataType.float32, [this.#maxPositions, half], sin);
  }
}
