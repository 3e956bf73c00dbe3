// Block packing: error bounds, and integers that survive unchanged.
import { describe, expect, it } from 'vitest';
import {
  createPacked,
  packRows,
  quantizationPlan,
  withinMemory,
  type PackedMatrix,
} from '../../../workers/model/quantize.ts';
import { toFloats, type IntegerTensor } from '../../../workers/model/weights/source.ts';
import { float16ToFloat32, float32ToFloat16 } from '../../../workers/model/floats.ts';
import { seededRandom } from './checkpoint.ts';

/** What MatMulNBits will multiply with. */
function unpack(matrix: PackedMatrix): Float32Array {
  const { bits, blockSize, packed, scales } = matrix;
  return Float32Array.from({ length: matrix.rows * matrix.cols }, (_, i) => {
    const scale = scales[Math.floor(i / blockSize)]!;
    if (bits === 8) return (packed[i]! - 128) * scale;
    const byte = packed[i >> 1]!;
    return ((i % 2 === 0 ? byte & 15 : byte >> 4) - 8) * scale;
  });
}

function integers(rows: number, cols: number, low: number, high: number, blockSize = cols): IntegerTensor {
  const random = seededRandom(5);
  const data = Int8Array.from({ length: rows * cols }, () => Math.floor(low + random() * (high - low + 1)));
  data[0] = low;
  data[1] = high;
  const scales = Float32Array.from({ length: (rows * cols) / blockSize }, () => 0.001 + random());
  return { kind: 'integer', name: 't', dims: [rows, cols], data, scales, blockSize };
}

describe('packRows', () => {
  it.each([8, 4] as const)('stores %i-bit blocks within half a step of every value', (bits) => {
    const random = seededRandom(1);
    const data = Float32Array.from({ length: 3 * 128 }, () => random() - 0.5);
    data.fill(0, 64, 96); // a block of zeros
    const matrix = createPacked(4, 128, { bits, blockSize: 32 });
    packRows(matrix, 1, { kind: 'float', name: 't', dims: [3, 128], data }, 2);
    const values = unpack(matrix);
    expect(values.subarray(0, 128).every((value) => value === 0)).toBe(true);
    for (let i = 0; i < data.length; i++) {
      const step = Math.abs(matrix.scales[Math.floor((i + 128) / 32)]!);
      // Four bits reach -8 but only +7: the far end of a block may be a whole step away.
      expect(Math.abs(values[128 + i]! - 2 * data[i]!)).toBeLessThanOrEqual(step * (bits === 4 ? 1.0001 : 0.5001));
    }
  });

  it.each([8, 4] as const)('multiplies rows of %i bits by factors of their own without rounding them anew', (bits) => {
    const random = seededRandom(2);
    const data = Float32Array.from({ length: 2 * 64 }, () => random() - 0.5);
    const [plain, scaled] = [1, Float32Array.of(3, 0.1)].map((factor) => {
      const matrix = createPacked(3, 64, { bits, blockSize: 32 });
      packRows(matrix, 1, { kind: 'float', name: 't', dims: [2, 64], data }, factor);
      return matrix;
    });
    expect(scaled!.packed).toEqual(plain!.packed);
    const factors = Float32Array.of(3, 3, 0.1, 0.1);
    expect(scaled!.scales.subarray(2)).toEqual(plain!.scales.subarray(2).map((scale, i) => scale * factors[i]!));
  });

  it('carries integers over unchanged when they fit', () => {
    for (const [bits, low, high, blockSize] of [
      [8, -128, 127, 128],
      [8, -128, 127, 32],
      [4, -8, 7, 64],
    ] as const) {
      const tensor = integers(3, 128, low, high, blockSize);
      const matrix = createPacked(3, 128, { bits, blockSize: 32 });
      packRows(matrix, 0, tensor, 0.125);
      expect(unpack(matrix)).toEqual(toFloats(tensor).map((value) => value * 0.125));
    }
  });

  it('quantises integers anew when they do not fit the bits or the blocks', () => {
    for (const tensor of [integers(3, 128, -9, 7), integers(3, 128, -8, 7, 16)]) {
      const matrix = createPacked(3, 128, { bits: 4, blockSize: 32 });
      packRows(matrix, 0, tensor);
      const wanted = toFloats(tensor);
      for (const [i, value] of unpack(matrix).entries()) {
        expect(Math.abs(value - wanted[i]!)).toBeLessThanOrEqual(Math.abs(matrix.scales[Math.floor(i / 32)]!) * 1.0001);
      }
    }
  });

  it('meets the levels of values that were quantised before, in four bits too', () => {
    const random = seededRandom(3);
    const levels = [8, 25, 43, -8, -25, -43];
    const data = Int8Array.from({ length: 128 }, () => levels[Math.floor(random() * 6)]!);
    const tensor: IntegerTensor = {
      kind: 'integer',
      name: 't',
      dims: [1, 128],
      data,
      scales: Float32Array.of(2),
      blockSize: 128,
    };
    const error = (matrix: PackedMatrix): number => {
      const errors = unpack(matrix).map((value, i) => Math.abs(value / (2 * data[i]!) - 1));
      return errors.reduce((sum, each) => sum + each) / 128;
    };
    const [tried, plain] = [0, 1].map(() => createPacked(1, 128, { bits: 4, blockSize: 32 }));
    packRows(tried!, 0, tensor);
    packRows(plain!, 0, { kind: 'float', name: 't', dims: [1, 128], data: toFloats(tensor) });
    expect(error(tried!)).toBeLessThan(0.05);
    expect(error(plain!)).toBeGreaterThan(0.1);
    const zeros = createPacked(1, 32, { bits: 4, blockSize: 32 });
    packRows(zeros, 0, { kind: 'float', name: 't', dims: [1, 32], data: new Float32Array(32), isQuantized: true });
    expect([...unpack(zeros)].every((value) => value === 0)).toBe(true);
  });

  it('shrinks blocks to 32 for widths that need it and refuses others', () => {
    expect(createPacked(2, 96, { bits: 8, blockSize: 64 }).blockSize).toBe(32);
    expect(() => createPacked(2, 40, { bits: 8, blockSize: 64 })).toThrow('width 40');
  });
});

