import { describe, expect, it } from 'vitest';
import type { LatencyClass } from '../../protocol/messages.ts';
import { Flag } from '../../workers/messages/requests.ts';
import { EngineKit } from './support/engine-kit.ts';

const CLASSES: readonly LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];
const reader = { ignoreEos: true, maxTokens: 150 } as const;

/** Requests of other tenants and classes without end: as soon as one is over, the next one waits. */
class Crowd {
  readonly #kit: EngineKit;
  readonly #ids: number[] = [];
  #count = 0;

  constructor(kit: EngineKit) {
    this.#kit = kit;
  }

  step(): void {
    while (this.#ids.length < 2 * this.#kit.layout.rowsPerWorker * this.#kit.workers.length) {
      const i = this.#count++;
      const options = { tenant: `t${i % 3}`, class: CLASSES[i % 4]!, maxTokens: 20 + ((i * 13) % 60), ignoreEos: true };
      this.#ids.push(this.#kit.submit(`${i} ${'x'.repeat((i * 37) % 90)}`, options));
    }
    this.#kit.step(this.#kit.steps % this.#kit.workers.length);
    for (let k = this.#ids.length - 1; k >= 0; k--) {
      if (this.#kit.outcome(this.#ids[k]!).ends.length > 0) this.#ids.splice(k, 1);
    }
  }

  leave(): void {
    for (const id of this.#ids) this.#kit.cancel(id);
  }
}

/** Steps the kit with its crowd until the request has so many tokens; returns how many steps that took. */
function until(kit: EngineKit, crowd: Crowd, id: number, numTokens: number): number {
  const from = kit.steps;
  while (kit.outcome(id).tokens.length < numTokens && kit.steps - from < 20_000) crowd.step();
  return kit.steps - from;
}

describe('Engine › parking', { timeout: 30_000 }, () => {
  it.each(['chat', 'batch'] as const)(
    'lets %s that is read again go on soon, whatever else wants its place',
    (which) => {
      const kit = new EngineKit({ workers: 2, rows: 4, homes: 12 });
      const crowd = new Crowd(kit);
      const id = kit.submit('the reader', { ...reader, class: which, tenant: 't0' });
      until(kit, crowd, id, 50);
      kit.flag(id, Flag.park);
      for (let i = 0; i < 100; i++) crowd.step();
      const atPark = kit.outcome(id).tokens.length;
      expect(atPark).toBeLessThan(60);
      kit.flag(id, Flag.run);
      expect(until(kit, crowd, id, atPark + 1)).toBeLessThan(300);
      // A turn in a row is at least 16 tokens; it has more than a few of them between two waits.
      expect(until(kit, crowd, id, 150)).toBeLessThan(1200);
      const alone = new EngineKit().answer('the reader', reader);
      expect(kit.outcome(id).tokens).toEqual(alone.tokens);
      crowd.leave();
      kit.run();
    },
  );

  it('takes a copy of what it had where others are copying from its home, and is not computed again', () => {
    const kit = new EngineKit({ rows: 4, homes: 6, maxLen: 2048 });
    const prompt = 'system '.repeat(150);
    const id = kit.submit(`${prompt}the reader`, reader);
    for (let i = 0; i < 40; i++) kit.step(0);
    kit.flag(id, Flag.park);
    for (let i = 0; i < 10; i++) kit.step(0);
    const computed = kit.numPrefilled;
    kit.flag(id, Flag.run);
    const other = kit.submit(`${prompt}somebody else`, { class: 'voice', maxTokens: 3 });
    kit.run();
    expect(kit.outcome(other).cachedTokens).toBeGreaterThan(1000);
    expect(kit.outcome(id).tokens).toHaveLength(150);
    expect(kit.numPrefilled - computed).toBeLessThan(100);
  });
});
