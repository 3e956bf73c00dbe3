// The tiny graph with which ort-binding tests its hook: one attention node over a cache of four positions.
import { DataType, OnnxWriter } from './onnx-writer.ts';

const HEAD_DIM = 16;
const MAX_LEN = 4;

export interface SelfTestGraph {
  model: Uint8Array;
  headDim: number;
  maxLen: number;
  cacheDims: number[];
  cacheLength: number;
}

/** Inputs qkv [1, 1, 3·headDim], past_k, past_v, seqlens_k, total_len; outputs tick, present_k, present_v, out. */
export function selfTestGraph(): SelfTestGraph {
  const w = new OnnxWriter(null);
  const cacheDims = [1, 1, MAX_LEN, HEAD_DIM];
  w.input('qkv', DataType.float32, [1, 1, 3 * HEAD_DIM]);
  for (const kind of ['k', 'v']) w.input(`past_${kind}`, DataType.float32, cacheDims);
  w.input('seqlens_k', DataType.int32, [1]);
  w.input('total_len', DataType.int32, [1]);
  w.output(w.node('Shape', ['seqlens_k'], 'tick'), DataType.int64, [1]);
  w.node(
    'GroupQueryAttention',
    ['qkv', '', '', 'past_k', 'past_v', 'seqlens_k', 'total_len'],
    ['out', 'present_k', 'present_v'],
    { num_heads: 1, kv_num_heads: 1, scale: { float: 1 } },
    'com.microsoft',
  );
  for (const kind of ['k', 'v']) w.output(`present_${kind}`, DataType.float32, cacheDims);
  w.output('out', DataType.float32, [1, 1, HEAD_DIM]);
  return { model: w.finish(), headDim: HEAD_DIM, maxLen: MAX_LEN, cacheDims, cacheLength: MAX_LEN * HEAD_DIM };
}
