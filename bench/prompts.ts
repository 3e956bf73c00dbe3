// Seeded prompts of a wanted length in tokens: distinct random words, so that no two share a prefix beyond the template.
// Used by all benches that ask a model. Random token ids would not do: they make small models end at once.
import { Limits } from '../protocol/constants.ts';
import { samplingRanges } from '../protocol/sampling.ts';
import { findModelDirectory } from '../workers/model/model-directory.ts';
import { TextModel } from '../workers/text/text-model.ts';
import { random } from '../test/support/random.ts';

const WORDS = (
  'river stone morning window garden letter music winter bread silver market bridge story island engine paper ' +
  'mountain kitchen flower captain village summer ocean teacher forest yellow mirror ticket planet doctor ' +
  'question basket thunder castle orange button simple travel number cloud little answer every other between ' +
  'under against follow remember carry listen build happen promise quiet narrow gentle careful sudden bright'
).split(' ');

export class Prompts {
  readonly text: TextModel;
  readonly #random: () => number;

  /** `model`: whose tokenizer counts. */
  constructor(model: string, seed: number) {
    this.text = TextModel.load(findModelDirectory(model));
    this.#random = random(seed);
  }

  /** Ids of the whole prompt that a one-message chat makes. */
  encode(content: string): number[] {
    const messages = [{ role: 'user' as const, content }];
    const input = { kind: 'chat' as const, messages, tools: [], history: null, truncation: 'error' as const };
    return this.text.encodePrompt(input, 1 << 20).tokenIds;
  }

  /** A user message whose whole prompt has about `numTokens` tokens: at most that many, and at most two less. */
  next(numTokens: number): string {
    const words: string[] = [];
    const word = (): string => WORDS[Math.floor(this.#random() * WORDS.length)]!;
    let length = this.encode('').length;
    while (length < numTokens) {
      // Most words are one or two tokens, so a third of what is missing never overshoots by much.
      const add = Math.max(1, Math.floor((numTokens - length) / 3));
      for (let i = 0; i < add; i++) words.push(word());
      length = this.encode(words.join(' ')).length;
    }
    while (length > numTokens && words.length > 0) {
      words.pop();
      length = this.encode(words.join(' ')).length;
    }
    return words.join(' ');
  }

  /**
   * A logit bias under which every token has text of its own, so that no reader waits for the rest of a character. Null
   * where too many tokens have none.
   */
  get wholeTokens(): Record<string, number> | null {
    const ids = Array.from({ length: this.text.vocabSize }, (_, id) => id);
    const without = ids.filter((id) => !this.text.tokenText(id));
    if (without.length > Limits.logitBiasEntries) return null;
    return Object.fromEntries(without.map((id) => [id, samplingRanges.logitBias[0]]));
  }

  many(count: number, numTokens: number): string[] {
    return Array.from({ length: count }, () => this.next(numTokens));
  }
}
