// Reads what we need of an ONNX model file: nodes, and for every constant its type, shape and where its bytes lie.
// Tensor contents stay on disk until `readTensorBytes` is called for one of them. Called by weights/onnx.
// Files come from strangers: every length and offset is checked before it is used.
import fs from 'node:fs';
import path from 'node:path';
import { decodeVarint, readFields, readIntegers, text, Wire } from './protobuf.ts';

export interface OnnxTensor {
  name: string;
  /** TensorProto.DataType */
  type: number;
  dims: number[];
  /** Where raw little-endian contents lie. Null for contents given as a list of varints (`integers`). */
  place: { file: string; offset: number; length: number } | null;
  integers: number[];
}

export interface OnnxNode {
  op: string;
  name: string;
  inputs: string[];
  outputs: string[];
  /** Integer attributes only; the others tell nothing about weights. */
  attributes: Map<string, number>;
}

export interface OnnxFile {
  file: string;
  nodes: OnnxNode[];
  tensors: Map<string, OnnxTensor>;
}

/** A field longer than this, other than tensor contents, is not a model we can read. */
const MAX_MESSAGE_BYTES = 64 << 20;
const WINDOW_BYTES = 64 << 10;

/** Reads a file forwards through a small window. */
class FileCursor {
  readonly file: string;
  readonly size: number;
  position = 0;
  #fd: number;
  #window = Buffer.alloc(WINDOW_BYTES);
  #start = 0;
  #length = 0;

