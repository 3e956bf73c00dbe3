// Prefix reuse as a contract: what many prompts have in common is computed once, whenever they arrive, and never given
// to another tenant. The kit counts every prompt token that is computed.
import { describe, expect, it } from 'vitest';
import { random } from '../support/random.ts';
import { EngineKit } from './support/engine-kit.ts';

const seed = Number(process.env.SEED ?? 20261122);
const SHARED = Array.from({ length: 1000 }, (_, i) => 97 + ((i * i) % 23));
const OWN = 12;

/** 1,000 tokens that all begin with, then some of its own. */
const promptOf = (index: number): number[] => [
  ...SHARED,
  ...Array.from({ length: OWN }, (_, i) => 65 + ((index + i) % 26)),
];
const roomy = { rows: 8, homes: 8, maxLen: 1200 };

describe('Prefix reuse', () => {
  it.each([1, 2])(
    'computes what 100 prompts begin with once when all arrive at the same moment (%i workers)',
    (workers) => {
      const kit = new EngineKit({ ...roomy, workers });
      const ids = Array.from({ length: 100 }, (_, i) => kit.submit(promptOf(i), { session: `s${i}`, maxTokens: 8 }));
      kit.run();
      const cached = ids.map((id) => kit.outcome(id).cachedTokens);
      expect(cached[0]).toBe(0);
      for (const [i, tokens] of cached.entries()) if (i > 0) expect(tokens).toBeGreaterThanOrEqual(SHARED.length);
      expect(kit.numPrefilled).toBeLessThanOrEqual(SHARED.length + 100 * OWN);
      const alone = new EngineKit(roomy).answer(promptOf(57), { maxTokens: 8 }).text;
      expect(kit.outcome(ids[57]!).text).toBe(alone);
    },
  );

  it('copies from a sequence that is still decoding', () => {
    const kit = new EngineKit(roomy);
    const first = kit.submit(promptOf(0), { ignoreEos: true, maxTokens: 150 });
    while (kit.outcome(first).tokens.length < 3) kit.step(0);
    const second = kit.submit(promptOf(1), { maxTokens: 4 });
    while (kit.outcome(second).ends.length === 0) kit.step(0);
    expect(kit.outcome(first).ends).toEqual([]);
    expect(kit.outcome(second).cachedTokens).toBe(SHARED.length);
    kit.run();
    const alone = new EngineKit(roomy).answer(promptOf(0), { ignoreEos: true, maxTokens: 150 }).text;
    expect(kit.outcome(first).text).toBe(alone);
  });

  it('takes what is ready and goes on itself when the prompt it waited for is cancelled', () => {
    const kit = new EngineKit({ ...roomy, prefillUsPerToken: 100 });
    const first = kit.submit(promptOf(0));
    const second = kit.submit(promptOf(1), { maxTokens: 4 });
    // Chunks are sized by time, so a busy machine gets smaller ones.
    while (kit.numPrefilled <= 16) kit.step(0);
    expect(kit.outcome(second).cachedTokens).toBe(-1);
    const ready = kit.numPrefilled;
    expect(ready).toBeLessThan(SHARED.length);
    kit.cancel(first);
    kit.run();
    expect(kit.outcome(second)).toMatchObject({ ends: ['length'], cachedTokens: ready });
    expect(kit.numPrefilled).toBe(SHARED.length + OWN);
  });

  it('lends its urgency to the prompt it waits for', () => {
    const kit = new EngineKit({ ...roomy, prefillUsPerToken: 100 });
    const slow = kit.submit(promptOf(0), { class: 'batch' });
    const other = Array.from({ length: 900 }, (_, i) => 65 + (i % 7));
    kit.step(0);
    const chat = kit.submit(other, { class: 'chat', maxTokens: 1 });
    const voice = kit.submit(promptOf(1), { class: 'voice', maxTokens: 1 });
    kit.run();
    expect(kit.outcome(voice).cachedTokens).toBe(SHARED.length);
    expect(kit.outcome(voice).endedAtStep).toBeLessThan(kit.outcome(chat).endedAtStep);
    expect(kit.outcome(slow).ends).toHaveLength(1);
  });

  it('lets the lead not sleep over those that waited', () => {
    const kit = new EngineKit({ ...roomy, workers: 2 });
    kit.step(1);
    const first = kit.submit(promptOf(0), { ignoreEos: true, maxTokens: 100 });
    const second = kit.submit(promptOf(1), { maxTokens: 3 });
    let isBusy = true;
    while (kit.outcome(first).tokens.length === 0) isBusy = kit.step(0);
    expect(isBusy).toBe(true);
    kit.run();
    expect(kit.outcome(second).cachedTokens).toBe(SHARED.length);
  });

  it.each([1, 2])('lets a turn wait until the answer before it has come home (%i workers)', (workers) => {
    const kit = new EngineKit({ ...roomy, workers });
    const options = { session: 's', ignoreEos: true, maxTokens: 20 };
    const answer = new EngineKit(roomy).answer(promptOf(0), options).tokens;
    const first = kit.submit(promptOf(0), options);
    const second = kit.submit([...promptOf(0), ...answer, ...promptOf(1).slice(1000)], options);
    kit.run();
    expect(kit.outcome(first).tokens).toEqual(answer);
    // The KV of the last token sampled was never computed.
    expect(kit.outcome(second).cachedTokens).toBe(1000 + OWN + answer.length - 1);
    expect(kit.gauges.residentSlots).toBe(1);
  });

  it('neither shares with nor waits for another tenant', () => {
    const kit = new EngineKit(roomy);
    const ids = ['a', 'b', 'c'].map((tenant, i) => kit.submit(promptOf(i), { tenant, maxTokens: 3 }));
    kit.run();
    expect(ids.map((id) => kit.outcome(id).cachedTokens)).toEqual([0, 0, 0]);
    expect(kit.numPrefilled).toBe(3 * (SHARED.length + OWN));
  });

  it.each([1, 2, 3, 4])('changes no text under random arrivals and cancels (seed offset %i)', (offset) => {
    const next = random(seed + offset);
    const pick = (count: number): number => Math.floor(next() * count);
    const workers = 1 + (offset % 3);
    const kit = new EngineKit({ workers, rows: 3, homes: 4 * workers, maxLen: 1400, prefillUsPerToken: 20 });
    const prompts = Array.from({ length: 30 }, (_, i) => [
      ...SHARED.slice(0, pick(2) === 0 ? 1000 : pick(1000)),
      ...promptOf(i).slice(1000),
    ]);
    const ids: number[] = [];
    const cancelled = new Set<number>();
    for (const [i, prompt] of prompts.entries()) {
      ids.push(kit.submit(prompt, { maxTokens: 1 + pick(60), session: pick(2) === 0 ? `s${i}` : '', ignoreEos: true }));
      for (let k = pick(5); k > 0; k--) kit.step(pick(workers));
      if (next() >= 0.25) continue;
      const victim = ids[pick(ids.length)]!;
      cancelled.add(victim);
      kit.cancel(victim);
    }
    kit.run(() => pick(workers));
    for (const [i, id] of ids.entries()) {
      const { ends, tokens } = kit.outcome(id);
      expect(ends, `seed ${seed + offset}`).toHaveLength(1);
      const alone = new EngineKit({ maxLen: 1400 }).answer(prompts[i]!, { maxTokens: 61, ignoreEos: true }).tokens;
      expect(tokens, `seed ${seed + offset}, request ${i}`).toEqual(alone.slice(0, tokens.length));
      if (!cancelled.has(id)) expect(ends).toEqual(['length']);
    }
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it('keeps what is copied from a home whose decode worker died', () => {
    const kit = new EngineKit({ ...roomy, workers: 2 });
    const ids = Array.from({ length: 6 }, (_, i) => kit.submit(promptOf(i), { ignoreEos: true, maxTokens: 150 }));
    for (let i = 0; i < 60; i++) kit.step(i % 2);
    const late = Array.from({ length: 3 }, (_, i) => kit.submit(promptOf(10 + i), { maxTokens: 5 }));
    kit.spawn(1);
    kit.post(0, { op: 'lost', index: 1 });
    kit.connect(1);
    kit.run();
    for (const id of [...ids, ...late]) expect(kit.outcome(id).ends).toHaveLength(1);
    for (const id of late) expect(kit.outcome(id).cachedTokens).toBe(SHARED.length);
  });
});
