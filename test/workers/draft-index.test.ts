import { describe, expect, it } from 'vitest';
import { DraftIndex } from '../../workers/draft-index.ts';
import { seededRandom } from './model/checkpoint.ts';

function propose(index: DraftIndex, ids: number[], count: number): number[] {
  const draft = new Int32Array(count);
  return [...draft.subarray(0, index.propose(ids, draft))];
}

/** What the index should find, by looking through everything. */
function byScan(ids: number[], count: number): number[] {
  for (const length of [4, 3, 2, 1]) {
    for (let end = ids.length - 1; end >= length; end--) {
      if (!ids.slice(end - length, end).every((id, i) => id === ids[ids.length - length + i])) continue;
      const copy = [...ids];
      for (let i = 0; i < count; i++) copy.push(copy[end + i]!);
      return copy.slice(ids.length);
    }
  }
  return [];
}

describe('DraftIndex', () => {
  it('goes on as the latest place did where the same tokens stood', () => {
    const index = new DraftIndex();
    expect(propose(index, [1, 2, 3, 9, 8, 1, 2, 3, 7, 6, 5, 1, 2, 3], 3)).toEqual([7, 6, 5]);
    expect(index.matchLength).toBe(3);
  });

  it('prefers the longer match to the later one', () => {
    const index = new DraftIndex();
    expect(propose(index, [5, 1, 2, 3, 40, 41, 2, 3, 50, 51, 1, 2, 3], 2)).toEqual([40, 41]);
  });

  it('continues a loop beyond the end of what is there', () => {
    expect(propose(new DraftIndex(), [9, 1, 2, 1, 2], 5)).toEqual([1, 2, 1, 2, 1]);
    expect(propose(new DraftIndex(), [4, 4], 3)).toEqual([4, 4, 4]);
  });

  it('proposes nothing for what never occurred', () => {
    const index = new DraftIndex();
    expect(propose(index, [], 3)).toEqual([]);
    expect(propose(index, [1], 3)).toEqual([]);
    expect(propose(index, [1, 2, 3], 3)).toEqual([]);
    expect(index.matchLength).toBe(0);
  });

  it('forgets a sequence when told to', () => {
    const index = new DraftIndex();
    propose(index, [1, 2, 3, 1], 1);
    index.clear();
    expect(propose(index, [7, 8, 1], 1)).toEqual([]);
  });

  it('finds what a search through everything finds, while the sequence grows by one or by several', () => {
    const seed = Number(process.env.SEED ?? 7);
    const next = seededRandom(seed);
    for (let round = 0; round < 40; round++) {
      const index = new DraftIndex();
      const vocabulary = 2 + Math.floor(next() * 30);
      const ids: number[] = [];
      while (ids.length < 120) {
        for (let n = 1 + Math.floor(next() * 5); n > 0; n--) ids.push(Math.floor(next() * vocabulary));
        expect(propose(index, ids, 5), `seed ${seed}, ${ids.join()}`).toEqual(byScan(ids, 5));
      }
    }
  });
});
