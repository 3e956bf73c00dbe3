// Prompts that wait for another one to compute what they begin with, so that a system prompt which many ask with at once
// is computed once; and turns that wait until the answer before them has come home. Looked at by the scheduler when such a prompt could be admitted.
import { commonPrefix } from './kv/slots.ts';
import type { SlotTable } from './kv/slots.ts';
import type { Prefill } from './prefill.ts';
import type { Sequence } from './sequence.ts';

/** A prompt waits for another that is computing at least this many tokens of it; fewer are sooner computed twice. */
const MIN_AWAITED = 64;

interface Awaited {
  source: Sequence;
  length: number;
}

export class AwaitedPrefixes {
  readonly #prefill: Prefill;
  readonly #slots: SlotTable;
  /** As of the last look. */
  readonly #awaiting = new Map<Sequence, Awaited>();

  constructor(prefill: Prefill, slots: SlotTable) {
    this.#prefill = prefill;
    this.#slots = slots;
  }

  /** Prompts that waited when they were last looked at. */
  get size(): number {
    return this.#awaiting.size;
  }

  /**
   * Whether more of this prompt will soon be there than is now: its session's last answer is on its way home, or a prompt
   * of the same tenant is just computing what it begins with.
   */
  isAwaiting(sequence: Sequence): boolean {
    const { tenant, session, class: latencyClass } = sequence.meta;
    if (session !== '' && this.#slots.isSeated(session)) return true;
    let awaited = this.#awaiting.get(sequence);
    this.#awaiting.delete(sequence);
    if (awaited === undefined || !this.#isComing(awaited)) {
      const found = this.#prefill.sequences.map((source) => ({
        source,
        length: source.meta.tenant === tenant ? commonPrefix(source.ids, sequence.ids) : 0,
      }));
      awaited = found.sort((a, b) => b.length - a.length)[0];
      if (awaited === undefined || !this.#isComing(awaited) || awaited.length < MIN_AWAITED) return false;
      const there = this.#slots.findPrefix(tenant, session, sequence.ids)?.length ?? 0;
      if (awaited.length - there < MIN_AWAITED) return false;
    }
    this.#awaiting.set(sequence, awaited);
    this.#prefill.want(awaited.source, awaited.length, latencyClass);
    return true;
  }

  /** It no longer waits. */
  forget(sequence: Sequence): void {
    this.#awaiting.delete(sequence);
  }

  #isComing({ source, length }: Awaited): boolean {
    return source.homeLength < length && this.#prefill.sequences.includes(source);
  }
}
