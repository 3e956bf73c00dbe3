// The random number of step n of a seed, computed from (seed, n) alone. Used by sampler.ts for every draw. Without
// a running state there is nothing to move when a sequence changes threads, and step n is the same however it came about.
//
// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), the default
// of JAX: made for exactly this use, passes the usual test batteries, and needs only 32-bit additions, rotations and
// xors, which JavaScript does fast (Philox would need 64-bit products). The test checks the paper's known answers.

const PARITY = 0x1bd11bda;
const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const;

/** One block: key and counter of two 32-bit words each → out[0], out[1] as unsigned 32-bit words. */
export function threefry(key0: number, key1: number, counter0: number, counter1: number, out: Uint32Array): void {
  const keys = [key0 | 0, key1 | 0, PARITY ^ key0 ^ key1] as const;
  let x = (counter0 + keys[0]) | 0;
  let y = (counter1 + keys[1]) | 0;
  for (let round = 0; round < 20; round++) {
    const rotation = rotations[round & 7] ?? 0;
    x = (x + y) | 0;
    y = ((y << rotation) | (y >>> (32 - rotation))) ^ x;
    if ((round & 3) === 3) {
      const injection = (round + 1) >> 2;
      x = (x + (keys[injection % 3] ?? 0)) | 0;
      y = (y + (keys[(injection + 1) % 3] ?? 0) + injection) | 0;
    }
  }
  out[0] = x;
  out[1] = y;
}

const block = new Uint32Array(2);
/** High counter word of the choices' seeds: no step count is as large. */
const CHOICE_DOMAIN = 0xffffffff;

/** Uniform number in [0, 1) with 53 random bits. seed: any safe integer; step: 0, 1, 2, … */
export function uniform(seed: number, step: number): number {
  return bits53(seed, step >>> 0, Math.floor(step / 2 ** 32) >>> 0) / 2 ** 53;
}

/**
 * Seed of choice `choice` of a request with this seed: the seed itself for the first, so that one choice of many is the
 * answer that is given alone; for the others the 53 bits of Threefry's block (choice, 2^32 - 1), which no step uses.
 */
export function choiceSeed(seed: number, choice: number): number {
  return choice === 0 ? seed : bits53(seed, choice, CHOICE_DOMAIN);
}

/** 53 random bits of the seed's block with this counter. */
function bits53(seed: number, counter0: number, counter1: number): number {
  threefry(seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, counter0, counter1, block);
  const high = (block[0] ?? 0) >>> 5; // 27 bits
  const low = (block[1] ?? 0) >>> 6; // 26 bits
  return high * 2 ** 26 + low;
}
