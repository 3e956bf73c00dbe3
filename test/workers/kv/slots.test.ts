import { describe, expect, it } from 'vitest';
import { SlotTable } from '../../../workers/kv/slots.ts';

/** Marks without memory: slot → tokens ever written, under a budget for their sum. */
function budget(total: number) {
  const marks = new Map<number, number>();
  return {
    mark: (slot: number) => marks.get(slot) ?? 0,
    reserve(slot: number, length: number) {
      const used = [...marks.values()].reduce((a, b) => a + b, 0);
      const growth = Math.max(0, length - (marks.get(slot) ?? 0));
      if (used + growth > total) return false;
      marks.set(slot, Math.max(length, marks.get(slot) ?? 0));
      return true;
    },
  };
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

describe('SlotTable', () => {
  it('takes the free slot with the smallest sufficient mark', () => {
    const memory = budget(10_000);
    memory.reserve(4, 1000);
    memory.reserve(5, 200);
    const table = new SlotTable(4, 3, memory);
    expect(table.allocate(150)).toBe(5);
    expect(table.allocate(150)).toBe(4);
    expect(table.allocate(150)).toBe(6);
    expect(table.allocate(1)).toBe(null);
    expect(table.numBusy).toBe(3);
  });

  it('admits nothing whose growth exceeds the budget', () => {
    const table = new SlotTable(0, 4, budget(100));
    expect(table.allocate(80)).toBe(0);
    expect(table.allocate(40)).toBe(null);
    expect(table.allocate(20)).toBe(1);
  });

  it('evicts resident slots nobody asks for by name first, then the longest unused', () => {
    const table = new SlotTable(0, 3, budget(1000));
    for (let i = 0; i < 3; i++) table.allocate(10);
    table.keep(0, { tenant: 't', session: 's', parked: 0, ids: range(0, 10) });
    table.keep(1, { tenant: 't', session: '', parked: 0, ids: range(100, 110) });
    table.keep(2, { tenant: 't', session: '', parked: 0, ids: range(200, 210) });
    expect(table.numResident).toBe(3);
    expect([table.allocate(10), table.allocate(10), table.allocate(10)]).toEqual([1, 2, 0]);
  });

  it('keeps what the prompts of a tenant share most longer than sessions, and only that', () => {
    const table = new SlotTable(0, 5, budget(1000));
    const copy = (slot: number, times: number): void => {
      for (let i = 0; i < times; i++) {
        table.pin(slot);
        table.unpin(slot);
      }
    };
    for (let i = 0; i < 5; i++) table.allocate(10);
    table.keep(0, { tenant: 'a', session: '', parked: 0, ids: range(0, 10) });
    table.keep(1, { tenant: 'a', session: '', parked: 0, ids: range(100, 110) });
    table.keep(2, { tenant: 'b', session: '', parked: 0, ids: range(0, 10) });
    table.keep(3, { tenant: 'a', session: 's', parked: 0, ids: range(200, 210) });
    table.keep(4, { tenant: 'a', session: '', parked: 9, ids: range(300, 310) });
    copy(0, 5);
    copy(1, 4);
    // Once is no sharing.
    copy(2, 1);
    expect(Array.from({ length: 5 }, () => table.allocate(10))).toEqual([1, 2, 3, 0, 4]);
  });

  it('remembers how often a slot was shared while a sequence lives in it', () => {
    const table = new SlotTable(0, 3, budget(1000));
    for (let i = 0; i < 3; i++) table.allocate(10);
    for (let slot = 0; slot < 3; slot++) table.keep(slot, { tenant: 'a', session: '', parked: 0, ids: range(0, 10) });
    for (let i = 0; i < 3; i++) {
      table.pin(0);
      table.unpin(0);
    }
    expect(table.take(0, 20)).toBe(true);
    table.keep(0, { tenant: 'a', session: '', parked: 0, ids: range(0, 20) });
    expect([table.allocate(10), table.allocate(10), table.allocate(10)]).toEqual([1, 2, 0]);
  });

  it('finds the longest common prefix of the same tenant and leaves two tokens to compute', () => {
    const table = new SlotTable(0, 3, budget(1000));
    for (let i = 0; i < 3; i++) table.allocate(10);
    table.keep(0, { tenant: 'a', session: '', parked: 0, ids: range(0, 30) });
    table.keep(1, { tenant: 'a', session: '', parked: 0, ids: range(0, 50) });
    table.keep(2, { tenant: 'b', session: '', parked: 0, ids: range(0, 90) });
    expect(table.findPrefix('a', '', range(0, 80))).toEqual({ slot: 1, length: 50, inPlace: true });
    expect(table.findPrefix('a', '', range(0, 40))).toEqual({ slot: 1, length: 38, inPlace: false });
    expect(table.findPrefix('c', '', range(0, 40))).toBe(null);
    expect(table.findPrefix('a', '', range(0, 10))).toBe(null);
  });

  it('continues in place only for the session that left the slot', () => {
    const table = new SlotTable(0, 2, budget(1000));
    table.allocate(50);
    table.keep(0, { tenant: 'a', session: 's1', parked: 0, ids: range(0, 40) });
    expect(table.findPrefix('a', 's1', range(0, 60))?.inPlace).toBe(true);
    expect(table.findPrefix('a', 's2', range(0, 60))?.inPlace).toBe(false);
  });

  it('neither evicts nor takes over a slot that is being copied from', () => {
    const table = new SlotTable(0, 1, budget(1000));
    table.allocate(50);
    table.keep(0, { tenant: 'a', session: '', parked: 0, ids: range(0, 40) });
    table.pin(0);
    expect(table.allocate(10)).toBe(null);
    expect(table.take(0, 10)).toBe(false);
    table.unpin(0);
    expect(table.take(0, 10)).toBe(true);
  });

  it('gives the homes of parked requests away last, and back to their request until then', () => {
    const table = new SlotTable(0, 2, budget(1000));
    table.allocate(10);
    table.allocate(10);
    table.keep(0, { tenant: 't', session: '', parked: 7, ids: range(0, 40) });
    table.keep(1, { tenant: 't', session: 's', parked: 0, ids: range(100, 110) });
    expect(table.findPrefix('t', '', range(0, 60))).toMatchObject({ slot: 0, inPlace: false });
    expect(table.allocate(10)).toBe(1);
    expect(table.takeParked(7)).toBe(0);
    table.keep(0, { tenant: 't', session: '', parked: 7, ids: range(0, 40) });
    expect(table.allocate(10)).toBe(0);
    expect(table.takeParked(7)).toBe(null);
  });

  it('forgets a session, but not under a copy', () => {
    const table = new SlotTable(0, 2, budget(1000));
    table.allocate(50);
    table.keep(0, { tenant: 'a', session: 's', parked: 0, ids: range(0, 40) });
    table.pin(0);
    table.forget('s');
    expect(table.numResident).toBe(1);
    table.unpin(0);
    expect(table.findPrefix('a', 's', range(0, 60))).toMatchObject({ slot: 0 });
    table.take(0, 10);
    table.keep(0, { tenant: 'a', session: 's', parked: 0, ids: range(0, 40) });
    table.forget('s');
    expect(table.numResident).toBe(0);
  });

  it('lends out what a home holds of its sequence so far, and never gives that home away', () => {
    const table = new SlotTable(0, 1, budget(1000));
    expect(table.allocate(50)).toBe(0);
    expect(table.findPrefix('a', '', range(0, 60))).toBe(null);
    const occupant = { meta: { tenant: 'a', session: '' }, ids: range(0, 50), homeLength: 10 };
    table.seat(0, occupant);
    expect(table.findPrefix('a', '', range(0, 60))).toBe(null);
    occupant.homeLength = 30;
    expect(table.findPrefix('a', '', range(0, 60))).toEqual({ slot: 0, length: 30, inPlace: false });
    expect(table.findPrefix('b', '', range(0, 60))).toBe(null);
    expect(table.take(0, 10)).toBe(false);
    expect(table.allocate(10)).toBe(null);
  });

  it('holds a slot that is being copied from until the copy ends, whatever becomes of its sequence', () => {
    for (const end of ['keep', 'free'] as const) {
      const table = new SlotTable(0, 1, budget(1000));
      table.allocate(50);
      table.seat(0, { meta: { tenant: 'a', session: '' }, ids: range(0, 50), homeLength: 40 });
      table.pin(0);
      if (end === 'keep') table.keep(0, { tenant: 'a', session: '', parked: 0, ids: range(0, 40) });
      else table.free(0);
      expect(table.allocate(10)).toBe(null);
      expect(table.take(0, 10)).toBe(false);
      table.unpin(0);
      expect(table.allocate(10)).toBe(0);
    }
  });
});
