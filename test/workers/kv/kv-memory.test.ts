import { describe, expect, it } from 'vitest';
import { allocateShared, formatBytes, planLayout } from '../../../src/engine/memory.ts';
import { KvMemory } from '../../../workers/kv/kv-memory.ts';
import { kvArray, kvBytesPerToken, kvTypes } from '../../../workers/messages/models.ts';

const shape = {
  numLayers: 2,
  numKvHeads: 3,
  headDim: 4,
  vocabSize: 10,
  maxPositions: 128,
  kvType: 'float32',
} as const;
const layout = { rowsPerWorker: 1, numWorkers: 1, numSlots: 4, maxLen: 16, budgetTokens: 40 };

describe('KvMemory', () => {
  it.each(kvTypes)('copies the %s positions of one slot to another in all layers and heads only', (kvType) => {
    const typed = { ...shape, kvType };
    const shared = allocateShared(typed, layout, 1);
    const memory = new KvMemory(typed, layout, shared, 0, true);
    const views = shared.kv.map((buffer) => kvArray(kvType, buffer));
    // Every value another one, as far as 8 bits reach.
    for (const [layer, view] of views.entries()) for (let i = 0; i < view.length; i++) view[i] = (layer * 31 + i) % 127;
    const before = views.map((view) => view.slice());
    memory.claim(2);
    memory.copy(1, 2, 3, 7);
    const slotSize = shape.numKvHeads * layout.maxLen * shape.headDim;
    for (const [layer, view] of views.entries()) {
      for (let i = 0; i < view.length; i++) {
        const position = Math.floor(i / shape.headDim) % layout.maxLen;
        const isCopied = Math.floor(i / slotSize) === 2 && position >= 3 && position < 7;
        expect(view[i]).toBe(before[layer]![isCopied ? i - slotSize : i]);
      }
    }
  });

  it('refuses to write a slot that belongs to another worker', () => {
    const shared = allocateShared(shape, layout, 1);
    const mine = new KvMemory(shape, layout, shared, 0, true);
    const others = new KvMemory(shape, layout, shared, 1, true);
    others.claim(2);
    expect(() => mine.copy(1, 2, 0, 1)).toThrow('slot 2 belongs to worker 1, not 0');
    mine.claim(2);
    expect(() => mine.copy(1, 2, 0, 1)).not.toThrow();
  });

  it('keeps the sum of high-water marks below the budget, over all workers', () => {
    const shared = allocateShared(shape, layout, 1);
    const one = new KvMemory(shape, layout, shared, 0, false);
    const two = new KvMemory(shape, layout, shared, 1, false);
    expect(one.reserve(0, 10)).toBe(true);
    expect(one.mark(0)).toBe(16); // marks grow in blocks, up to the slot's end
    expect(two.reserve(1, 16)).toBe(true);
    expect(two.reserve(2, 1)).toBe(false);
    expect(one.reserve(0, 16)).toBe(true);
    expect(two.usedTokens).toBe(32);
  });
});

describe('planLayout', () => {
  it('names the MAX_CONTEXT that fits when one full sequence does not', () => {
    const options = { workers: 2, slots: 64, maxContext: 4096, kvMemoryBytes: 100 << 20 };
    const big = {
      numLayers: 22,
      numKvHeads: 4,
      headDim: 64,
      vocabSize: 32_000,
      maxPositions: 4096,
      kvType: 'float32',
    } as const;
    expect(kvBytesPerToken(big)).toBe(45_056);
    expect(kvBytesPerToken({ ...big, kvType: 'int8' })).toBe(11_264);
    expect(() => planLayout(big, options)).toThrow(
      'set MAX_CONTEXT=1152 or less, or set KV_TYPE=int8, or raise KV_MEMORY',
    );
    expect(planLayout(big, { ...options, maxContext: 1152 }).maxLen).toBe(1152);
    expect(planLayout({ ...big, kvType: 'int8' }, options).maxLen).toBe(4096);
  });

  it('splits the slots into decode ranges and homes, and gives some homes to spare', () => {
    const options = { workers: 2, slots: 64, maxContext: 4096, kvMemoryBytes: 1 << 30 };
    expect(planLayout(shape, options)).toMatchObject({ rowsPerWorker: 16, numSlots: 72, maxLen: 128 });
    expect(planLayout(shape, { ...options, slots: 100, workers: 3 })).toMatchObject({
      rowsPerWorker: 16,
      numSlots: 112,
    });
    expect(planLayout(shape, { ...options, slots: 1 })).toMatchObject({ rowsPerWorker: 1, numSlots: 4 });
  });

  it('writes sizes for people', () => {
    expect([formatBytes(512), formatBytes(2 ** 31), formatBytes(1.5 * 2 ** 20)]).toEqual(['512 B', '2 GiB', '1.5 MiB']);
  });
});
