// Rewrites a graph so that it prefills faster: each attention node becomes nodes that store the new keys and values, as
// floats or as 8 bits, and attend over all of them as floats, with one product per key head. Called by build-entry.
// What must stay true: new tokens are seen as KV memory holds them, not as they were, so that chunks of a prompt agree.
import type { ModelShape } from '../messages/models.ts';
import { readAttention, type Attention } from './attention-node.ts';
import { GraphNames } from './graph-builder.ts';
import { DataType, OnnxWriter, type Attribute } from './onnx-writer.ts';
import { bytesField, concat, copyField, intField, readFields, text } from './protobuf.ts';

const MS = 'com.microsoft';
/** TensorScatter, which writes into KV memory in place, came with it. */
const OPSET = 24;
/**
 * Keys and values are read in so many at once, the last ones hidden where there are fewer: so a sum over them adds up in
 * the same order whatever the length is.
 */
const BLOCK = 64;
/**
 * Hidden tokens get scores so far below the largest one a row sees. Their shares of e^-50 change no bit of a sum of floats;
 * lower ones would leave the range of normal floats on the way, and products of those take twenty times as long.
 */
const NEXT_TO_NOTHING = -50;

/**
 * The same graph with other attention nodes; it names the same weights in the same data file, so it must lie beside
 * `graph`. `rotaryDim`: leading channels of a head that positions rotate. Throws an Error when it is not a graph that graph-builder made.
 */
export function floatAttention(graph: Uint8Array, shape: ModelShape, rotaryDim: number): Uint8Array {
  const parts: Uint8Array[] = [];
  let numRewritten = 0;
  const masks = new Set<number | null>();
  for (const field of readFields(graph)) {
    if (field.number === 7) {
      const inner: Uint8Array[] = spliced((w) => writePositions(w));
      for (const part of readFields(field.bytes)) {
        const attention = part.number === 1 ? readAttention(part.bytes) : null;
        if (attention === null) inner.push(copyField(part));
        else {
          numRewritten++;
          inner.push(...spliced((w) => writeLayer(w, attention, shape, rotaryDim, masks)));
        }
      }
      parts.push(bytesField(7, concat(inner)));
    } else if (field.number === 8 && domainOf(field.bytes) === '') {
      parts.push(bytesField(8, concat([bytesField(1, ''), intField(2, OPSET)])));
    } else parts.push(copyField(field));
  }
  if (numRewritten !== shape.numLayers) throw new Error(`${numRewritten} attention nodes in ${shape.numLayers} layers`);
  return concat(parts);
}

/** What `write` writes, as fields of a graph: nodes and constants. */
function spliced(write: (w: OnnxWriter) => void): Uint8Array[] {
  const w = new OnnxWriter(null);
  write(w);
  const parts: Uint8Array[] = [];
  for (const field of readFields(w.finish())) {
    if (field.number !== 7) continue;
    for (const part of readFields(field.bytes)) if ([1, 5, 13].includes(part.number)) parts.push(copyField(part));
  }
  return parts;
}

function domainOf(opset: Uint8Array): string {
  for (const field of readFields(opset)) if (field.number === 1) return text(field.bytes);
  return '';
}

const at = (name: string): string => `float_attention_${name}`;
const atWindow = (name: string, window: number | null): string => at(window === null ? name : `${name}_${window}`);

function integers(w: OnnxWriter, name: string, values: readonly number[], dims = [values.length]): string {
  return w.tensor(at(name), DataType.int64, dims, BigInt64Array.from(values, BigInt));
}

/** Names used by all layers: where each row's new tokens begin [B], their positions [B, S], how much is read [1]. */
function writePositions(w: OnnxWriter): void {
  w.node('Shape', [GraphNames.ids], at('ids_shape'));
  w.node('Gather', [at('ids_shape'), integers(w, 'second', [1], [])], at('num_tokens'), { axis: 0 });
  w.node('Cast', [GraphNames.lengths], at('last'), { to: DataType.int64 });
  w.node('Add', [at('last'), integers(w, 'one', [1], [])], at('lengths'));
  w.node('Sub', [at('lengths'), at('num_tokens')], at('past_or_less'));
  // Fresh prompts padded to one length: a shorter one's tokens begin at 0 too.
  w.node('Max', [at('past_or_less'), integers(w, 'zero', [0], [])], at('past'));
  w.node('Range', [at('zero'), at('num_tokens'), at('one')], at('steps'));
  w.node('Reshape', [at('past'), integers(w, 'column', [-1, 1])], at('past_column'));
  w.node('Add', [at('past_column'), at('steps')], at('positions'));
  w.node('Cast', [GraphNames.longest], at('longest'), { to: DataType.int64 });
  w.node('Add', [at('longest'), integers(w, 'block_less_one', [BLOCK - 1], [])], at('longest_or_more'));
  w.node('Div', [at('longest_or_more'), integers(w, 'block', [BLOCK], [])], at('blocks'));
  w.node('Mul', [at('blocks'), at('block')], at('end'));
  integers(w, 'begin', [0]);
  integers(w, 'token_axis', [2]);
  w.tensor(at('unit'), DataType.float32, [], Float32Array.of(1));
  w.tensor(at('no_offset'), DataType.int8, [], Int8Array.of(0));
}

