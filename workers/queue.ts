// The waiting queue of the lead: requests by tenant and class, in each of these lanes the oldest first. Which lane comes
// next is decided by the shares (shares.ts), on every look. Called by the scheduler only; it never looks at a slot.
import type { Claimant, Shares } from './shares.ts';

export class WaitingQueue<T extends Claimant> {
  readonly #shares: Shares;
  readonly #lanes = new Map<string, T[]>();
  /** Of lanes by name: how many at the front were passed over in this round. */
  readonly #passed = new Map<string, number>();
  #size = 0;

  /** Waiting requests contend in `shares`. */
  constructor(shares: Shares) {
    this.#shares = shares;
  }

  get size(): number {
    return this.#size;
  }

  /** Behind all others of its tenant and class. */
  add(item: T): void {
    this.#lane(item).push(item);
    this.#entered(item);
  }

  /** Before all others of its tenant and class: it was running already. */
  putBack(item: T): void {
    this.#lane(item).unshift(item);
    this.#entered(item);
  }

  /** From now on nobody has been passed over. */
  beginRound(): void {
    this.#passed.clear();
  }

  /** Who is next, of those not passed over in this round. */
  peek(): T | undefined {
    return this.#shares.next(this.#heads())[0];
  }

  /** The one `peek` gave cannot be served yet, but those behind it may be. */
  pass(item: T): void {
    const key = laneOf(item);
    this.#passed.set(key, (this.#passed.get(key) ?? 0) + 1);
  }

  /** In this round nobody of these classes is served any more. */
  passAll(isMeant: (item: T) => boolean): void {
    for (const [key, lane] of this.#lanes) if (isMeant(lane[0]!)) this.#passed.set(key, lane.length);
  }

  /** Another one, of the same tenant and class, stands in its place. */
  replace(item: T, heir: T): void {
    const lane = this.#lanes.get(laneOf(item))!;
    lane[lane.indexOf(item)] = heir;
  }

  /** Takes one out, wherever it stands. */
  remove(item: T): void {
    const key = laneOf(item);
    const lane = this.#lanes.get(key)!;
    const index = lane.indexOf(item);
    lane.splice(index, 1);
    const passed = this.#passed.get(key) ?? 0;
    if (index < passed) this.#passed.set(key, passed - 1);
    if (lane.length === 0) this.#lanes.delete(key);
    this.#size--;
    this.#shares.settle(item.meta);
  }

  /** All of them, in no order that matters. */
  items(): T[] {
    return [...this.#lanes.values()].flat();
  }

  #heads(): T[] {
    return [...this.#lanes].flatMap(([key, lane]) => lane[this.#passed.get(key) ?? 0] ?? []);
  }

  #entered(item: T): void {
    this.#size++;
    this.#shares.contend(item.meta);
  }

  #lane(item: T): T[] {
    const key = laneOf(item);
    let lane = this.#lanes.get(key);
    if (!lane) this.#lanes.set(key, (lane = []));
    return lane;
  }
}

function laneOf({ meta }: Claimant): string {
  return `${meta.class} ${meta.tenant}`;
}
