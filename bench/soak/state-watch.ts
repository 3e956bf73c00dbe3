// Where the time of a response goes, by the states its client is told: a reader that goes on after parking should spend
// it running, not waiting. Used by the visits of a soak.
import type { ResponseStream } from '../../clients/index.ts';

/** How long a response was in each of its states, from `begin` to `end`, milliseconds. */
export class StateWatch {
  readonly #times = new Map<string, number>();
  readonly #stopListening: () => void;
  #state = '';
  #sinceMs = NaN;

  constructor(response: ResponseStream) {
    this.#stopListening = response.onState(({ state }) => this.#enter(state));
  }

  begin(): void {
    this.#sinceMs = performance.now();
    this.#times.clear();
  }

  end(): ReadonlyMap<string, number> {
    this.#stopListening();
    this.#enter('');
    return this.#times;
  }

  #enter(state: string): void {
    const now = performance.now();
    if (now > this.#sinceMs) this.#times.set(this.#state, (this.#times.get(this.#state) ?? 0) + now - this.#sinceMs);
    this.#state = state;
    this.#sinceMs = now;
  }
}
