// GGUF's blocks of 32 values, and the two forms whose 4-bit numbers stand for 16 fixed levels. Called by tensor-types.ts.
// All take whole blocks and return new memory. Products are rounded to float32 in the order the format defines them.
import { float16ToFloat32 } from '../floats.ts';
import type { BlockValues } from './tensor-types.ts';

const BLOCK = 32;
const HALF = BLOCK / 2;

/** Scale, then 16 bytes: the low nibbles are the first 16 values plus 8, the high ones the others. */
export function readQ40(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 18;
  const data = new Int8Array(blocks * BLOCK);
  for (let block = 0, out = 0; block < blocks; block++, out += BLOCK) {
    const at = block * 18 + 2;
    for (let i = 0; i < HALF; i++) {
      const pair = bytes[at + i]!;
      data[out + i] = (pair & 15) - 8;
      data[out + HALF + i] = (pair >> 4) - 8;
    }
  }
  return { kind: 'integer', data, scales: halves(bytes, 18, 0), blockSize: BLOCK };
}

/** Scale and minimum, then nibbles as in Q4_0 but from 0. */
export function readQ41(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 20;
  const [scales, minima] = [halves(bytes, 20, 0), halves(bytes, 20, 2)];
  const data = new Float32Array(blocks * BLOCK);
  for (let block = 0, out = 0; block < blocks; block++, out += BLOCK) {
    const [scale, minimum, at] = [scales[block]!, minima[block]!, block * 20 + 4];
    for (let i = 0; i < HALF; i++) {
      const pair = bytes[at + i]!;
      data[out + i] = Math.fround((pair & 15) * scale) + minimum;
      data[out + HALF + i] = Math.fround((pair >> 4) * scale) + minimum;
    }
  }
  return { kind: 'float', data };
}

/** Scale, 32 fifth bits, then nibbles as in Q4_0; values plus 16. */
export function readQ50(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 22;
  const data = new Int8Array(blocks * BLOCK);
  for (let block = 0, out = 0; block < blocks; block++, out += BLOCK) {
    fiveBits(bytes, block * 22 + 2, (i, value) => (data[out + i] = value - 16));
  }
  return { kind: 'integer', data, scales: halves(bytes, 22, 0), blockSize: BLOCK };
}

/** Scale, minimum, 32 fifth bits, nibbles. */
export function readQ51(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 24;
  const [scales, minima] = [halves(bytes, 24, 0), halves(bytes, 24, 2)];
  const data = new Float32Array(blocks * BLOCK);
  for (let block = 0, out = 0; block < blocks; block++, out += BLOCK) {
    const [scale, minimum] = [scales[block]!, minima[block]!];
    fiveBits(bytes, block * 24 + 4, (i, value) => (data[out + i] = Math.fround(value * scale) + minimum));
  }
  return { kind: 'float', data };
}

/** Hands out 32 values from 0 to 31: 4 bytes of fifth bits at `at`, then 16 of nibbles. */
function fiveBits(bytes: Uint8Array, at: number, store: (i: number, value: number) => void): void {
  for (let i = 0; i < HALF; i++) {
    const pair = bytes[at + 4 + i]!;
    const low = (bytes[at + (i >> 3)]! >> (i & 7)) & 1;
    const high = (bytes[at + 2 + (i >> 3)]! >> (i & 7)) & 1;
    store(i, (pair & 15) | (low << 4));
    store(HALF + i, (pair >> 4) | (high << 4));
  }
}

/** Scale, then 32 signed bytes. */
export function readQ80(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 34;
  const data = new Int8Array(blocks * BLOCK);
  for (let block = 0; block < blocks; block++) {
    data.set(bytes.subarray(block * 34 + 2, block * 34 + 34), block * BLOCK);
  }
  return { kind: 'integer', data, scales: halves(bytes, 34, 0), blockSize: BLOCK };
}

/** What the 16 numbers of a nibble stand for: finer around zero, where most weights are. */
const levels = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** Scale, then nibbles as in Q4_0 that name a level each. */
export function readIq4Nl(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 18;
  const data = new Int8Array(blocks * BLOCK);
  for (let block = 0; block < blocks; block++) readLevels(bytes, block * 18 + 2, data, block * BLOCK);
  return { kind: 'integer', data, scales: halves(bytes, 18, 0), blockSize: BLOCK };
}

/** Eight blocks of IQ4_NL under one scale: their own are 6 bits, the low 4 in four bytes, the high 2 in a number before. */
export function readIq4Xs(bytes: Uint8Array): BlockValues {
  const blocks = bytes.length / 136;
  const own = halves(bytes, 136, 0);
  const data = new Int8Array(blocks * 256);
  const scales = new Float32Array(blocks * 8);
  for (let block = 0; block < blocks; block++) {
    const at = block * 136;
    const high = bytes[at + 2]! | (bytes[at + 3]! << 8);
    for (let part = 0; part < 8; part++) {
      const low = (bytes[at + 4 + (part >> 1)]! >> (4 * (part & 1))) & 15;
      const scale = low | (((high >> (2 * part)) & 3) << 4);
      scales[block * 8 + part] = own[block]! * (scale - 32);
      readLevels(bytes, at + 8 + part * HALF, data, block * 256 + part * BLOCK);
    }
  }
  return { kind: 'integer', data, scales, blockSize: BLOCK };
}

function readLevels(bytes: Uint8Array, at: number, data: Int8Array, out: number): void {
  for (let i = 0; i < HALF; i++) {
    const pair = bytes[at + i]!;
    data[out + i] = levels[pair & 15]!;
    data[out + HALF + i] = levels[pair >> 4]!;
  }
}

/** The float16 at `offset` of every block. */
export function halves(bytes: Uint8Array, blockBytes: number, offset: number): Float32Array {
  const bits = new Uint16Array(bytes.length / blockBytes);
  for (let block = 0, at = offset; block < bits.length; block++, at += blockBytes) {
    bits[block] = bytes[at]! | (bytes[at + 1]! << 8);
  }
  return float16ToFloat32(bits);
}
