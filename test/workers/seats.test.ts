import { describe, expect, it } from 'vitest';
import type { LatencyClass } from '../../protocol/messages.ts';
import { Seats } from '../../workers/seats.ts';
import { Shares, type Claim, type Claimant } from '../../workers/shares.ts';

const NUM_SEATS = 4;

class House {
  readonly generated = new SharedArrayBuffer(4 * 64);
  readonly shares = new Shares();
  readonly seats = new Seats(this.generated, this.shares);
  #nextId = 1;

  claim(tenant: string, latencyClass: LatencyClass = 'chat', weight = 1): Claim {
    return { tenant, weight, class: latencyClass };
  }

  /** A sequence that has decoded this many tokens; its id. */
  seat(claim: Claim, decoded = 100): number {
    const id = this.#nextId++;
    this.seats.take(id, claim, id, 0);
    this.seats.decodes(id);
    new Int32Array(this.generated)[id] = decoded;
    return id;
  }

  victim(claim: Claim): number | null {
    return this.seats.victim(claim, NUM_SEATS);
  }
}

describe('Seats', () => {
  it('gives a tenant without a seat the last one taken by who holds too many', () => {
    const house = new House();
    const ids = [1, 2, 3, 4].map(() => house.seat(house.claim('greedy')));
    expect(house.victim(house.claim('small'))).toBe(ids[3]);
  });

  it('takes nothing from a tenant that holds no more than its share, nor for one that has its own', () => {
    const house = new House();
    for (const tenant of ['a', 'a', 'b', 'b']) house.seat(house.claim(tenant));
    expect(house.victim(house.claim('a'))).toBeNull();
    expect(house.victim(house.claim('b', 'ide'))).toBeNull();
    expect(house.victim(house.claim('c'))).toBeNull();
  });

  it('counts shares by weight', () => {
    const house = new House();
    for (let i = 0; i < 3; i++) house.seat(house.claim('heavy', 'chat', 3));
    house.seat(house.claim('light'));
    expect(house.victim(house.claim('light'))).toBeNull();
    expect(house.victim(house.claim('heavy', 'chat', 3))).toBeNull();
    const other = new House();
    const ids = [1, 2, 3, 4].map(() => other.seat(other.claim('light')));
    expect(other.victim(other.claim('heavy', 'chat', 3))).toBe(ids[3]);
  });

  it('asks the lowest class first, and in it the last to come', () => {
    const house = new House();
    const classes = ['chat', 'batch', 'batch', 'ide'] as const;
    const ids = classes.map((each) => house.seat(house.claim('greedy', each)));
    expect(house.victim(house.claim('small'))).toBe(ids[2]);
  });

  it('lets voice and ide take a seat from classes well below them in the same tenant', () => {
    const house = new House();
    const ids = (['voice', 'ide', 'chat', 'ide'] as const).map((each) => house.seat(house.claim('t', each)));
    expect(house.victim(house.claim('t', 'voice'))).toBe(ids[2]);
    expect(house.victim(house.claim('t', 'ide'))).toBeNull();
    expect(house.victim(house.claim('t', 'chat'))).toBeNull();
  });

  it('leaves who has just begun in its seat, and who is being prefilled', () => {
    const house = new House();
    for (let i = 0; i < 3; i++) house.seat(house.claim('greedy'), 3);
    house.seats.take(9, house.claim('greedy'), 9, 0);
    expect(house.victim(house.claim('small'))).toBeNull();
  });

  it('charges each token once, also what came between the last look and the end', () => {
    const house = new House();
    const [a, b] = [house.claim('a'), house.claim('b')];
    const isFirst = (claim: Claim): boolean =>
      house.shares.next([meta(a, 1), meta(b, 2)])[0]!.meta.tenant === claim.tenant;
    house.shares.contend(a);
    house.shares.contend(b);
    const id = house.seat(a, 10);
    house.seats.charge();
    house.seats.charge();
    house.shares.charge(b, 11);
    expect(isFirst(a)).toBe(true);
    new Int32Array(house.generated)[id] = 12;
    house.seats.leave(id);
    house.seats.leave(id);
    expect(isFirst(b)).toBe(true);
    house.shares.charge(b, 2);
    expect(isFirst(a)).toBe(true);
  });

  it('does not charge again what a sequence had generated before it came back', () => {
    const house = new House();
    const [a, b] = [house.claim('a'), house.claim('b')];
    house.shares.contend(a);
    house.shares.contend(b);
    house.seats.take(1, a, 1, 500);
    house.seats.charge();
    house.shares.charge(b, 1);
    expect(house.shares.next([meta(a, 1), meta(b, 2)])).toEqual([meta(a, 1)]);
  });
});

function meta(claim: Claim, id: number): Claimant {
  return { meta: { ...claim, id } };
}
