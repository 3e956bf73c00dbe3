// Who is served next, among tenants and among the latency classes of one tenant. Each has a virtual clock that runs by
// the tokens served to it, divided by its weight; whose clock is behind comes first. Used by the waiting queue, by
// prefill and by nobody outside of the lead. After virtual token counters (Sheng et al., OSDI 2024) and, for the head
// start of urgent classes, borrowed virtual time (Duda and Cheriton, SOSP 1999).
import type { LatencyClass } from '../protocol/messages.ts';

/** On whose behalf something is computed. */
export interface Claim {
  tenant: string;
  /** Of the tenant; twice the weight gets twice the tokens while both want more than there is. */
  weight: number;
  class: LatencyClass;
}

/** What a token costs. A prompt's tokens are computed many at a time; those found in KV memory cost nothing. */
export const PROMPT_TOKEN_COST = 0.25;
export const GENERATED_TOKEN_COST = 1;

/** Order of service of the latency classes. */
export const classRank: Readonly<Record<LatencyClass, number>> = { voice: 0, ide: 1, chat: 2, batch: 3 };

/** Somebody waits for every single one of its tokens. */
export function isUrgent({ class: latencyClass }: Pick<Claim, 'class'>): boolean {
  return classRank[latencyClass] <= classRank.ide;
}

/** Shares of a tenant's tokens while all of its classes want more than there is: none of them starves. */
const CLASS_WEIGHTS = [8, 4, 2, 1];
/**
 * As far as this, in cost by weight, the clock of a tenant may be ahead of another's and its class still comes first.
 * Within a tenant it is an eighth of that, where weights by class do the rest.
 */
const HEAD_STARTS = [2000, 1000, 250, 0];
const CLASS_HEAD_START = 1 / 8;

/** A tenant, or a class of a tenant. */
interface Clock {
  value: number;
  weight: number;
  /** Requests that wait or are being prefilled. */
  numContending: number;
}

/** Clocks that share something, and the time they would all show if it could be shared out evenly at every moment. */
class Group {
  #now = 0;
  #weights = 0;

  /** Who was away begins at the group's time: nobody saves up rights while away. What it used too much still counts. */
  begin(clock: Clock): void {
    if (clock.numContending++ > 0) return;
    clock.value = Math.max(clock.value, this.#now);
    this.#weights += clock.weight;
  }

  end(clock: Clock): void {
    if (--clock.numContending === 0) this.#weights -= clock.weight;
  }

  charge(clock: Clock, cost: number): void {
    clock.value += cost / clock.weight;
    this.#now += cost / (this.#weights + (clock.numContending > 0 ? 0 : clock.weight));
  }

  /** A clock like this says nothing that a new one would not. */
  isSpent(clock: Clock): boolean {
    return clock.numContending === 0 && clock.value <= this.#now;
  }

  newClock(weight: number): Clock {
    return { value: this.#now, weight, numContending: 0 };
  }
}

export interface Claimant {
  /** A later request has a higher id. */
  meta: Claim & { id: number };
}

/** A tenant among those that claim something now. */
interface Candidate<T> {
  tenant: Tenant;
  /** Of its most urgent class, and the oldest claimant in it. */
  rank: number;
  id: number;
  /** Its claimants by class. */
  lanes: T[][];
}

interface Tenant {
  clock: Clock;
  group: Group;
  classes: Clock[];
}

/** Clocks exist only while somebody contends: what is used while nobody waits takes nothing from anybody. */
export class Shares {
  #group = new Group();
  readonly #tenants = new Map<string, Tenant>();
  #numContending = 0;

  /** A request begins to wait, or to be prefilled. */
  contend(claim: Claim): void {
    const { clock, group, classes } = this.#tenant(claim);
    this.#group.begin(clock);
    group.begin(classes[classRank[claim.class]]!);
    this.#numContending++;
  }

  /** It no longer does. Exactly one call for each `contend`. */
  settle(claim: Claim): void {
    const { clock, group, classes } = this.#tenant(claim);
    this.#group.end(clock);
    group.end(classes[classRank[claim.class]]!);
    if (--this.#numContending === 0) {
      this.#group = new Group();
      this.#tenants.clear();
    } else if (clock.numContending === 0) this.#forgetSpent();
  }

  /** Something was computed for it. */
  charge(claim: Claim, cost: number): void {
    if (this.#numContending === 0 || cost <= 0) return;
    const { clock, group, classes } = this.#tenant(claim);
    this.#group.charge(clock, cost);
    group.charge(classes[classRank[claim.class]]!, cost);
  }

  /**
   * Those to be served next: all claimants of one class of one tenant, in the order given. The tenant first, with the
   * head start of its most urgent class, then its class; equals go by age. Empty when nobody is there.
   */
  next<T extends Claimant>(claimants: Iterable<T>): T[] {
    const candidates = new Map<string, Candidate<T>>();
    for (const claimant of claimants) {
      const { tenant, id } = claimant.meta;
      const rank = classRank[claimant.meta.class];
      let candidate = candidates.get(tenant);
      if (!candidate) {
        candidate = { tenant: this.#tenant(claimant.meta), rank, id, lanes: CLASS_WEIGHTS.map(() => []) };
        candidates.set(tenant, candidate);
      } else if (rank < candidate.rank || (rank === candidate.rank && id < candidate.id)) {
        candidate.rank = rank;
        candidate.id = id;
      }
      candidate.lanes[rank]!.push(claimant);
    }
    let best: Candidate<T> | null = null;
    for (const candidate of candidates.values()) if (!best || isFirst(candidate, best)) best = candidate;
    if (!best) return [];
    const { tenant, lanes } = best;
    const key = (rank: number): number => tenant.classes[rank]!.value - HEAD_STARTS[rank]! * CLASS_HEAD_START;
    let first = -1;
    for (const [rank, lane] of lanes.entries()) {
      if (lane.length > 0 && (first < 0 || key(rank) < key(first))) first = rank;
    }
    return lanes[first]!;
  }

  /** Tenants with a clock; bounded by those who wait or had more than their share of late. */
  get numTenants(): number {
    return this.#tenants.size;
  }

  #tenant(claim: Claim): Tenant {
    let tenant = this.#tenants.get(claim.tenant);
    if (!tenant) {
      const group = new Group();
      const classes = CLASS_WEIGHTS.map((weight) => group.newClock(weight));
      tenant = { clock: this.#group.newClock(claim.weight), group, classes };
      this.#tenants.set(claim.tenant, tenant);
    }
    return tenant;
  }

  #forgetSpent(): void {
    for (const [name, { clock }] of this.#tenants) if (this.#group.isSpent(clock)) this.#tenants.delete(name);
  }
}

function isFirst<T>(a: Candidate<T>, b: Candidate<T>): boolean {
  const key = ({ tenant, rank }: Candidate<T>): number => tenant.clock.value - HEAD_STARTS[rank]!;
  return (key(a) - key(b) || a.rank - b.rank || a.id - b.id) < 0;
}
