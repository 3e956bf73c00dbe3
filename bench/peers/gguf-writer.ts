// The GGUF container, version 3, little endian: metadata, tensor table, aligned tensor data. Knows nothing about models;
// gguf-export.ts fills it. Tensors are written one at a time, so that a file may be larger than memory.
import fs from 'node:fs';
import { float32ToFloat16 } from '../../workers/model/floats.ts';

export const GGUF_MAGIC = 0x46554747;
export const GGUF_VERSION = 3;
export const GGUF_ALIGNMENT = 32;

/** Value types of metadata. */
export const ValueType = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

export type MetaValue =
  | { type: 'u32' | 'i32' | 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: readonly string[] }
  | { type: 'i32s'; value: readonly number[] };

/** Storage of a tensor: its number in the file, and bytes per block of values. */
export const encodings = {
  f32: { id: 0, blockValues: 1, blockBytes: 4 },
  f16: { id: 1, blockValues: 1, blockBytes: 2 },
  q8_0: { id: 8, blockValues: 32, blockBytes: 34 },
} as const;
export type Encoding = keyof typeof encodings;

export interface GgufTensor {
  name: string;
  /** [rows, columns] or [columns]; the file has them the other way round. */
  dims: readonly number[];
  encoding: Encoding;
  /** Row-major values; called once, when it is this tensor's turn. */
  read: () => Float32Array;
}

/** Writes a whole file. Throws an Error naming the tensor whose rows do not divide into blocks or whose size is wrong. */
export function writeGguf(file: string, meta: ReadonlyMap<string, MetaValue>, tensors: readonly GgufTensor[]): void {
  const fd = fs.openSync(file, 'w');
  try {
    const head = Buffer.concat([
      u32(GGUF_MAGIC),
      u32(GGUF_VERSION),
      u64(tensors.length),
      u64(meta.size),
      ...[...meta].flatMap(([key, value]) => [text(key), encodeMeta(value)]),
      ...tensorTable(tensors),
    ]);
    writeAll(fd, padded(head));
    for (const tensor of tensors) writeAll(fd, padded(encodeTensor(tensor)));
  } finally {
    fs.closeSync(fd);
  }
}

function tensorTable(tensors: readonly GgufTensor[]): Buffer[] {
  let offset = 0;
  return tensors.map(({ name, dims, encoding }) => {
    const { id, blockValues, blockBytes } = encodings[encoding];
    const columns = dims.at(-1) ?? 0;
    if (columns === 0 || columns % blockValues !== 0) {
      throw new Error(`tensor ${name} has ${columns} columns, ${encoding} needs a multiple of ${blockValues}`);
    }
    const entry = [text(name), u32(dims.length), ...dims.toReversed().map(u64), u32(id), u64(offset)];
    offset += aligned((product(dims) / blockValues) * blockBytes);
    return Buffer.concat(entry);
  });
}

function encodeTensor({ name, dims, encoding, read }: GgufTensor): Uint8Array {
  const values = read();
  if (values.length !== product(dims)) {
    throw new Error(`tensor ${name} has ${values.length} values, its shape needs ${product(dims)}`);
  }
  if (encoding === 'q8_0') return encodeQ8(values);
  const stored = encoding === 'f16' ? float32ToFloat16(values) : values;
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

/** Blocks of 32: a float16 scale, then 32 signed bytes. */
export function encodeQ8(values: Float32Array): Uint8Array {
  const { blockValues, blockBytes } = encodings.q8_0;
  const blocks = values.length / blockValues;
  const bytes = new Uint8Array(blocks * blockBytes);
  const view = new DataView(bytes.buffer);
  const scales = new Float32Array(blocks);
  for (let block = 0; block < blocks; block++) {
    let largest = 0;
    for (let i = block * blockValues; i < (block + 1) * blockValues; i++) {
      largest = Math.max(largest, Math.abs(values[i]!));
    }
    scales[block] = largest / 127;
  }
  const halves = float32ToFloat16(scales);
  for (let block = 0; block < blocks; block++) {
    const at = block * blockBytes;
    view.setUint16(at, halves[block]!, true);
    const inverse = scales[block] === 0 ? 0 : 1 / scales[block]!;
    for (let i = 0; i < blockValues; i++) {
      view.setInt8(at + 2 + i, Math.round(values[block * blockValues + i]! * inverse));
    }
  }
  return bytes;
}

function encodeMeta(meta: MetaValue): Buffer {
  switch (meta.type) {
    case 'strings':
      return Buffer.concat([...arrayHead('string', meta.value.length), ...meta.value.map(text)]);
    case 'i32s':
      return Buffer.concat([...arrayHead('i32', meta.value.length), ...meta.value.map((each) => scalar('i32', each))]);
    case 'string':
      return Buffer.concat([u32(ValueType.string), text(meta.value)]);
    case 'bool':
      return Buffer.concat([u32(ValueType.bool), Buffer.of(meta.value ? 1 : 0)]);
    default:
      return Buffer.concat([u32(ValueType[meta.type]), scalar(meta.type, meta.value)]);
  }
}

function arrayHead(type: 'string' | 'i32', length: number): Buffer[] {
  return [u32(ValueType.array), u32(ValueType[type]), u64(length)];
}

function scalar(type: 'u32' | 'i32' | 'f32', value: number): Buffer {
  const bytes = Buffer.alloc(4);
  if (type === 'u32') bytes.writeUInt32LE(value);
  else if (type === 'i32') bytes.writeInt32LE(value);
  else bytes.writeFloatLE(value);
  return bytes;
}

function u32(value: number): Buffer {
  return scalar('u32', value);
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function aligned(length: number): number {
  return Math.ceil(length / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;
}

function padded(bytes: Uint8Array): Uint8Array {
  const rest = aligned(bytes.length) - bytes.length;
  return rest === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(rest)]);
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += fs.writeSync(fd, bytes, done);
}

function product(dims: readonly number[]): number {
  return dims.reduce((total, dim) => total * dim, 1);
}
