// The GGUF container, versions 2 and 3, little endian: metadata, and where which tensor lies. Read as published with the
// format (ggml/docs/gguf.md). Called by model.ts. Counts, lengths, types, shapes and offsets are checked here, so that
// whoever reads a tensor afterwards gets exactly its bytes.
import { HeaderReader, type MetaValue } from './header-reader.ts';
import type { PartedFile } from './parts.ts';
import { tensorTypes, typeName, type TensorType } from './tensor-types.ts';

export interface GgufTensor {
  file: PartedFile;
  name: string;
  /** [rows, columns] or [columns], as everywhere else here; the file has them the other way round. */
  dims: number[];
  type: TensorType;
  /** In the file. */
  offset: number;
  bytes: number;
}

export interface GgufContainer {
  meta: Map<string, MetaValue>;
  tensors: Map<string, GgufTensor>;
}

const MAGIC = 0x46554747;
/** Version 3 read by the bytes of the other order. */
const SWAPPED_VERSION = 0x03000000;
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 20;
const MAX_ENTRIES = 1 << 20;
const MAX_TENSORS = 1 << 17;
const MAX_DIMS = 4;

/** Throws an Error that names the file and what is wrong with it. Reads the header only. */
export function readContainer(file: PartedFile): GgufContainer {
  const reader = new HeaderReader(file);
  if (reader.u32('its first bytes') !== MAGIC) reader.fail('it is no GGUF file');
  const version = reader.u32('its version');
  if (version === SWAPPED_VERSION) reader.fail('it is a GGUF file for big-endian machines');
  if (version !== 2 && version !== 3) reader.fail(`it is of GGUF version ${version}; 2 and 3 can be read`);
  const numTensors = reader.u64('the number of tensors');
  const numEntries = reader.u64('the number of metadata entries');
  if (numTensors > MAX_TENSORS) reader.fail(`it claims ${numTensors} tensors, which cannot be right`);
  if (numEntries > MAX_ENTRIES) reader.fail(`it claims ${numEntries} metadata entries, which cannot be right`);
  const meta = readMeta(reader, numEntries);
  const alignment = meta.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== 'number' || !isAlignment(alignment)) {
    return reader.fail(`general.alignment is ${JSON.stringify(alignment)}; a power of two is needed`);
  }
  const tensors = readTensors(reader, file, numTensors);
  const dataStart = Math.ceil(reader.position / alignment) * alignment;
  for (const tensor of tensors.values()) place(reader, tensor, dataStart, alignment);
  refuseOverlaps(reader, [...tensors.values()]);
  return { meta, tensors };
}

function isAlignment(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= MAX_ALIGNMENT && (value & (value - 1)) === 0;
}

function readMeta(reader: HeaderReader, count: number): Map<string, MetaValue> {
  const meta = new Map<string, MetaValue>();
  for (let i = 0; i < count; i++) {
    const key = reader.string('the name of a metadata entry');
    if (meta.has(key)) reader.fail(`it has two metadata entries ${key}`);
    meta.set(key, reader.value(key));
  }
  return meta;
}

function readTensors(reader: HeaderReader, file: PartedFile, count: number): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    const name = reader.string('the name of a tensor');
    const fail = (why: string): never => reader.fail(`tensor ${name} ${why}`);
    if (tensors.has(name)) fail('appears twice');
    const numDims = reader.u32(`the shape of tensor ${name}`);
    if (numDims < 1 || numDims > MAX_DIMS) fail(`has ${numDims} dimensions; 1 to ${MAX_DIMS} can be read`);
    const dims = Array.from({ length: numDims }, () => reader.u64(`the shape of tensor ${name}`)).toReversed();
    const id = reader.u32(`the type of tensor ${name}`);
    const type = tensorTypes.get(id);
    if (type === undefined) {
      const known = [...tensorTypes.values()].map((each) => each.name).join(', ');
      return fail(`has type ${typeName(id)}; ${known} can be read`);
    }
    const numValues = dims.reduce((product, dim) => product * dim, 1);
    if (!Number.isSafeInteger(numValues) || numValues === 0) fail(`has the shape [${dims.join(', ')}]`);
    if (dims.at(-1)! % type.blockValues !== 0) {
      fail(`has rows of ${dims.at(-1)} values, which are no whole blocks of ${type.name}`);
    }
    const bytes = (numValues / type.blockValues) * type.blockBytes;
    tensors.set(name, { file, name, dims, type, offset: reader.u64(`the offset of tensor ${name}`), bytes });
  }
  return tensors;
}

/** Makes its offset one in the file. */
function place(reader: HeaderReader, tensor: GgufTensor, dataStart: number, alignment: number): void {
  const { name, offset, bytes, file } = tensor;
  if (offset % alignment !== 0) reader.fail(`tensor ${name} lies at ${offset}, no multiple of ${alignment}`);
  tensor.offset += dataStart;
  if (tensor.offset + bytes > file.bytes) {
    reader.fail(`tensor ${name} ends at byte ${tensor.offset + bytes}, the file has ${file.bytes}: it is cut off`);
  }
}

function refuseOverlaps(reader: HeaderReader, tensors: GgufTensor[]): void {
  const sorted = tensors.sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < sorted.length; i++) {
    const [before, tensor] = [sorted[i - 1]!, sorted[i]!];
    if (before.offset + before.bytes > tensor.offset) reader.fail(`tensor ${tensor.name} overlaps ${before.name}`);
  }
}
