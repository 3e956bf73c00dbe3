// Which tokens a grammar allows, as a bit per token: bit id % 32 of word id / 32. Used by sampler.ts.

/** Leaves in the row [vocab] what is allowed; everything else becomes -Infinity. */
export function applyMask(row: Float32Array, mask: Int32Array): void {
  for (let word = 0; word < mask.length; word++) {
    const bits = mask[word] ?? 0;
    if (bits === -1) continue;
    const first = word << 5;
    if (bits === 0) {
      row.fill(-Infinity, first, first + 32);
      continue;
    }
    for (let bit = 0; bit < 32; bit++) if (((bits >>> bit) & 1) === 0) row[first + bit] = -Infinity;
  }
}

export function isAllowed(mask: Int32Array, id: number): boolean {
  return (((mask[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1;
}
