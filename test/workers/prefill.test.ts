import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { KvMemory } from '../../workers/kv/kv-memory.ts';
import type { Model } from '../../workers/model/model.ts';
import { Prefill } from '../../workers/prefill.ts';
import type { Decoding } from '../../workers/prefill.ts';
import type { Sequence } from '../../workers/sequence.ts';
import { classRank, Shares } from '../../workers/shares.ts';

/** Milliseconds: so much per token, and attention over the past, which every chunk reads once as well. */
const costMs = (numTokens: number, past: number): number => numTokens * 0.2 + 1e-4 * past * (numTokens + 10);
const model = {
  prefill(_slot: number, ids: ArrayLike<number>, past: number) {
    vi.advanceTimersByTime(costMs(ids.length, past));
    return undefined;
  },
} as unknown as Model;
const kv = { bytesPerToken: 8192, claim: () => {}, assertOwned: () => {} } as unknown as KvMemory;

/** A prompt of `past` tokens that are there and `numNew` that are not. */
function add(prefill: Prefill, past: number, numNew: number): void {
  const meta = { tenant: 't', weight: 1, class: 'chat' };
  const ids = Array.from<number>({ length: past + numNew });
  prefill.add({ meta, ids, home: 0, homeLength: 0 } as unknown as Sequence, past, null);
}

/** Lengths of all chunks that are left. */
function compute(prefill: Prefill, decoding: Decoding, expectedRank = Infinity): number[] {
  const lengths: number[] = [];
  for (let chunk; (chunk = prefill.step(model, decoding, expectedRank, 2));) lengths.push(chunk.numTokens);
  return lengths;
}

describe('Prefill', () => {
  let prefill: Prefill;

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
    prefill = new Prefill(kv, new Shares(), () => {});
    prefill.calibrate(model, 0);
    for (const decoding of ['nowhere', 'here'] as const) {
      add(prefill, 1000, 200);
      compute(prefill, decoding);
    }
  });
  afterEach(() => vi.useRealTimers());

  it('computes a later turn at once where a second chunk would only read the past again', () => {
    add(prefill, 2070, 85);
    expect(costMs(85, 2070)).toBeGreaterThan(28);
    expect(compute(prefill, 'nowhere')).toEqual([85]);
  });

  it('keeps chunks short beside streams, beside other prompts, and while urgent ones are expected', () => {
    add(prefill, 2070, 85);
    expect(Math.max(...compute(prefill, 'here'))).toBeLessThan(60);
    add(prefill, 2070, 85);
    expect(Math.max(...compute(prefill, 'nowhere', classRank.voice))).toBeLessThan(40);
    add(prefill, 2070, 85);
    add(prefill, 2070, 85);
    expect(prefill.step(model, 'nowhere', Infinity, 2)!.numTokens).toBeLessThan(60);
  });

  it('does not let a longer prompt grow its chunks', () => {
    add(prefill, 1000, 1000);
    const lengths = compute(prefill, 'nowhere');
    let past = 1000;
    for (const length of lengths) {
      expect(costMs(length, past)).toBeLessThan(28 * 1.5 + 1);
      past += length;
    }
    expect(costMs(lengths[0]!, 1000)).toBeLessThan(29);
  });
});
