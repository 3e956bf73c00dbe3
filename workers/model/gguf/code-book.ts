// GGUF's two-bit form IQ2_XXS: eight values at a time are a point out of a book of 256, and a sign each. Called by
// tensor-types.ts. The book is a constant of the published format (ggml, MIT licence).
import { halves } from './small-blocks.ts';
import type { BlockValues } from './tensor-types.ts';

const BLOCK_BYTES = 66;
const POINTS = 256;
const levels = [8, 25, 43] as const;

/** Two bytes a point, low first; two bits a value, the number of its level, the first value lowest. */
const BOOK = [
  'AAACAAUACAAKABEAFAAgACIAKAAqAEEARABQAFgAYQBkAIAAggCKAKIAAQEEARABFQFAAYQBmAEAAgICIgKCAgEEBAQQBCEEJARA',
  'BEIESARgBIEEhASQBKQEAAUCBQgFIAVGBWkFgAWRBQkGEAZABoQGpAYACAUICAgUCCgIQQhECFAIUgiICAQJQAkCChQKARAEEBAQ',
  'IRBAEGAQhBCQEJUQABEIESARUBFaEYARJBJFEgAUCBQgFCUUSRSAFBgVYhUAFhYWARgEGBAYQBiBGAAZBRmgGVEaACACIAogRCBh',
  'IIAggiApIUghACICIgEkBCQQJEAkViQAJUElZCWQJggoICiUKEQqAUAEQBBAGEAhQCRAQEBIQFZAYECBQIRAkEAAQSBBYUGAQYVB',
  'AUIQQkhCVkJoQgBECEQgRIBEmUQSRSRFAEYBSARIEEhASEVIAElYSWFJgklFSpBKAFAIUBFQGVAgUIBQiFAEUUJRpFGRUpBUklQK',
  'VQFWVFYAWBFYGVhkWEBZCFoEYBBgQGBoYABhVWEYYmBiAGQFZBBlEmWEZUJoAIACgAqAQYCCgASBGIFAgRGCAYQEhBCEFYRAhGCE',
  'AIVGhZSFCYZAhmCGAogEiRGKBJAQkCSQQJChkBaRgJFFkgCUIpRElFGVgZggmQKgUKCFoAmhAKIYpFCoBKk=',
].join('');

let book: Int8Array | undefined;

/** [256, 8] */
function points(): Int8Array {
  if (book === undefined) {
    const packed = Buffer.from(BOOK, 'base64');
    book = new Int8Array(POINTS * 8);
    for (let i = 0; i < book.length; i++) book[i] = levels[(packed.readUInt16LE(2 * (i >> 3)) >> (2 * (i & 7))) & 3]!;
  }
  return book;
}

/**
 * Scale, then eight parts of 32 values: four numbers of points, and 32 bits with four times seven signs and a scale of
 * four. The eighth sign of a point makes the number of minus signs even.
 */
export function readIq2Xxs(bytes: Uint8Array): BlockValues {
  const table = points();
  const own = halves(bytes, BLOCK_BYTES, 0);
  const data = new Int8Array(own.length * 256);
  const scales = new Float32Array(own.length * 8);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0, out = 0; block < own.length; block++) {
    for (let part = 0; part < 8; part++) {
      const at = block * BLOCK_BYTES + 2 + 8 * part;
      const bits = view.getUint32(at + 4, true);
      scales[block * 8 + part] = Math.fround(own[block]! * (0.5 + (bits >>> 28))) * 0.25;
      for (let group = 0; group < 4; group++) {
        const signs = (bits >>> (7 * group)) & 127;
        const all = signs | (parity(signs) << 7);
        const point = 8 * bytes[at + group]!;
        for (let i = 0; i < 8; i++) {
          const size = table[point + i]!;
          data[out++] = ((all >> i) & 1) === 0 ? size : -size;
        }
      }
    }
  }
  return { kind: 'integer', data, scales, blockSize: 32 };
}

/** 1 where an odd number of the seven bits is set. */
function parity(bits: number): number {
  const folded = bits ^ (bits >> 4);
  return (0x6996 >> (folded & 15)) & 1;
}
