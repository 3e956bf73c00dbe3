// Writes GGUF files of any content for tests, also wrong ones: every count, length, type and offset can be spoilt. The
// bench's writer (bench/peers) only makes good ones.
import { float32ToFloat16 } from '../../../../workers/model/floats.ts';
import { tensorTypes } from '../../../../workers/model/gguf/tensor-types.ts';
import { seededRandom } from '../checkpoint.ts';

export type Meta = Record<string, MetaEntry>;
/** Numbers are written as u32, unless a type is given. */
type MetaEntry = string | number | boolean | string[] | number[] | { type: number; value: unknown };

export interface RawTensor {
  name: string;
  /** [rows, columns] or [columns]. */
  dims: number[];
  type: number;
  bytes: Uint8Array;
  /** Absent: behind the tensor before. */
  offset?: number;
}

export interface Spoilt {
  magic?: string;
  version?: number;
  numTensors?: bigint;
  numEntries?: bigint;
}

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const f32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const ALIGNMENT = 32;
const padded = (bytes: Uint8Array): Buffer =>
  Buffer.concat([bytes, Buffer.alloc((ALIGNMENT - (bytes.length % ALIGNMENT)) % ALIGNMENT)]);

function entry(value: MetaEntry): Buffer {
  if (typeof value === 'string') return Buffer.concat([u32(8), text(value)]);
  if (typeof value === 'boolean') return Buffer.concat([u32(7), Buffer.of(Number(value))]);
  if (typeof value === 'number') {
    return Number.isInteger(value) ? Buffer.concat([u32(4), u32(value)]) : Buffer.concat([u32(6), f32(value)]);
  }
  if (!Array.isArray(value)) return Buffer.concat([u32(value.type), value.value as Buffer]);
  const isTexts = typeof value[0] === 'string';
  const each = value.map((one) => (typeof one === 'string' ? text(one) : f32(one)));
  return Buffer.concat([u32(9), u32(isTexts ? 8 : 6), u64(value.length), ...each]);
}

/** A number in the type it has in the format, which JavaScript does not tell. */
export const typed = {
  f32: (value: number): MetaEntry => ({ type: 6, value: f32(value) }),
  raw: (type: number, bytes: Buffer): MetaEntry => ({ type, value: bytes }),
  /** An array that claims another length than it has. */
  claiming: (length: number | bigint): MetaEntry => ({ type: 9, value: Buffer.concat([u32(4), u64(length)]) }),
};

/** All bytes of the file. */
export function ggufBytes(meta: Meta, tensors: readonly RawTensor[], spoilt: Spoilt = {}): Buffer {
  let next = 0;
  const table = tensors.map(({ name, dims, type, bytes, offset }) => {
    const at = offset ?? next;
    next = at + padded(bytes).length;
    return Buffer.concat([text(name), u32(dims.length), ...dims.toReversed().map(u64), u32(type), u64(at)]);
  });
  const head = Buffer.concat([
    Buffer.from(spoilt.magic ?? 'GGUF'),
    u32(spoilt.version ?? 3),
    u64(spoilt.numTensors ?? tensors.length),
    u64(spoilt.numEntries ?? Object.keys(meta).length),
    ...Object.entries(meta).flatMap(([key, value]) => [text(key), entry(value)]),
    ...table,
  ]);
  return Buffer.concat([padded(head), ...tensors.map(({ bytes }) => padded(bytes))]);
}

/** Where a type's blocks hold float16 numbers. */
const halves: Record<string, number[]> = {
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q8_0: [0],
  Q2_K: [80, 82],
  Q3_K: [108],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
  IQ2_XXS: [0],
  IQ4_NL: [0],
  IQ4_XS: [0],
};

/** Block types by name, the ones without blocks left out. */
export const blockTypes = [...tensorTypes].filter(([, type]) => type.blockValues > 1);

/** Seeded blocks: every bit at random, but for the float16 numbers, which are from `scale` to twice it, half of them negative. */
export function randomBlocks(id: number, numBlocks: number, seed: number, scale: number): Uint8Array<ArrayBuffer> {
  const { name, blockBytes } = tensorTypes.get(id)!;
  const random = seededRandom(seed);
  const bytes = Uint8Array.from({ length: numBlocks * blockBytes }, () => Math.floor(random() * 256));
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < numBlocks; block++) {
    for (const offset of halves[name]!) {
      const value = (1 + random()) * scale * (random() < 0.5 ? -1 : 1);
      view.setUint16(block * blockBytes + offset, float32ToFloat16(Float32Array.of(value))[0]!, true);
    }
  }
  return bytes;
}
