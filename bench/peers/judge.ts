// Who is right when greedy answers differ: the float32 reference of the model tests reads each answer along and says at
// every token how far its logit lies below the largest. Near ties are rounding; a wrong model is far off everywhere.
// Called by the bench `peers`, which must not compute it while anybody is measured.
import { findModelDirectory, readJson } from '../../workers/model/model-directory.ts';
import { readSpec } from '../../workers/model/specs/families.ts';
import { openWeights } from '../../workers/model/weights/open.ts';
import { Reference } from '../../test/workers/model/reference.ts';
import type { Prompts } from '../prompts.ts';

export interface Judgement {
  numTokens: number;
  /** Tokens that the reference would have chosen too. */
  numAgreed: number;
  /** Logits by which a chosen token lay below the reference's own choice, at most. */
  largestGap: number;
}

export class Judge {
  readonly #prompts: Prompts;
  readonly #reference: Reference;

  /** Throws an Error when the model's family is unknown or its weights are not found. */
  constructor(model: string, prompts: Prompts) {
    const directory = findModelDirectory(model);
    const config = readJson(directory, 'config.json') ?? {};
    const spec = readSpec(config, directory);
    this.#prompts = prompts;
    this.#reference = new Reference(spec, openWeights(directory, spec));
  }

  /** Reads one answer along. Text is encoded again, so a token may differ from the one that was sampled. */
  judge(question: string, answer: string): Judgement {
    const reference = this.#reference;
    reference.reset();
    const prompt = this.#prompts.encode(question);
    for (const id of prompt.slice(0, -1)) reference.next(id, false);
    let logits = reference.next(prompt.at(-1)!);
    const judgement: Judgement = { numTokens: 0, numAgreed: 0, largestGap: 0 };
    for (const id of this.#prompts.text.encode(answer)) {
      const gap = logits.reduce((a, b) => Math.max(a, b)) - logits[id]!;
      judgement.numTokens++;
      if (gap === 0) judgement.numAgreed++;
      judgement.largestGap = Math.max(judgement.largestGap, gap);
      logits = reference.next(id);
    }
    return judgement;
  }
}
