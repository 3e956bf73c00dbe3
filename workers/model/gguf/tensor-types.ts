// How GGUF stores the values of tensors: blocks of 32 or 256 with their scales, or plain numbers. Called by container.ts
// for sizes and by weights/gguf for values. A block form that is an integer times a scale is handed out as that, so that
// the compiler can carry the integers over; one with an offset as well is handed out as floats.
// Source of the layouts: ggml's published block formats; names are its own.
import { bfloat16ToFloat32, float16ToFloat32 } from '../floats.ts';
import { readIq2Xxs } from './code-book.ts';
import { readQ2K, readQ3K, readQ4K, readQ5K, readQ6K } from './k-blocks.ts';
import { readIq4Nl, readIq4Xs, readQ40, readQ41, readQ50, readQ51, readQ80 } from './small-blocks.ts';

/** value = data, or data · scale of its block; row-major. */
export type BlockValues =
  | { kind: 'float'; data: Float32Array }
  | { kind: 'integer'; data: Int8Array; scales: Float32Array; blockSize: number };

export interface TensorType {
  name: string;
  /** Values of a block, and its bytes in the file. */
  blockValues: number;
  blockBytes: number;
  /** `bytes`: whole blocks. The result is new memory, or `bytes` themselves. */
  read(bytes: Uint8Array<ArrayBuffer>): BlockValues;
}

const float = (data: Float32Array): BlockValues => ({ kind: 'float', data });
const plain = (name: string, blockBytes: number, read: TensorType['read']): TensorType => {
  return { name, blockValues: 1, blockBytes, read };
};

/** By the type's number in the file. */
export const tensorTypes: ReadonlyMap<number, TensorType> = new Map([
  [0, plain('F32', 4, ({ buffer }) => float(new Float32Array(buffer)))],
  [1, plain('F16', 2, ({ buffer }) => float(float16ToFloat32(new Uint16Array(buffer))))],
  [30, plain('BF16', 2, ({ buffer }) => float(bfloat16ToFloat32(new Uint16Array(buffer))))],
  [2, { name: 'Q4_0', blockValues: 32, blockBytes: 18, read: readQ40 }],
  [3, { name: 'Q4_1', blockValues: 32, blockBytes: 20, read: readQ41 }],
  [6, { name: 'Q5_0', blockValues: 32, blockBytes: 22, read: readQ50 }],
  [7, { name: 'Q5_1', blockValues: 32, blockBytes: 24, read: readQ51 }],
  [8, { name: 'Q8_0', blockValues: 32, blockBytes: 34, read: readQ80 }],
  [10, { name: 'Q2_K', blockValues: 256, blockBytes: 84, read: readQ2K }],
  [11, { name: 'Q3_K', blockValues: 256, blockBytes: 110, read: readQ3K }],
  [12, { name: 'Q4_K', blockValues: 256, blockBytes: 144, read: readQ4K }],
  [13, { name: 'Q5_K', blockValues: 256, blockBytes: 176, read: readQ5K }],
  [14, { name: 'Q6_K', blockValues: 256, blockBytes: 210, read: readQ6K }],
  [16, { name: 'IQ2_XXS', blockValues: 256, blockBytes: 66, read: readIq2Xxs }],
  [20, { name: 'IQ4_NL', blockValues: 32, blockBytes: 18, read: readIq4Nl }],
  [23, { name: 'IQ4_XS', blockValues: 256, blockBytes: 136, read: readIq4Xs }],
]);

/** Types that are not read, for messages. */
const others = new Map([
  [17, 'IQ2_XS'],
  [18, 'IQ3_XXS'],
  [19, 'IQ1_S'],
  [21, 'IQ3_S'],
  [22, 'IQ2_S'],
  [29, 'IQ1_M'],
  [34, 'TQ1_0'],
  [35, 'TQ2_0'],
  [39, 'MXFP4'],
]);

export function typeName(id: number): string {
  return tensorTypes.get(id)?.name ?? others.get(id) ?? String(id);
}
