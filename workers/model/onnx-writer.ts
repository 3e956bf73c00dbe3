// Writes ONNX models: nodes and small tensors in memory, large tensors at page-aligned offsets of one data file,
// each written the moment it is given, so that a model never has to be in memory as a whole.
// Called by graph-builder and, for its self-test, by ort-binding. Model files are written with opset 21.
import fs from 'node:fs';
import path from 'node:path';
import { bytesField, concat, floatField, intField } from './protobuf.ts';

/** TensorProto.DataType, the ones we use. */
export const DataType = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  float16: 10,
  bfloat16: 16,
} as const;
export type DataType = (typeof DataType)[keyof typeof DataType];

/** A number is an integer attribute, and so are those of a list; a float must say so. */
export type Attribute = number | string | { float: number } | readonly number[];
export type Dim = number | string;

/** ONNX Runtime maps external tensors; a blob on a page boundary is mapped where its kernels expect it (README). */
export const PAGE = 4096;
/** Smaller tensors stay inside the model file: scalars and shapes must be readable while the graph is optimised. */
const MIN_EXTERNAL_BYTES = 1024;
const IR_VERSION = 10;
const OPSET = 21;

export class OnnxWriter {
  #nodes: Uint8Array[] = [];
  #tensors: Uint8Array[] = [];
  #inputs: Uint8Array[] = [];
  #outputs: Uint8Array[] = [];
  #values: Uint8Array[] = [];
  #names = new Set<string>();
  #dataPath: string | null;
  #file = -1;
  #offset = 0;

  /** `dataPath`: file for large tensors, next to the model; null keeps everything in the model. Caller must finish() or abort(). */
  constructor(dataPath: string | null) {
    this.#dataPath = dataPath;
    if (dataPath !== null) this.#file = fs.openSync(dataPath, 'w');
  }

  /** Bytes of the data file so far. */
  get dataBytes(): number {
    return this.#offset;
  }

  /** Adds a node; an empty input or output name means "absent". Returns the first output name. */
  node(
    op: string,
    inputs: readonly string[],
    outputs: string | readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): string {
    const outs = typeof outputs === 'string' ? [outputs] : outputs;
    this.#nodes.push(nodeMessage(op, inputs, outs, attributes, domain));
    return outs[0] ?? op;
  }

  /** Adds a constant; `data` is written at once and not kept. A name given before is kept and the call ignored. Returns the name. */
  tensor(name: string, type: DataType, dims: readonly number[], data: ArrayBufferView): string {
    if (this.#names.has(name)) return name;
    this.#names.add(name);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const head = [...dims.map((dim) => intField(1, dim)), intField(2, type), bytesField(8, name)];
    if (this.#dataPath === null || bytes.length < MIN_EXTERNAL_BYTES) {
      this.#tensors.push(concat([...head, bytesField(9, bytes)]));
      return name;
    }
    this.#offset = Math.ceil(this.#offset / PAGE) * PAGE;
    writeFully(this.#file, bytes, this.#offset);
    this.#tensors.push(
      concat([
        ...head,
        externalEntry('location', path.basename(this.#dataPath)),
        externalEntry('offset', String(this.#offset)),
        externalEntry('length', String(bytes.length)),
        intField(14, 1),
      ]),
    );
    this.#offset += bytes.length;
    return name;
  }

  input(name: string, type: DataType, dims: readonly Dim[]): string {
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: DataType, dims: readonly Dim[]): string {
    this.#outputs.push(valueInfo(name, type, dims));
    return name;
  }

  /** Says the shape of what a node computes: only where shapes are known to be the same is memory used again. */
  value(name: string, type: DataType, dims: readonly Dim[]): string {
    this.#values.push(valueInfo(name, type, dims));
    return name;
  }

  /** Flushes and closes the data file and returns the model file's bytes. */
  finish(): Uint8Array {
    if (this.#file >= 0) fs.fsyncSync(this.#file);
    this.abort();
    const graph = concat([
      ...this.#nodes.map((node) => bytesField(1, node)),
      bytesField(2, 'decoder'),
      ...this.#tensors.map((tensor) => bytesField(5, tensor)),
      ...this.#inputs.map((input) => bytesField(11, input)),
      ...this.#outputs.map((output) => bytesField(12, output)),
      ...this.#values.map((value) => bytesField(13, value)),
    ]);
    return concat([
      intField(1, IR_VERSION),
      bytesField(2, 'tokenwire'),
      bytesField(7, graph),
      bytesField(8, concat([bytesField(1, ''), intField(2, OPSET)])),
      bytesField(8, concat([bytesField(1, 'com.microsoft'), intField(2, 1)])),
    ]);
  }

  /** Closes the data file without making a model. Harmless after finish(). */
  abort(): void {
    if (this.#file >= 0) fs.closeSync(this.#file);
    this.#file = -1;
  }
}

/** NodeProto, named after its first output; an empty input or output name means "absent". */
export function nodeMessage(
  op: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Record<string, Attribute> = {},
  domain = '',
): Uint8Array {
  return concat([
    ...inputs.map((input) => bytesField(1, input)),
    ...outputs.map((output) => bytesField(2, output)),
    bytesField(3, outputs[0] ?? op),
    bytesField(4, op),
    ...Object.entries(attributes).map(([key, value]) => bytesField(5, attributeMessage(key, value))),
    ...(domain === '' ? [] : [bytesField(7, domain)]),
  ]);
}

export function writeFully(file: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) {
    done += fs.writeSync(file, bytes, done, bytes.length - done, position + done);
  }
}

/** StringStringEntryProto in TensorProto.external_data. */
export function externalEntry(key: string, value: string): Uint8Array {
  return bytesField(13, concat([bytesField(1, key), bytesField(2, value)]));
}

function attributeMessage(name: string, value: Attribute): Uint8Array {
  const head = bytesField(1, name);
  if (typeof value === 'number') return concat([head, intField(3, value), intField(20, 2)]);
  if (typeof value === 'string') return concat([head, bytesField(4, value), intField(20, 3)]);
  if ('float' in value) return concat([head, floatField(2, value.float), intField(20, 1)]);
  return concat([head, ...value.map((each) => intField(8, each)), intField(20, 7)]);
}

/** ValueInfoProto of a tensor. */
export function valueInfo(name: string, type: DataType, dims: readonly Dim[]): Uint8Array {
  const shape = concat(
    dims.map((dim) => bytesField(1, typeof dim === 'number' ? intField(1, dim) : bytesField(2, dim))),
  );
  const tensorType = concat([intField(1, type), bytesField(2, shape)]);
  return concat([bytesField(1, name), bytesField(2, bytesField(1, tensorType))]);
}