/**
 * What is added to scores [B, 1, group · S, T], or to their last columns from `from` on: 0 where a token may look, else so
 * little that nothing is left. Without a window only the columns from the chunk's first token on hold anything to hide.
 */
function writeMask(w: OnnxWriter, keys: string, window: number | null, group: number): void {
  const of = (what: string): string => atWindow(what, window);
  w.node('Shape', [keys], of('num_keys'), { start: 2, end: 3 });
  w.node('Squeeze', [of('num_keys')], of('num_keys_scalar'));
  if (window === null) {
    w.node('ReduceMin', [at('past')], at('from'), { keepdims: 1 });
    w.node('Squeeze', [at('from')], at('from_scalar'));
    w.node('Sub', [of('num_keys'), at('from')], at('num_masked'));
    w.node('Shape', [at('past')], at('num_rows'));
    w.node('Expand', [at('from'), at('num_rows')], at('from_by_row'));
    integers(w, 'last_axis', [3]);
  }
  w.node('Range', [at(window === null ? 'from_scalar' : 'zero'), of('num_keys_scalar'), at('one')], of('keys'));
  w.node('Unsqueeze', [at('positions'), integers(w, 'around', [1, 2, 4])], of('rows'));
  w.node('Greater', [of('keys'), of('rows')], of('future'));
  let hidden = of('future');
  if (window !== null) {
    w.node('Sub', [of('rows'), integers(w, `window_${window}`, [window], [])], of('before_window'));
    w.node('LessOrEqual', [of('keys'), of('before_window')], of('too_old'));
    hidden = w.node('Or', [of('future'), of('too_old')], of('hidden'));
  }
  w.tensor(at('nothing_left'), DataType.float32, [], Float32Array.of(-1e30));
  w.tensor(at('as_it_is'), DataType.float32, [], Float32Array.of(0));
  w.node('Where', [hidden, at('nothing_left'), at('as_it_is')], of('mask_by_token'));
  w.node('Expand', [of('mask_by_token'), integers(w, 'by_group', [1, 1, group, 1, 1])], of('mask_by_group'));
  // A dimension that is 0 stays.
  const numColumns = window === null ? at('num_masked') : of('num_keys');
  w.node('Concat', [integers(w, 'stacked', [0, 1, -1]), numColumns], of('mask_shape'), { axis: 0 });
  w.node('Reshape', [of('mask_by_group'), of('mask_shape')], of('mask'));
}

