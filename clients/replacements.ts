// What `supersede` means on this side: which answers a create replaces, under which name the server knows them, and what
// of it never has to be sent. watches.ts asks it for each create. What must stay true: an answer that was never sent is
// dropped by what replaces it, which inherits what it was to replace.
import type { ResponseStream } from './response.ts';
import type { Watch } from './watch.ts';

export class Replacements {
  readonly #watches: ReadonlySet<Watch>;
  /** Ends a response that was never sent. */
  readonly #drop: (watch: Watch) => void;
  readonly #ofResponse = new WeakMap<ResponseStream, Watch>();

  /** `watches`: all that something is still to be heard of, oldest first. */
  constructor(watches: ReadonlySet<Watch>, drop: (watch: Watch) => void) {
    this.#watches = watches;
    this.#drop = drop;
  }

  /** A response was asked for: what it replaces and was never sent never will be. */
  begun(watch: Watch): void {
    this.#ofResponse.set(watch.response, watch);
    if (watch.supersede === 'lane') this.#dropUnsent(watch);
    else this.#target(watch);
  }

  /** Fulfils when the create may be sent: what it replaces has an id by then, or never will. */
  async whenNamed(watch: Watch): Promise<void> {
    for (;;) {
      const target = this.#target(watch);
      if (target === null || target.place.kind !== 'asked' || target.feed.position() !== null) return;
      await target.named.promise;
    }
  }

  /** The option as it is sent, with everything marked that it replaces. */
  option(watch: Watch): string | undefined {
    const target = this.#target(watch);
    if (watch.supersede === 'lane') {
      watch.replaced = [...this.#watches].filter(
        (other) =>
          other !== watch && other.lane === watch.lane && (other.place.kind === 'live' || other.place.kind === 'asked'),
      );
    } else if (target !== null) {
      watch.replaced = [target];
    }
    for (const other of watch.replaced) other.feed.replaced(true);
    if (target !== null) return target.feed.position()?.response;
    return typeof watch.supersede === 'string' ? watch.supersede : undefined;
  }

  /** The response that is to be replaced, if it is one of ours; of one never sent, what that was to replace. */
  #target(watch: Watch): Watch | null {
    for (;;) {
      const { supersede } = watch;
      const target = typeof supersede === 'object' ? this.#ofResponse.get(supersede) : undefined;
      if (target === undefined) return null;
      if (target.create !== null || target.feed.position() !== null) return target;
      watch.supersede = target.supersede;
      target.feed.replaced(true);
      this.#drop(target);
    }
  }

  /** What waits to be sent on the lane is replaced before the server ever hears of it. */
  #dropUnsent(watch: Watch): void {
    for (const other of this.#watches) {
      if (other === watch || other.owner !== watch.owner || other.place.kind !== 'unsent') continue;
      // It was to replace something elsewhere, which nothing else would.
      if (other.supersede !== undefined && other.supersede !== 'lane') continue;
      other.feed.replaced(true);
      this.#drop(other);
    }
  }
}
