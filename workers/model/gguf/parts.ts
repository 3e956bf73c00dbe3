// Files whose concatenation is one GGUF file, read as if they were it. Called by container.ts for the header and by
// weights/gguf for each tensor. Nothing stays open between two reads.
import fs from 'node:fs';

export class PartedFile {
  readonly files: readonly string[];
  readonly bytes: number;
  /** For messages. */
  readonly name: string;
  readonly #sizes: readonly number[];

  /** Throws what the file system throws when a part is missing. */
  constructor(files: readonly string[]) {
    this.files = files;
    this.#sizes = files.map((file) => fs.statSync(file).size);
    this.bytes = this.#sizes.reduce((sum, size) => sum + size, 0);
    this.name = files.length === 1 ? files[0]! : `${files[0]} and ${files.length - 1} more`;
  }

  /** A fresh buffer of its own. Throws an Error that names the file when [offset, offset + length) is not there. */
  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    if (offset + length > this.bytes) {
      throw new Error(`${this.name}: bytes ${offset} to ${offset + length} of ${this.bytes} were asked for`);
    }
    const target = new Uint8Array(new ArrayBuffer(length));
    let [start, done] = [0, 0];
    for (const [part, size] of this.#sizes.entries()) {
      const from = offset + done - start;
      if (from < size && done < length) {
        const count = Math.min(size - from, length - done);
        readInto(this.files[part]!, target.subarray(done, done + count), from);
        done += count;
      }
      start += size;
    }
    return target;
  }
}

function readInto(file: string, target: Uint8Array, offset: number): void {
  const fd = fs.openSync(file, 'r');
  try {
    for (let done = 0; done < target.length;) {
      // One call reads at most 2 GiB.
      const wanted = Math.min(target.length - done, 1 << 30);
      const count = fs.readSync(fd, target, done, wanted, offset + done);
      if (count === 0) throw new Error(`${file}: it became shorter while it was read`);
      done += count;
    }
  } finally {
    fs.closeSync(fd);
  }
}
