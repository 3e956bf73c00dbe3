// Rotary positions as tables: the frequencies of a Rope with its scaling, and the cosines and sines of every position.
// Called by graph-builder.
import type { Rope } from './specs/spec.ts';

/**
 * Radians per position of each rotated pair, [rotaryDim / 2]. llama3: frequencies whose wavelength exceeds what the model
 * first saw (originalPositions / lowFactor) are divided by the factor, those below originalPositions / highFactor stay,
 * and those between are mixed in proportion (Llama 3.1's model card and reference code).
 */
export function rotaryFrequencies(rope: Rope, rotaryDim: number): Float64Array {
  const { theta, scaling } = rope;
  const frequencies = Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));
  if (scaling === null) return frequencies;
  if (scaling.type === 'linear') return frequencies.map((frequency) => frequency / scaling.factor);
  const { factor, lowFactor, highFactor, originalPositions } = scaling;
  return frequencies.map((frequency) => {
    const turns = (originalPositions * frequency) / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - lowFactor) / (highFactor - lowFactor)));
    return kept * frequency + ((1 - kept) * frequency) / factor;
  });
}

/** Cosines and sines, [positions, rotaryDim / 2] each. */
export function rotaryTables(
  rope: Rope,
  rotaryDim: number,
  positions: number,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = rotaryFrequencies(rope, rotaryDim);
  const half = frequencies.length;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0, at = 0; position < positions; position++) {
    for (let i = 0; i < half; i++, at++) {
      const angle = position * frequencies[i]!;
      cos[at] = Math.cos(angle);
      sin[at] = Math.sin(angle);
    }
  }
  return { cos, sin };
}
