// Rotary positions as tables: the frequencies of a Rope with its scaling, and the cosines and sines of every position.
// Called by graph-builder.
import type { Rope, RopeScaling } from './specs/spec.ts';

/**
 * Radians per position of each rotated pair, [rotaryDim / 2]. `positions`: of the longest sequence that will be served,
 * by which longrope chooses among its lists, as engines with a KV memory have to: keys cannot be rotated anew when a
 * sequence grows.
 */
export function rotaryFrequencies(rope: Rope, rotaryDim: number, positions: number): Float64Array {
  const { theta, scaling } = rope;
  const plain = Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));
  switch (scaling?.type) {
    case undefined:
      return plain;
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'divisors':
      return plain.map((frequency, i) => frequency / scaling.divisors[i]!);
    case 'longrope': {
      const divisors = positions > scaling.originalPositions ? scaling.long : scaling.short;
      return plain.map((frequency, i) => frequency / divisors[i]!);
    }
    case 'llama3':
      return scaleLlama3(plain, scaling);
    case 'yarn':
      return scaleYarn(plain, scaling, theta);
  }
}

/**
 * Frequencies whose wavelength exceeds what the model first saw (originalPositions / lowFactor) are divided by the factor,
 * those below originalPositions / highFactor stay, and those between are mixed in proportion (Llama 3.1's model card
 * and reference code).
 */
function scaleLlama3(plain: Float64Array, scaling: RopeScaling & { type: 'llama3' }): Float64Array {
  const { factor, lowFactor, highFactor, originalPositions } = scaling;
  return plain.map((frequency) => {
    const turns = (originalPositions * frequency) / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - lowFactor) / (highFactor - lowFactor)));
    return kept * frequency + ((1 - kept) * frequency) / factor;
  });
}

/**
 * Pairs that turn more than fastTurns times within originalPositions stay, those that turn less than slowTurns times are
 * divided, and those between are mixed by their number (Peng et al. 2023, "YaRN", with the bounds rounded to whole
 * pairs as in the authors' code).
 */
function scaleYarn(plain: Float64Array, scaling: RopeScaling & { type: 'yarn' }, theta: number): Float64Array {
  const { factor, originalPositions, fastTurns, slowTurns } = scaling;
  const rotaryDim = 2 * plain.length;
  const pairOf = (turns: number): number =>
    (rotaryDim * Math.log(originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const first = Math.max(0, Math.floor(pairOf(fastTurns)));
  const last = Math.min(rotaryDim - 1, Math.ceil(pairOf(slowTurns)));
  return plain.map((frequency, i) => {
    const divided = Math.min(1, Math.max(0, (i - first) / Math.max(0.001, last - first)));
    return (1 - divided) * frequency + (divided * frequency) / factor;
  });
}

/** By which keys and queries are multiplied; tables carry it. */
function attentionFactor(scaling: RopeScaling | null): number {
  return scaling?.type === 'yarn' || scaling?.type === 'longrope' ? scaling.attentionFactor : 1;
}

/** Cosines and sines, [positions, rotaryDim / 2] each. */
export function rotaryTables(
  rope: Rope,
  rotaryDim: number,
  positions: number,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = rotaryFrequencies(rope, rotaryDim, positions);
  const factor = attentionFactor(rope.scaling);
  const half = frequencies.length;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0, at = 0; position < positions; position++) {
    for (let i = 0; i < half; i++, at++) {
      const angle = position * frequencies[i]!;
      cos[at] = factor * Math.cos(angle);
      sin[at] = factor * Math.sin(angle);
    }
  }
  return { cos, sin };
}
