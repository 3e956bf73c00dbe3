// Rewrites an optimised model so that every external blob, packed or not, starts on a page boundary.
// Needed because ONNX Runtime 1.30 writes small packed blobs back to back and then computes NaN from them, silently:
// MatMulNBits derives its inner layout from the blob's address (README, "Why align"). Called by prepack.
import fs from 'node:fs';
import path from 'node:path';
import { readExactly } from './onnx-reader.ts';
import { externalEntry, PAGE, writeFully } from './onnx-writer.ts';
import { bytesField, concat, copyField, readFields, text, type Field } from './protobuf.ts';

const COPY_BYTES = 16 << 20;

/** Reads model and data, writes both anew; the data file is flushed to disk. Returns the bytes of the data file. */
export function alignModel(from: { model: string; data: string }, to: { model: string; data: string }): number {
  const mover = new BlobMover(from.data, to.data);
  try {
    const dataName = path.basename(to.data);
    const model = rewrite(fs.readFileSync(from.model), 7, (graph) =>
      rewrite(graph, 5, (tensor) => moveTensor(tensor, dataName, mover)),
    );
    fs.writeFileSync(to.model, model, { flush: true });
    return mover.finish();
  } finally {
    mover.close();
  }
}

class BlobMover {
  #sourceName: string;
  #source: number;
  #target: number;
  #offset = 0;

  constructor(source: string, target: string) {
    this.#sourceName = source;
    this.#source = fs.openSync(source, 'r');
    this.#target = fs.openSync(target, 'w');
  }

  /** Copies a blob to the next page boundary and returns its new offset. */
  move(offset: number, length: number): number {
    const start = Math.ceil(this.#offset / PAGE) * PAGE;
    for (let done = 0; done < length; done += COPY_BYTES) {
      const count = Math.min(COPY_BYTES, length - done);
      writeFully(this.#target, readExactly(this.#source, this.#sourceName, offset + done, count), start + done);
    }
    this.#offset = start + length;
    return start;
  }

  finish(): number {
    fs.fsyncSync(this.#target);
    return this.#offset;
  }

  close(): void {
    fs.closeSync(this.#source);
    fs.closeSync(this.#target);
  }
}

/** Replaces the contents of every field `number` of a message and keeps the rest. */
function rewrite(message: Uint8Array, number: number, change: (content: Uint8Array) => Uint8Array): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const field of readFields(message)) {
    parts.push(field.number === number ? bytesField(number, change(field.bytes)) : copyField(field));
  }
  return concat(parts);
}

function moveTensor(tensor: Uint8Array, dataName: string, mover: BlobMover): Uint8Array {
  const entries = new Map<string, string>();
  const others: Uint8Array[] = [];
  for (const field of readFields(tensor)) {
    if (field.number === 13) addEntry(entries, field);
    else others.push(copyField(field));
  }
  if (entries.size === 0) return tensor;
  entries.set('location', dataName);
  entries.set('offset', String(mover.move(Number(entries.get('offset') ?? 0), Number(entries.get('length')))));
  for (const [key, value] of entries) {
    if (!key.startsWith('prepacked_')) continue;
    // "kernel key|offset;length;…|offset;length;…": the packed forms of this tensor.
    const [kernel, ...blobs] = value.split('|');
    const moved = blobs.map((blob) => {
      const [offset, length, ...rest] = blob.split(';');
      return [mover.move(Number(offset), Number(length)), length, ...rest].join(';');
    });
    entries.set(key, [kernel, ...moved].join('|'));
  }
  return concat([...others, ...[...entries].map(([key, value]) => externalEntry(key, value))]);
}

function addEntry(entries: Map<string, string>, field: Field): void {
  let key = '';
  let value = '';
  for (const part of readFields(field.bytes)) {
    if (part.number === 1) key = text(part.bytes);
    else if (part.number === 2) value = text(part.bytes);
  }
  entries.set(key, value);
}
