// Who reads a response, and whether they read fast enough for it to go on. The response asks after every change and parks
// or goes on itself.
import { Limits } from '../../protocol/constants.ts';
import type { Response } from './response.ts';

export interface Subscriber {
  /** New events exist; called at most once per engine step and response. Pull them from `response.log`. */
  notify(response: Response): void;
  /**
   * How many events this reader is behind. When all readers of a response are far behind, it parks; a reader without
   * this method never is. Whoever has it calls `response.reviewParking` when it caught up.
   */
  behindBy?(response: Response): number;
  /** The log is no longer kept, and this reader is all that holds it: it must let go. */
  onEvicted?(response: Response): void;
}

/** Every reader has used up its credit and this much more waits: enough to catch up with without a pause. */
const PARK_EVENTS = Limits.creditEvents + Limits.parkBacklogEvents;
/** A reader as close as this is worth generating for again. */
const UNPARK_EVENTS = Limits.creditEvents / 2;

export class Subscribers extends Set<Subscriber> {
  /**
   * True while generating on helps nobody; `isParked` says how it was so far. Nobody attached is not the same as nobody
   * reading: then it goes on. `isWaitedFor`: others wait for its place, and it keeps none for text that nobody takes.
   */
  shouldPark(response: Response, isParked: boolean, isWaitedFor: boolean): boolean {
    const parkEvents = isWaitedFor ? Limits.creditEvents : PARK_EVENTS;
    // Nobody can be further behind than there are events.
    if (!isParked && response.log.head < parkEvents) return false;
    return this.#leastBehind(response) >= (isParked ? UNPARK_EVENTS : parkEvents);
  }

  #leastBehind(response: Response): number {
    if (this.size === 0) return 0;
    let least = Infinity;
    for (const subscriber of this) least = Math.min(least, subscriber.behindBy?.(response) ?? 0);
    return least;
  }
}
