import { describe, expect, it } from 'vitest';
import { latencyClasses } from '../../protocol/messages.ts';
import type { LatencyClass } from '../../protocol/messages.ts';
import { WaitingQueue } from '../../workers/queue.ts';
import { Shares, type Claim } from '../../workers/shares.ts';
import { random } from '../support/random.ts';

const seed = Number(process.env.SEED ?? 20261122);

interface Item {
  meta: Claim & { id: number };
  cost: number;
}

let nextId = 1;
const item = (tenant: string, latencyClass: LatencyClass = 'chat', weight = 1, cost = 100): Item => ({
  meta: { id: nextId++, tenant, weight, class: latencyClass },
  cost,
});

/** Serves the next request whole and says which it was. */
function serve(queue: WaitingQueue<Item>, shares: Shares): Item {
  const next = queue.peek()!;
  shares.charge(next.meta, next.cost);
  queue.remove(next);
  return next;
}

function newQueue(): { queue: WaitingQueue<Item>; shares: Shares } {
  const shares = new Shares();
  return { queue: new WaitingQueue<Item>(shares), shares };
}

describe('WaitingQueue', () => {
  it('serves the classes of one tenant in their order, and each in the order of arrival', () => {
    const { queue, shares } = newQueue();
    const items = (['batch', 'chat', 'voice', 'chat', 'ide', 'voice'] as const).map((each) => item('t', each, 1, 1));
    for (const each of items) queue.add(each);
    const order = items.map(() => items.indexOf(serve(queue, shares)));
    expect(order).toEqual([2, 5, 4, 1, 3, 0]);
    expect(queue.peek()).toBeUndefined();
    expect(queue.size).toBe(0);
  });

  it('lets what was running before go first in its class, and nowhere else', () => {
    const { queue, shares } = newQueue();
    const [old, back, urgent] = [item('t'), item('t'), item('t', 'voice')];
    queue.add(old);
    queue.add(urgent);
    queue.putBack(back);
    expect([serve(queue, shares), serve(queue, shares), serve(queue, shares)]).toEqual([urgent, back, old]);
  });

  it('passes over who cannot be served yet until the next round', () => {
    const { queue } = newQueue();
    const [first, second, third] = [item('t'), item('t'), item('t')];
    for (const each of [first, second, third]) queue.add(each);
    queue.beginRound();
    queue.pass(queue.peek()!);
    queue.pass(queue.peek()!);
    expect(queue.peek()).toBe(third);
    queue.remove(first);
    expect(queue.peek()).toBe(third);
    queue.remove(third);
    expect(queue.peek()).toBeUndefined();
    queue.beginRound();
    expect(queue.peek()).toBe(second);
  });

  it('lets an heir stand where another one stood', () => {
    const { queue } = newQueue();
    const [first, heir, last] = [item('t'), item('t'), item('t')];
    queue.add(first);
    queue.add(last);
    queue.replace(first, heir);
    expect(queue.peek()).toBe(heir);
    queue.remove(heir);
    queue.remove(last);
    expect(queue.size).toBe(0);
  });

  it('lets a newcomer pass a tenant that has been served all the time', () => {
    const { queue, shares } = newQueue();
    for (let i = 0; i < 50; i++) queue.add(item('greedy'));
    for (let i = 0; i < 20; i++) serve(queue, shares);
    const newcomer = item('small');
    queue.add(newcomer);
    const served = [serve(queue, shares), serve(queue, shares)];
    expect(served).toContain(newcomer);
  });

  it('gives nobody a right to be first for having been away', () => {
    const { queue, shares } = newQueue();
    queue.add(item('b'));
    for (let i = 0; i < 200; i++) queue.add(item('a'));
    for (let i = 0; i < 100; i++) serve(queue, shares);
    for (let i = 0; i < 100; i++) queue.add(item('b'));
    const tenants = Array.from({ length: 40 }, () => serve(queue, shares).meta.tenant);
    expect(tenants.filter((tenant) => tenant === 'a').length).toBeGreaterThanOrEqual(19);
  });

  it('holds nothing against a tenant that used what nobody else wanted', () => {
    const { queue, shares } = newQueue();
    for (let i = 0; i < 100; i++) {
      queue.add(item('a', 'chat', 1, 5000));
      serve(queue, shares);
    }
    expect(shares.numTenants).toBe(0);
    for (let i = 0; i < 10; i++) queue.add(item('b'));
    for (let i = 0; i < 10; i++) queue.add(item('a'));
    const tenants = Array.from({ length: 10 }, () => serve(queue, shares).meta.tenant);
    expect(tenants.filter((tenant) => tenant === 'a')).toHaveLength(5);
  });

  it('lets an urgent request of a tenant pass as far as its head start, and no further', () => {
    const { queue, shares } = newQueue();
    for (let i = 0; i < 100; i++) queue.add(item('talker', 'voice'));
    for (let i = 0; i < 100; i++) queue.add(item('writer', 'chat'));
    const served = Array.from({ length: 100 }, () => serve(queue, shares).meta.tenant);
    const first = served.indexOf('writer');
    expect(first).toBeGreaterThan(10);
    expect(first).toBeLessThan(25);
    const later = served.slice(first);
    expect(later.filter((tenant) => tenant === 'writer').length / later.length).toBeCloseTo(0.5, 1);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'shares by weight what all want, whatever each request costs (offset %i)',
    (offset) => {
      const next = random(seed + offset);
      const { queue, shares } = newQueue();
      const weights = Array.from({ length: 2 + Math.floor(next() * 5) }, () => 1 + Math.floor(next() * 4));
      const got = weights.map(() => 0);
      const refill = (tenant: number): void =>
        queue.add(item(String(tenant), latencyClasses[Math.floor(next() * 4)], weights[tenant], 1 + next() * 400));
      for (const tenant of weights.keys()) for (let i = 0; i < 5; i++) refill(tenant);
      for (let i = 0; i < 6000; i++) {
        const { meta, cost } = serve(queue, shares);
        got[Number(meta.tenant)]! += cost;
        refill(Number(meta.tenant));
      }
      const total = got.reduce((sum, each) => sum + each, 0);
      const all = weights.reduce((sum, each) => sum + each, 0);
      for (const [tenant, weight] of weights.entries()) {
        expect(got[tenant]! / total / (weight / all), `seed ${seed + offset}, tenant ${tenant}`).toBeCloseTo(1, 1);
      }
    },
  );

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('starves nobody, whoever comes and goes (offset %i)', (offset) => {
    const next = random(seed + offset);
    const { queue, shares } = newQueue();
    const waitedSince = new Map<Item, number>();
    const enter = (at: number, tenant: string, latencyClass: LatencyClass, weight: number): void => {
      const each = item(tenant, latencyClass, weight, 1 + next() * 300);
      waitedSince.set(each, at);
      queue.add(each);
    };
    // Four requests of the lowest classes among a flood of urgent ones of the same and of other tenants.
    const patient = ['t0', 't1', 'small', 'tiny'];
    for (const tenant of patient) enter(0, tenant, 'batch', tenant === 'tiny' ? 0.5 : 1);
    const low = new Set(waitedSince.keys());
    let longest = 0;
    for (let step = 1; step <= 4000; step++) {
      for (let i = next() < 0.5 ? 1 : 2; i > 0; i--) {
        enter(step, `t${Math.floor(next() * 3)}`, latencyClasses[Math.floor(next() * 3)]!, 1);
      }
      const served = serve(queue, shares);
      if (low.delete(served)) longest = step;
      waitedSince.delete(served);
    }
    expect(
      [...low].map(({ meta }) => meta.tenant),
      `seed ${seed + offset}`,
    ).toEqual([]);
    expect(longest).toBeLessThan(1000);
  });

  it.each([1, 2, 3, 4])('keeps clocks of those only who wait or are ahead (offset %i)', (offset) => {
    const next = random(seed + offset);
    const { queue, shares } = newQueue();
    queue.add(item('always'));
    for (let i = 0; i < 3000; i++) {
      queue.add(item(`tenant ${i}`, latencyClasses[Math.floor(next() * 4)]));
      serve(queue, shares);
      if (!queue.items().some(({ meta }) => meta.tenant === 'always')) queue.add(item('always'));
    }
    expect(shares.numTenants, `seed ${seed + offset}`).toBeLessThan(queue.size + 50);
    while (queue.size > 0) serve(queue, shares);
    expect(shares.numTenants).toBe(0);
  });
});
