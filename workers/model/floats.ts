// Half-precision conversions: float16 and bfloat16 bits to float32 and back to float16.
// Node 22 has no Float16Array; tables keep reading a large checkpoint at memory speed.

let halfTable: Float32Array | undefined;

/** Float32 value of every float16 bit pattern. */
function halves(): Float32Array {
  if (halfTable === undefined) {
    halfTable = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 0) halfTable[bits] = sign * fraction * 2 ** -24;
      else if (exponent === 31) halfTable[bits] = fraction === 0 ? sign * Infinity : NaN;
      else halfTable[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    }
  }
  return halfTable;
}

export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const table = halves();
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]!]!;
  return values;
}

export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return new Float32Array(words.buffer);
}

/** Rounds to nearest, ties to even; values beyond the range become infinities. */
export function float32ToFloat16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = halfBits(words[i]!, values[i]!);
  return bits;
}

function halfBits(word: number, value: number): number {
  const sign = (word >>> 16) & 0x8000;
  const exponent = ((word >>> 23) & 255) - 112;
  if (exponent >= 31) return Number.isNaN(value) ? sign | 0x7e00 : sign | 0x7c00;
  // Subnormal results are multiples of 2^-24: scale, then round half to even.
  if (exponent <= 0) return sign | roundToEven(Math.abs(value) * 2 ** 24);
  const fraction = word & 0x7fffff;
  // A carry out of the fraction raises the exponent, which is what rounding up means.
  return sign | ((exponent << 10) + roundToEven(fraction / 8192));
}

function roundToEven(value: number): number {
  const down = Math.floor(value);
  const rest = value - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}
