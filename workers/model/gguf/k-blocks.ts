// GGUF's K-blocks: 256 values in parts of 16 or 32, whose scales (and minima) are small integers under one or two float16.
// Called by tensor-types.ts. All take whole blocks and return new memory; products are rounded to float32 in the order
// the format defines them, so that the values are those of other readers to the bit.
import { halves } from './small-blocks.ts';
import type { BlockValues } from './tensor-types.ts';

const SUPER = 256;

/** 16 bytes of 4-bit scales and minima, 64 of 2-bit values, scale and minimum. */
export function readQ2K(bytes: Uint8Array): BlockValues {
  const size = 84;
  const [scales, minima] = [halves(bytes, size, 80), halves(bytes, size, 82)];
  const data = new Float32Array((bytes.length / size) * SUPER);
  for (let block = 0, out = 0; block < scales.length; block++) {
    const [at, scale, minimum] = [block * size, scales[block]!, minima[block]!];
    for (let part = 0; part < 16; part++) {
      const packed = bytes[at + part]!;
      const [step, low] = [Math.fround(scale * (packed & 15)), Math.fround(minimum * (packed >> 4))];
      const shift = part & 6;
      const from = at + 16 + 32 * (part >> 3) + 16 * (part & 1);
      for (let i = 0; i < 16; i++) data[out++] = Math.fround(step * ((bytes[from + i]! >> shift) & 3)) - low;
    }
  }
  return { kind: 'float', data };
}

/** 32 bytes of third bits (set: nothing is taken away), 64 of 2-bit values, 12 of 6-bit scales plus 32, scale. */
export function readQ3K(bytes: Uint8Array): BlockValues {
  const size = 110;
  const own = halves(bytes, size, 108);
  const data = new Int8Array(own.length * SUPER);
  const scales = new Float32Array(own.length * 16);
  for (let block = 0, out = 0; block < own.length; block++) {
    const at = block * size;
    for (let part = 0; part < 16; part++) {
      const low = part < 8 ? bytes[at + 96 + part]! & 15 : bytes[at + 88 + part]! >> 4;
      const high = (bytes[at + 104 + (part & 3)]! >> (2 * (part >> 2))) & 3;
      scales[block * 16 + part] = own[block]! * ((low | (high << 4)) - 32);
      const shift = part & 6;
      const bit = part >> 1;
      const from = at + 32 + 32 * (part >> 3) + 16 * (part & 1);
      const bits = at + 16 * (part & 1);
      for (let i = 0; i < 16; i++) {
        data[out++] = ((bytes[from + i]! >> shift) & 3) - (((bytes[bits + i]! >> bit) & 1) === 0 ? 4 : 0);
      }
    }
  }
  return { kind: 'integer', data, scales, blockSize: 16 };
}

/** Scale and minimum, 12 bytes of eight 6-bit scales and minima, 128 of nibbles. */
export function readQ4K(bytes: Uint8Array): BlockValues {
  return readScaledParts(bytes, 144, (at, part, i) => {
    const byte = bytes[at + 16 + 32 * (part >> 1) + i]!;
    return (part & 1) === 0 ? byte & 15 : byte >> 4;
  });
}

/** As Q4_K, with 32 bytes of fifth bits before the nibbles. */
export function readQ5K(bytes: Uint8Array): BlockValues {
  return readScaledParts(bytes, 176, (at, part, i) => {
    const byte = bytes[at + 48 + 32 * (part >> 1) + i]!;
    const fifth = (bytes[at + 16 + i]! >> part) & 1;
    return ((part & 1) === 0 ? byte & 15 : byte >> 4) | (fifth << 4);
  });
}

/** Eight parts of 32 with a scale and a minimum of 6 bits each. `value`: of the block at `at`, from 0. */
function readScaledParts(
  bytes: Uint8Array,
  size: number,
  value: (at: number, part: number, i: number) => number,
): BlockValues {
  const [scales, minima] = [halves(bytes, size, 0), halves(bytes, size, 2)];
  const data = new Float32Array(scales.length * SUPER);
  for (let block = 0, out = 0; block < scales.length; block++) {
    const at = block * size;
    for (let part = 0; part < 8; part++) {
      const [scale, minimum] = sixBits(bytes, at + 4, part);
      const [step, low] = [Math.fround(scales[block]! * scale), Math.fround(minima[block]! * minimum)];
      for (let i = 0; i < 32; i++) data[out++] = Math.fround(step * value(at, part, i)) - low;
    }
  }
  return { kind: 'float', data };
}

/** The first four are the low 6 bits of their bytes; the others have 4 bits in bytes 8 to 11 and 2 above the former. */
function sixBits(bytes: Uint8Array, at: number, part: number): [scale: number, minimum: number] {
  if (part < 4) return [bytes[at + part]! & 63, bytes[at + part + 4]! & 63];
  const packed = bytes[at + part + 4]!;
  return [(packed & 15) | ((bytes[at + part - 4]! >> 6) << 4), (packed >> 4) | ((bytes[at + part]! >> 6) << 4)];
}

/** 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, scale; values plus 32. */
export function readQ6K(bytes: Uint8Array): BlockValues {
  const size = 210;
  const own = halves(bytes, size, 208);
  const data = new Int8Array(own.length * SUPER);
  const scales = new Float32Array(own.length * 16);
  for (let block = 0; block < own.length; block++) {
    const at = block * size;
    for (let part = 0; part < 16; part++) {
      scales[block * 16 + part] = own[block]! * ((bytes[at + 192 + part]! << 24) >> 24);
    }
    for (let quarter = 0, out = block * SUPER; quarter < 8; quarter++, out += 32) {
      // Four quarters of 32 share 64 bytes of nibbles and 32 of pairs.
      const [half, q] = [quarter >> 2, quarter & 3];
      const low = at + 64 * half + 32 * (q & 1);
      const high = at + 128 + 32 * half;
      for (let i = 0; i < 32; i++) {
        const nibble = q < 2 ? bytes[low + i]! & 15 : bytes[low + i]! >> 4;
        data[out + i] = (nibble | (((bytes[high + i]! >> (2 * q)) & 3) << 4)) - 32;
      }
    }
  }
  return { kind: 'integer', data, scales, blockSize: 16 };
}
