// Speculation for a sequence that decodes alone: guesses its next tokens (draft-index.ts) and has the model check them
// in one run. Owned by a decode range. What must stay true: tokens, KV memory and its marks are what single steps would
// have made, whatever is guessed; and where guessing does not pay it costs next to nothing.
import { DraftIndex } from './draft-index.ts';
import type { Model } from './model/model.ts';
import type { Outputs } from './outputs.ts';
import type { Sequence, StopCause } from './sequence.ts';
import { SpeculationPolicy } from './speculation-policy.ts';

export class Speculator {
  readonly #model: Model;
  readonly #index = new DraftIndex();
  readonly #policy: SpeculationPolicy;
  readonly #draft: Int32Array;
  /** By number of tokens: what is fed to a run, the sequence's last token first. */
  readonly #runs: ReadonlyMap<number, Int32Array>;
  readonly #last = new Int32Array(1);
  readonly #past = new Int32Array(1);
  #sequence: Sequence | null = null;

  /** Made only for models that can verify. */
  constructor(model: Model) {
    const { verifySizes } = model;
    this.#model = model;
    this.#policy = new SpeculationPolicy(verifySizes);
    this.#draft = new Int32Array(verifySizes.at(-1)! - 1);
    this.#runs = new Map(verifySizes.map((size) => [size, new Int32Array(size)]));
  }

  /**
   * Decodes one step of the sequence in `slot`: one token, or several whose guesses were right. `room` positions after
   * its past may be written, at least one. Returns why it stops, or null.
   */
  step(slot: number, sequence: Sequence, room: number, out: Outputs): StopCause {
    if (this.#sequence !== sequence) this.#follow(sequence);
    this.#policy.setAlone(this.#model.isAlone?.(1) === true);
    const started = performance.now();
    const { ids, past } = sequence;
    const limit = Math.min(room, sequence.numRemaining);
    const proposed = limit < 2 ? 0 : this.#index.propose(ids, this.#draft);
    const size = proposed === 0 ? 1 : this.#policy.choose(this.#index.matchLength, limit);
    if (size === 1) {
      this.#last[0] = ids.at(-1)!;
      this.#past[0] = past;
      const cause = sequence.accept(this.#model.decode(slot, 1, this.#last, this.#past), 0, out, this.#model.top);
      this.#policy.stepped(performance.now() - started);
      return cause;
    }
    const run = this.#runs.get(size)!;
    run[0] = ids.at(-1)!;
    run.set(this.#draft.subarray(0, size - 1), 1);
    const logits = this.#model.verify(slot, run, past);
    let cause = sequence.accept(logits, 0, out, this.#model.top);
    let numAccepted = 0;
    // A guess that was not sampled ends the run: what was computed after it rests on a token that is not there.
    while (cause === null && numAccepted < size - 1 && ids.at(-1) === run[numAccepted + 1]) {
      numAccepted++;
      cause = sequence.accept(logits, numAccepted * this.#model.vocabSize, out, this.#model.top);
    }
    const wasCut = cause !== null && numAccepted < size - 1;
    this.#policy.verified(size, numAccepted, wasCut, performance.now() - started);
    out.stats.draftedTokens += size - 1;
    out.stats.acceptedTokens += numAccepted;
    return cause;
  }

  #follow(sequence: Sequence): void {
    this.#sequence = sequence;
    this.#index.clear();
    this.#policy.begin();
  }
}
