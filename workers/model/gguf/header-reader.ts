// Reads the values of a GGUF header one after another: numbers, strings, arrays. The file is input from strangers: every
// length is compared with what is left of the file before memory is taken for it. Called by container.ts.
import type { PartedFile } from './parts.ts';

/** Value types of metadata, by their number in the file. */
const u8 = 0;
const i8 = 1;
const u16 = 2;
const i16 = 3;
const u32 = 4;
const i32 = 5;
const f32 = 6;
const bool = 7;
const string = 8;
const array = 9;
const u64 = 10;
const i64 = 11;
const f64 = 12;

/** Of a number or truth value in the file; others have no fixed length. */
const scalarBytes = new Map([
  [u8, 1],
  [i8, 1],
  [u16, 2],
  [i16, 2],
  [u32, 4],
  [i32, 4],
  [f32, 4],
  [bool, 1],
  [u64, 8],
  [i64, 8],
  [f64, 8],
]);
/** Of a string in the file: its length comes first. */
const MIN_STRING_BYTES = 8;
const WINDOW_BYTES = 1 << 20;
/** The largest vocabularies make headers of 20 MB. */
const MAX_HEADER_BYTES = 1 << 29;
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

export type MetaValue = string | number | boolean | (string | number | boolean)[];

export class HeaderReader {
  readonly #file: PartedFile;
  #window = new Uint8Array(0);
  #view = new DataView(new ArrayBuffer(0));
  /** Of the window's first byte, in the file. */
  #start = 0;
  #at = 0;

  constructor(file: PartedFile) {
    this.#file = file;
  }

  /** Of the next byte, in the file. */
  get position(): number {
    return this.#start + this.#at;
  }

  fail(why: string): never {
    throw new Error(`${this.#file.name}: ${why}`);
  }

  u32(what: string): number {
    return this.#number(u32, what);
  }

  /** A length, count or offset: refused where it is no exact number. */
  u64(what: string): number {
    return this.#number(u64, what);
  }

  string(what: string): string {
    const length = this.u64(`the length of ${what}`);
    this.#take(length, what);
    return utf8.decode(this.#window.subarray(this.#at - length, this.#at));
  }

  /** A value of any type, which comes first. */
  value(key: string): MetaValue {
    const type = this.u32(`the type of ${key}`);
    return type === array ? this.#array(key) : this.#scalar(type, key);
  }

  #array(key: string): (string | number | boolean)[] {
    const type = this.u32(`the type of ${key}`);
    const length = this.u64(`the length of ${key}`);
    const each = type === string ? MIN_STRING_BYTES : scalarBytes.get(type);
    if (each === undefined) this.fail(`${key} is an array of type ${type}, which is not known`);
    if (length * each > this.#file.bytes - this.position) {
      this.fail(`${key} claims ${length} entries, more than the file has room for`);
    }
    return Array.from({ length }, () => this.#scalar(type, key));
  }

  #scalar(type: number, key: string): string | number | boolean {
    if (type === string) return this.string(key);
    const value = scalarBytes.has(type) ? this.#number(type, key) : this.fail(`${key} has type ${type}, not known`);
    return type === bool ? value !== 0 : value;
  }

  #number(type: number, what: string): number {
    const bytes = scalarBytes.get(type)!;
    this.#take(bytes, what);
    const at = this.#at - bytes;
    const view = this.#view;
    switch (type) {
      case u8:
      case bool:
        return view.getUint8(at);
      case i8:
        return view.getInt8(at);
      case u16:
        return view.getUint16(at, true);
      case i16:
        return view.getInt16(at, true);
      case u32:
        return view.getUint32(at, true);
      case i32:
        return view.getInt32(at, true);
      case f32:
        return view.getFloat32(at, true);
      case f64:
        return view.getFloat64(at, true);
      default: {
        const value = type === u64 ? view.getBigUint64(at, true) : view.getBigInt64(at, true);
        const exact = Number(value);
        if (!Number.isSafeInteger(exact)) this.fail(`${what} is ${value}, which cannot be right`);
        return exact;
      }
    }
  }

  /** Makes the next `count` bytes lie in the window and steps behind them. */
  #take(count: number, what: string): void {
    const position = this.position;
    if (position + count > this.#file.bytes) this.fail(`it ends within ${what}`);
    if (position + count > MAX_HEADER_BYTES) this.fail(`its header has more than ${MAX_HEADER_BYTES} bytes`);
    if (this.#at + count > this.#window.length) {
      this.#window = this.#file.read(position, Math.min(Math.max(count, WINDOW_BYTES), this.#file.bytes - position));
      this.#view = new DataView(this.#window.buffer);
      this.#start = position;
      this.#at = 0;
    }
    this.#at += count;
  }
}
