// Sequences that leave their row before their end, for want of memory or to make room for others: nothing of what they
// had said or promised may be lost, told twice or told otherwise.
import { describe, expect, it } from 'vitest';
import { Grammars } from '../../workers/grammar/grammars.ts';
import type { GrammarSpec } from '../../workers/messages/grammar.ts';
import { FAKE_SHAPE } from '../../workers/model/fake.ts';
import { TextModel } from '../../workers/text/text-model.ts';
import { EngineKit, type Outcome } from './support/engine-kit.ts';

type SubmitOptions = Parameters<EngineKit['submit']>[1];

const NUM_REQUESTS = 6;
const sampled = { temperature: 1, maxTokens: 120, ignoreEos: true } as const;
const form: GrammarSpec = {
  text: { kind: 'regex', pattern: '([a-z]{3,9}-[0-9]{2} ){12}', param: 'p' },
  calls: [],
  mustCall: false,
  isParallel: true,
};

const scored = (seed: number): SubmitOptions => ({ ...sampled, seed, logprobs: 3 });
const formed = (seed: number): SubmitOptions => ({ temperature: 1, seed, logprobs: 1, grammar: form });

const load = (): Promise<Grammars> => Grammars.load(TextModel.bytes(), FAKE_SHAPE.vocabSize);
const withGrammars = async (workers: number): Promise<Grammars[]> => Promise.all(Array.from({ length: workers }, load));

/** What a client was told; when, and from which slot, may differ. */
const told = ({ tokens, text, ends, logprobs }: Outcome): object => ({ tokens, text, ends, logprobs });

/** Less than were computed, if anybody had to be computed again. */
function promptTokens(kit: EngineKit, ids: readonly number[]): number {
  return ids.reduce((sum, id) => sum + kit.outcome(id).promptTokens, 0);
}

/** Room for one whole sequence and little more: of those that decode together, most have to give their row up. */
const tight = { rows: 4, homes: 4, maxLen: 512, budgetTokens: 2 * 512 + 700 } as const;

describe('Engine › preemption', { timeout: 30_000 }, () => {
  it.each([1, 2])('keeps tokens and log-probabilities of answers that found no memory (%i workers)', (workers) => {
    const alone = Array.from({ length: NUM_REQUESTS }, (_, i) => new EngineKit().answer(`prompt ${i}`, scored(i)));
    const kit = new EngineKit({ ...tight, workers });
    const ids = alone.map((_, i) => kit.submit(`prompt ${i}`, scored(i)));
    kit.run();
    expect(kit.numPrefilled).toBeGreaterThan(promptTokens(kit, ids));
    for (const [i, id] of ids.entries()) {
      expect(told(kit.outcome(id))).toEqual(told(alone[i]!));
      expect(kit.outcome(id).logprobs.length).toBeGreaterThan(100);
    }
  });

  it.each([1, 2])('keeps answers in their form, in another worker too (%i workers)', async (workers) => {
    const alone: Outcome[] = [];
    for (let i = 0; i < NUM_REQUESTS; i++) {
      alone.push(new EngineKit({ grammars: await withGrammars(1) }).answer(`prompt ${i}`, formed(i)));
    }
    const kit = new EngineKit({ ...tight, workers, grammars: await withGrammars(workers) });
    const ids = alone.map((_, i) => kit.submit(`prompt ${i}`, formed(i)));
    kit.run();
    expect(kit.numPrefilled).toBeGreaterThan(promptTokens(kit, ids));
    for (const [i, id] of ids.entries()) {
      expect(told(kit.outcome(id))).toEqual(told(alone[i]!));
      expect(kit.outcome(id).text).toMatch(/^([a-z]{3,9}-[0-9]{2} ){12}$/);
    }
  });

  it('keeps all of it for choices that made room for other tenants', async () => {
    const options = { temperature: 1, seed: 5, logprobs: 2, grammar: form, tenant: 'many' } as const;
    const roomy = new EngineKit({ grammars: await withGrammars(1) });
    const expected = roomy.submitChoices(4, 'the prompt', options);
    roomy.run();
    const kit = new EngineKit({ workers: 2, rows: 2, homes: 6, grammars: await withGrammars(2) });
    const ids = kit.submitChoices(4, 'the prompt', options);
    for (let i = 0; i < 80; i++) kit.step(i % 2);
    const others = Array.from({ length: 6 }, (_, i) => kit.submit(`other ${i}`, { ...sampled, tenant: `other ${i}` }));
    for (let i = 0; i < 400 && kit.outcome(others[0]!).tokens.length === 0; i++) kit.step(i % 2);
    expect(kit.outcome(others[0]!).tokens.length).toBeGreaterThan(0);
    for (const id of ids) expect(kit.outcome(id).ends).toEqual([]);
    kit.run();
    expect(ids.map((id) => told(kit.outcome(id)))).toEqual(expected.map((id) => told(roomy.outcome(id))));
    for (const id of others) expect(kit.outcome(id).ends).toEqual(['length']);
  });
});