  constructor(file: string) {
    this.file = file;
    this.#fd = fs.openSync(file, 'r');
    this.size = fs.fstatSync(this.#fd).size;
  }

  varint(end: number): number {
    return decodeVarint(() => this.#byte(end));
  }

  bytes(length: number): Uint8Array {
    if (length > MAX_MESSAGE_BYTES) throw this.error(`a field claims ${length} bytes`);
    const start = this.position;
    this.position += length;
    // A graph has thousands of small nodes: one system call for each would be most of the reading time.
    if (length > WINDOW_BYTES / 2) return readExactly(this.#fd, this.file, start, length);
    if (start < this.#start || start + length > this.#start + this.#length) this.#fill(start);
    if (length > this.#length) throw this.error('the file ends early');
    return Uint8Array.prototype.slice.call(this.#window, start - this.#start, start - this.#start + length);
  }

  /** Length of the next length-delimited or fixed field, checked against the message's end. */
  length(wire: number, end: number): number {
    const length = wire === Wire.bytes ? this.varint(end) : wire === Wire.fixed32 ? 4 : wire === Wire.fixed64 ? 8 : -1;
    if (length < 0 || this.position + length > end) throw this.error('a field leaves its message');
    return length;
  }

  error(what: string): Error {
    return new Error(`${this.file}: not a readable ONNX file (${what} near byte ${this.position})`);
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #byte(end: number): number {
    if (this.position >= end) throw this.error('a message ends inside a number');
    if (this.position < this.#start || this.position >= this.#start + this.#length) {
      this.#fill(this.position);
      if (this.#length === 0) throw this.error('the file ends early');
    }
    return this.#window[this.position++ - this.#start]!;
  }

  #fill(start: number): void {
    this.#start = start;
    this.#length = fs.readSync(this.#fd, this.#window, 0, WINDOW_BYTES, start);
  }
}

/** Throws an Error naming the file when it is not a readable ONNX model. */
export function readOnnx(file: string): OnnxFile {
  const cursor = new FileCursor(file);
  const model: OnnxFile = { file, nodes: [], tensors: new Map() };
  try {
    forEachField(cursor, cursor.size, (number, wire, end) => {
      if (number !== 7 || wire !== Wire.bytes) return;
      forEachField(cursor, end, (member, memberWire, memberEnd) => {
        if (memberWire !== Wire.bytes) return;
        if (member === 1) model.nodes.push(parseNode(cursor.bytes(memberEnd - cursor.position)));
        if (member === 5) {
          const tensor = readTensor(cursor, memberEnd);
          model.tensors.set(tensor.name, tensor);
        }
      });
    });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (message.startsWith(file)) throw error;
    throw new Error(`${file}: not a readable ONNX file (${message})`, { cause: error });
  } finally {
    cursor.close();
  }
  if (model.nodes.length === 0) throw new Error(`${file}: not a readable ONNX file (it has no nodes)`);
  return model;
}

/** Contents of one tensor. The length is checked against the file, not yet against dims. */
export function readTensorBytes(tensor: OnnxTensor): Uint8Array {
  if (tensor.place === null) throw new Error(`tensor ${tensor.name}: contents are given as a list of numbers`);
  const { file, offset, length } = tensor.place;
  const fd = fs.openSync(file, 'r');
  try {
    return readExactly(fd, file, offset, length, tensor.name);
  } finally {
    fs.closeSync(fd);
  }
}

/** Reads exactly `length` bytes at `offset`, into memory of its own starting at an aligned address. */
export function readExactly(fd: number, file: string, offset: number, length: number, tensor?: string): Uint8Array {
  const subject = tensor === undefined ? file : `${file}: tensor ${tensor}`;
  const size = fs.fstatSync(fd).size;
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
    throw new Error(`${subject}: offset ${offset} with length ${length} is not a place in a file`);
  }
  if (offset + length > size) {
    throw new Error(`${subject}: bytes ${offset} to ${offset + length} lie beyond the end of the file (${size} bytes)`);
  }
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const count = fs.readSync(fd, bytes, done, Math.min(length - done, 1 << 30), offset + done);
    if (count === 0) throw new Error(`${subject}: the file became shorter while it was read`);
    done += count;
  }
  return bytes;
}

/** Calls `visit` with the position at the field's contents; skips what visit leaves unread. */
function forEachField(
  cursor: FileCursor,
  end: number,
  visit: (number: number, wire: number, end: number, value: number) => void,
): void {
  while (cursor.position < end) {
    const key = cursor.varint(end);
    const wire = key & 7;
    if (wire === Wire.varint) {
      const value = cursor.varint(end);
      visit(key >>> 3, wire, cursor.position, value);
    } else {
      const fieldEnd = cursor.length(wire, end) + cursor.position;
      visit(key >>> 3, wire, fieldEnd, 0);
      cursor.position = fieldEnd;
    }
  }
}

function readTensor(cursor: FileCursor, end: number): OnnxTensor {
  const tensor: OnnxTensor = { name: '', type: 0, dims: [], place: null, integers: [] };
  const external = new Map<string, string>();
  forEachField(cursor, end, (number, wire, fieldEnd, value) => {
    const length = fieldEnd - cursor.position;
    const isBytes = wire === Wire.bytes;
    const integers = (): number[] =>
      readIntegers({ number, wire, value, bytes: isBytes ? cursor.bytes(length) : new Uint8Array(0) });
    if (number === 1) tensor.dims.push(...integers());
    else if (number === 2) tensor.type = value;
    else if (number === 8 && isBytes) tensor.name = text(cursor.bytes(length));
    // raw_data and packed float_data have the same bytes; a single unpacked float is a fixed32.
    else if (number === 9 || number === 4) tensor.place = { file: cursor.file, offset: cursor.position, length };
    else if (number === 5 || number === 7) tensor.integers.push(...integers());
    else if (number === 13 && isBytes) addExternalEntry(external, cursor.bytes(length));
  });
  if (external.size > 0) tensor.place = externalPlace(cursor.file, tensor.name, external);
  return tensor;
}

function addExternalEntry(entries: Map<string, string>, message: Uint8Array): void {
  let key = '';
  let value = '';
  for (const field of readFields(message)) {
    if (field.number === 1) key = text(field.bytes);
    if (field.number === 2) value = text(field.bytes);
  }
  entries.set(key, value);
}

function externalPlace(file: string, name: string, entries: Map<string, string>): OnnxTensor['place'] {
  const location = entries.get('location') ?? '';
  // Only a plain file name: a model must not be able to read elsewhere on the disk.
  if (location === '' || location !== path.basename(location) || location === '..') {
    throw new Error(`${file}: tensor ${name}: its data file "${location}" is not a file beside the model`);
  }
  const dataFile = path.join(path.dirname(file), location);
  const offset = Number(entries.get('offset') ?? 0);
  const length = Number(entries.get('length') ?? fs.statSync(dataFile).size - offset);
  return { file: dataFile, offset, length };
}

function parseNode(message: Uint8Array): OnnxNode {
  const node: OnnxNode = { op: '', name: '', inputs: [], outputs: [], attributes: new Map() };
  for (const field of readFields(message)) {
    if (field.number === 1) node.inputs.push(text(field.bytes));
    else if (field.number === 2) node.outputs.push(text(field.bytes));
    else if (field.number === 3) node.name = text(field.bytes);
    else if (field.number === 4) node.op = text(field.bytes);
    else if (field.number === 5) {
      let key = '';
      for (const part of readFields(field.bytes)) {
        if (part.number === 1) key = text(part.bytes);
        if (part.number === 3) node.attributes.set(key, part.value);
      }
    }
  }
  return node;
}
