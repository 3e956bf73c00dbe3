// Weights from safetensors files: one model.safetensors, or shards named by model.safetensors.index.json.
// The header is JSON from a stranger: its length, every offset, type and shape is checked before a byte is used.
import fs from 'node:fs';
import path from 'node:path';
import { bfloat16ToFloat32, float16ToFloat32 } from '../floats.ts';
import { readExactly } from '../onnx-reader.ts';
import { checkDims, type FloatTensor, type WeightSource } from './source.ts';

/** Names of a file that holds all weights; the second is how some packages ship half precision. */
const SINGLE = ['model.safetensors', 'model.fp16.safetensors'];
const INDEX = 'model.safetensors.index.json';
/** The format's own limit is 100 MB; a larger length is a file of another kind. */
const MAX_HEADER_BYTES = 100 << 20;
const BYTES_PER_VALUE: Record<string, number> = { F32: 4, F16: 2, BF16: 2 };

interface Entry {
  file: string;
  dtype: string;
  dims: number[];
  /** Absolute in the file. */
  offset: number;
  length: number;
}

/** The directory's safetensors weights, or null when it has none. Throws an Error naming the file when they are broken. */
export function openSafetensors(directory: string): WeightSource | null {
  const entries = new Map<string, Entry>();
  const files = shardFiles(directory);
  if (files === null) return null;
  for (const file of files) {
    for (const [name, entry] of readHeader(file)) {
      if (entries.has(name)) throw new Error(`${file}: tensor ${name} appears in two files`);
      entries.set(name, entry);
    }
  }
  return {
    files,
    has: (name) => entries.has(name),
    read(name, dims) {
      const entry = entries.get(name);
      if (entry === undefined) throw new Error(`${directory}: no safetensors file holds tensor ${name}`);
      checkDims(entry.file, name, entry.dims, dims);
      return readEntry(name, entry);
    },
  };
}

function shardFiles(directory: string): string[] | null {
  const single = SINGLE.map((name) => path.join(directory, name)).find((file) => fs.existsSync(file));
  if (single !== undefined) return [single];
  const index = path.join(directory, INDEX);
  if (!fs.existsSync(index)) return null;
  const parsed: unknown = JSON.parse(fs.readFileSync(index, 'utf8'));
  const map = isRecord(parsed) ? parsed['weight_map'] : undefined;
  if (!isRecord(map)) throw new Error(`${index}: weight_map is missing`);
  const names = new Set<string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== 'string' || file !== path.basename(file) || file.startsWith('..')) {
      throw new Error(`${index}: tensor ${tensor}: ${JSON.stringify(file)} is not a file beside the index`);
    }
    names.add(file);
  }
  const files = [...names].sort().map((name) => path.join(directory, name));
  const missing = files.find((file) => !fs.existsSync(file));
  if (missing !== undefined) throw new Error(`${index}: the shard ${path.basename(missing)} is missing`);
  return files;
}

function readHeader(file: string): Map<string, Entry> {
  const fd = fs.openSync(file, 'r');
  try {
    const size = fs.fstatSync(fd).size;
    if (size < 8) throw new Error(`${file}: shorter than a safetensors header`);
    const headerBytes = Number(Buffer.from(readExactly(fd, file, 0, 8)).readBigUInt64LE(0));
    if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > size) {
      throw new Error(`${file}: the header claims ${headerBytes} bytes, the file has ${size}`);
    }
    let header: unknown;
    try {
      header = JSON.parse(Buffer.from(readExactly(fd, file, 8, headerBytes)).toString('utf8'));
    } catch (error) {
      throw new Error(`${file}: the header is not JSON`, { cause: error });
    }
    if (!isRecord(header)) throw new Error(`${file}: the header is not an object`);
    const entries = new Map<string, Entry>();
    for (const [name, value] of Object.entries(header)) {
      if (name !== '__metadata__') entries.set(name, parseEntry(file, name, value, 8 + headerBytes, size));
    }
    refuseOverlaps(file, entries);
    return entries;
  } finally {
    fs.closeSync(fd);
  }
}

function parseEntry(file: string, name: string, value: unknown, dataStart: number, size: number): Entry {
  const subject = `${file}: tensor ${name}`;
  if (!isRecord(value)) throw new Error(`${subject}: its header entry is not an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isNaturals(shape)) throw new Error(`${subject}: shape is not a list of sizes`);
  if (!isNaturals(offsets) || offsets.length !== 2) throw new Error(`${subject}: data_offsets is not [begin, end]`);
  const [begin, end] = offsets as [number, number];
  if (end < begin || dataStart + end > size) {
    throw new Error(`${subject}: offsets ${begin} to ${end} lie outside the file's ${size - dataStart} data bytes`);
  }
  return { file, dtype: String(dtype), dims: shape, offset: dataStart + begin, length: end - begin };
}

function refuseOverlaps(file: string, entries: Map<string, Entry>): void {
  const sorted = [...entries].sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  for (let i = 1; i < sorted.length; i++) {
    const [before, first] = sorted[i - 1]!;
    const [name, second] = sorted[i]!;
    if (first.offset + first.length > second.offset)
      throw new Error(`${file}: tensor ${name} overlaps tensor ${before}`);
  }
}

function readEntry(name: string, entry: Entry): FloatTensor {
  const bytesPerValue = BYTES_PER_VALUE[entry.dtype];
  if (bytesPerValue === undefined) {
    throw new Error(`${entry.file}: tensor ${name} has type ${entry.dtype}; F32, F16 and BF16 can be read`);
  }
  const numValues = entry.dims.reduce((product, dim) => product * dim, 1);
  if (numValues * bytesPerValue !== entry.length) {
    throw new Error(
      `${entry.file}: tensor ${name} has ${entry.length} bytes, its shape needs ${numValues * bytesPerValue}`,
    );
  }
  const fd = fs.openSync(entry.file, 'r');
  try {
    const { buffer } = readExactly(fd, entry.file, entry.offset, entry.length, name);
    const data =
      entry.dtype === 'F32'
        ? new Float32Array(buffer)
        : entry.dtype === 'F16'
          ? float16ToFloat32(new Uint16Array(buffer))
          : bfloat16ToFloat32(new Uint16Array(buffer));
    return { kind: 'float', name, dims: entry.dims, data };
  } finally {
    fs.closeSync(fd);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0);
}
