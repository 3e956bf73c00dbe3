import { describe, expect, it } from 'vitest';
import { KvPot } from '../../../src/engine/kv-pot.ts';
import { allocateShared } from '../../../src/engine/memory.ts';
import { KvMemory } from '../../../workers/kv/kv-memory.ts';
import { kvBytesPerToken } from '../../../workers/messages/models.ts';

const MIB = 1 << 20;
const demand = (floorMib: number, bytesPerToken = 1024) => ({
  floorTokens: (floorMib * MIB) / bytesPerToken,
  bytesPerToken,
});
const shape = {
  numLayers: 1,
  numKvHeads: 1,
  headDim: 8,
  vocabSize: 10,
  maxPositions: 4096,
  kvType: 'float32',
} as const;
const bytesPerToken = kvBytesPerToken(shape);

/** A model with `slots` slots of 4,096 tokens, as its workers see it. */
function model(pot: KvPot, slots: number) {
  const layout = { rowsPerWorker: 1, numWorkers: 1, numSlots: slots, maxLen: 4096, budgetTokens: slots * 4096 };
  const share = pot.open({ floorTokens: 2 * 4096, bytesPerToken });
  const shared = allocateShared(shape, layout, 1, share.shared);
  const workers = [0, 1].map((worker) => new KvMemory(shape, layout, shared, worker, false));
  return { share, workers };
}

describe('KvPot', () => {
  it('gives every model its first part, and says what would fit instead of one too many', () => {
    const pot = new KvPot(10 * MIB);
    const first = pot.open(demand(4));
    pot.open(demand(4));
    expect(pot.freeBytes).toBe(2 * MIB);
    expect(() => pot.open(demand(3))).toThrow(
      'one full context needs 3 MiB of KV memory, and 2 MiB of 10 MiB are free: a context of 1024 tokens would fit, or unload another model, or raise KV_MEMORY',
    );
    expect(pot.freeBytes).toBe(2 * MIB);
    pot.close(first);
    pot.close(first);
    expect(pot.freeBytes).toBe(6 * MIB);
    expect(() => pot.open(demand(6))).not.toThrow();
  });

  it('lets the only model take all but the room for one more', () => {
    const pot = new KvPot(64 * MIB);
    const { share, workers } = model(pot, 400);
    let numSlots = 0;
    while (workers[numSlots % 2]!.reserve(numSlots, 4096)) numSlots++;
    expect(share.bytes + pot.freeBytes).toBe(64 * MIB);
    expect(pot.freeBytes).toBeGreaterThanOrEqual(share.floorBytes);
    expect(pot.freeBytes).toBeLessThan(2 * share.floorBytes);
    expect(pot.refusals).toBe(1);
    expect(pot.fits(share.demand)).toBe(true);
  });

  it('keeps no such room where a context takes a large part of all', () => {
    const pot = new KvPot(MIB);
    const { workers } = model(pot, 400);
    let numSlots = 0;
    while (workers[0]!.reserve(numSlots, 4096)) numSlots++;
    expect(pot.freeBytes).toBe(0);
    expect(numSlots * 4096 * bytesPerToken).toBe(MIB);
  });

  it('leaves each of two models half of an equal part, whatever the other wants', () => {
    const pot = new KvPot(64 * MIB);
    const [greedy, modest] = [model(pot, 400), model(pot, 400)];
    let numSlots = 0;
    while (greedy!.workers[0]!.reserve(numSlots, 4096)) numSlots++;
    expect(greedy!.share.bytes).toBeGreaterThan(32 * MIB);
    let others = 0;
    while (modest!.workers[0]!.reserve(others, 4096)) others++;
    expect(modest!.share.bytes).toBeGreaterThanOrEqual(15 * MIB);
    expect(greedy!.share.bytes + modest!.share.bytes).toBeLessThanOrEqual(64 * MIB);
    pot.close(greedy!.share);
    while (modest!.workers[0]!.reserve(others, 4096)) others++;
    expect(modest!.share.bytes).toBeGreaterThan(60 * MIB);
  });

  it('never gives out more than there is, in whatever order models come, grow and go', () => {
    const seed = Date.now() % 100_000;
    let state = seed;
    const random = (below: number): number => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 1) % below;
    const total = 4 * MIB;
    const pot = new KvPot(total);
    const open: ReturnType<typeof model>[] = [];
    for (let i = 0; i < 2000; i++) {
      const kind = random(10);
      if (kind === 0 && open.length > 0) pot.close(open.splice(random(open.length), 1)[0]!.share);
      else if (kind === 1 && pot.fits({ floorTokens: 8192, bytesPerToken })) open.push(model(pot, 40));
      else if (open.length > 0) open[random(open.length)]!.workers[random(2)]!.reserve(random(40), 1 + random(4096));
      const held = open.map(({ share }) => share.bytes).reduce((a, b) => a + b, 0);
      expect(held + pot.freeBytes, `seed ${seed}, step ${i}`).toBe(total);
      for (const { share, workers } of open) {
        expect(workers[0]!.usedTokens * bytesPerToken, `seed ${seed}, step ${i}`).toBeLessThanOrEqual(share.bytes);
      }
    }
  });
});