/** Queries per key head are stacked, so that a product packs each key head once and not once per query head. */
function writeLayer(
  w: OnnxWriter,
  node: Attention,
  { numKvHeads, headDim, kvType }: ModelShape,
  rotaryDim: number,
  masks: Set<number | null>,
): void {
  const { qkv, output, attributes } = node;
  const [cos = '', sin = ''] = node.rest;
  const isInt8 = kvType === 'int8';
  if (isInt8 !== (attributes['k_quant_type'] === 'PER_TENSOR'))
    throw new Error(`attention is not over KV memory of ${kvType}`);
  const numHeads = attributes['num_heads'] as number;
  const width = numHeads * headDim;
  const name = (what: string): string => `${output}_${what}`;

  w.node('Reshape', [qkv, integers(w, 'by_head', [0, 0, numHeads + 2 * numKvHeads, headDim])], name('by_token'));
  w.node('Transpose', [name('by_token')], name('by_head'), { perm: [0, 2, 1, 3] });
  const counts = integers(w, 'heads', [numHeads, numKvHeads, numKvHeads]);
  w.node('Split', [name('by_head'), counts], [name('q'), name('k'), name('v')], { axis: 1 });
  const rotated = (which: 'q' | 'k', heads: number): string => {
    if (cos === '') return name(which);
    const rotation: Record<string, Attribute> = { interleaved: 0, num_heads: heads };
    if (rotaryDim < headDim) rotation['rotary_embedding_dim'] = rotaryDim;
    return w.node('RotaryEmbedding', [name(which), at('positions'), cos, sin], name(`${which}_rotated`), rotation, MS);
  };
  const stored = [
    { kind: 'k', values: rotated('k', numKvHeads) },
    { kind: 'v', values: name('v') },
  ];
  for (const [i, { kind, values }] of stored.entries()) {
    const of = (what: string): string => name(`${kind}_${what}`);
    const present = node.presents[i]!;
    // Where they are stored in 8 bits, keys and values come in units of their scales already (kv-levels.ts).
    const levels = (): string => w.node('QuantizeLinear', [values, at('unit'), at('no_offset')], of('int8'));
    w.node('TensorScatter', [node.pasts[i]!, isInt8 ? levels() : values, at('past')], present, { axis: -2 });
    const used = isInt8 ? of('used') : of('floats');
    w.node('Slice', [present, at('begin'), at('end'), at('token_axis')], used);
    if (isInt8) w.node('DequantizeLinear', [used, at('unit')], of('floats'));
  }

  // ONNX Runtime writes -1 where there is none.
  const wanted = attributes['local_window_size'];
  const window = typeof wanted === 'number' && wanted >= 0 ? wanted : null;
  if (!masks.has(window)) {
    masks.add(window);
    writeMask(w, name('k_floats'), window, numHeads / numKvHeads);
  }
  const stacks = [rotated('q', numHeads), integers(w, 'q_stacks', [0, numKvHeads, -1, headDim])];
  const queries = w.node('Reshape', stacks, name('q_stacked'));
  const product = { transB: 1, alpha: attributes['scale']! };
  // Names of lengths: scores are changed in place where ONNX Runtime knows that their shape stays the same.
  w.value(name('products'), DataType.float32, ['B', numKvHeads, 'stacked_queries', 'used_keys']);
  let scores = w.node('FusedMatMul', [queries, name('k_floats')], name('products'), product, MS);
  scores = writeCap(w, scores, attributes['softcap']);
  if (window === null) {
    // What comes before the chunk is seen by all of it, and stays where it is.
    const columns = [scores, at('from'), at('num_keys'), at('last_axis')];
    const hidden = writeHidden(w, w.node('Slice', columns, name('last_scores')), name, window);
    scores = w.node('TensorScatter', [scores, hidden, at('from_by_row')], name('scores'), { axis: -1 });
  } else scores = writeHidden(w, scores, name, window);
  w.node('Softmax', [scores], name('shares'), { axis: -1 });
  w.node('MatMul', [name('shares'), name('v_floats')], name('sums'));
  w.node('Reshape', [name('sums'), integers(w, 'all_heads', [0, numHeads, -1, headDim])], name('sums_by_head'));
  w.node('Transpose', [name('sums_by_head')], name('sums_by_token'), { perm: [0, 2, 1, 3] });
  w.node('Reshape', [name('sums_by_token'), integers(w, 'packed', [0, 0, width])], output);
}

/** Scores [B, kvHeads, group · S, columns of the mask] with next to nothing where a token may not look. */
function writeHidden(w: OnnxWriter, scores: string, name: (what: string) => string, window: number | null): string {
  w.node('Add', [scores, atWindow('mask', window)], name('seen'));
  w.node('ReduceMax', [name('seen'), integers(w, 'score_axis', [-1])], name('largest'), { keepdims: 1 });
  w.tensor(at('next_to_nothing'), DataType.float32, [], Float32Array.of(NEXT_TO_NOTHING));
  w.node('Add', [name('largest'), at('next_to_nothing')], name('least'));
  return w.node('Max', [name('seen'), name('least')], name('hidden'));
}

/** cap · tanh(scores / cap); the scores themselves where there is no cap. */
function writeCap(w: OnnxWriter, scores: string, cap: Attribute | undefined): string {
  if (typeof cap !== 'object' || !('float' in cap) || cap.float === 0) return scores;
  w.tensor(at('cap'), DataType.float32, [], Float32Array.of(cap.float));
  w.node('Div', [scores, at('cap')], `${scores}_of_cap`);
  w.node('Tanh', [`${scores}_of_cap`], `${scores}_bent`);
  return w.node('Mul', [`${scores}_bent`, at('cap')], `${scores}_capped`);
}