describe('quantizationPlan', () => {
  it('keeps the bits of large checkpoints that were quantised with more than four', () => {
    expect(quantizationPlan('auto', 7e9, 8.5).label).toBe('8-bit, block 64');
    expect(quantizationPlan('auto', 7e9, 4.85).matrices).toMatchObject({ bits: 4 });
    expect(quantizationPlan('auto', 1e8, 2.1).matrices).toMatchObject({ bits: 8 });
  });

  it('stores small models in 8 bits and large ones in 4 with an 8-bit head', () => {
    expect(quantizationPlan('auto', 26e6).matrices?.bits).toBe(8);
    expect(quantizationPlan('auto', 1.1e9)).toMatchObject({
      matrices: { bits: 4 },
      head: { bits: 8 },
      embedding: 'float16',
    });
    expect(quantizationPlan('auto', 1.1e9).chunkQkv).toEqual({ bits: 4, blockSize: 32 });
    expect(quantizationPlan('f32', 1.1e9).chunkQkv).toBeNull();
    expect(quantizationPlan('q4', 26e6)).toMatchObject({ matrices: { bits: 4 }, embedding: 'float32' });
    expect(quantizationPlan('f32', 1.1e9).matrices).toBeNull();
  });

  it('has no prefill graph where it would take more than an eighth of the memory', () => {
    const plan = quantizationPlan('auto', 1.1e9);
    expect(withinMemory(plan, 1.1e9, 16e9)).toEqual(plan);
    expect(withinMemory(plan, 1.1e9, 8e9)).toEqual({ ...plan, chunkQkv: null });
  });
});

function round(value: number): number {
  return float16ToFloat32(float32ToFloat16(Float32Array.of(value)))[0]!;
}

describe('float16', () => {
  it('keeps every one of its 65,536 values', () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const values = float16ToFloat32(bits);
    const again = float32ToFloat16(values);
    const isKept = (bit: number, i: number): boolean => {
      return Number.isNaN(values[i]) ? Number.isNaN(float16ToFloat32(again.subarray(i, i + 1))[0]) : again[i] === bit;
    };
    expect(bits.every(isKept)).toBe(true);
  });

  it('rounds to the nearest, ties to even, and overflows to infinity', () => {
    expect(round(1 + 2 ** -11)).toBe(1);
    expect(round(1 + 3 * 2 ** -11)).toBe(1 + 2 ** -9);
    expect(round(2 - 2 ** -12)).toBe(2);
    expect(round(65520)).toBe(Infinity);
    expect(round(-70000)).toBe(-Infinity);
    expect(round(2 ** -25)).toBe(0);
    expect(round(2 ** -14 - 2 ** -26)).toBe(2 ** -14);
  });
});
