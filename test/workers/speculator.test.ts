// Speculation in the engine over the fake model: whatever is guessed, answers, ends and KV memory are those of single steps.
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { Flag } from '../../workers/messages/requests.ts';
import { seededRandom } from './model/checkpoint.ts';
import { EngineKit } from './support/engine-kit.ts';

const seed = Number(process.env.SEED ?? 20261122);
const TEXT = 'the quick brown fox jumps over the lazy dog, and the quick brown fox sleeps. 你好 🙂 ';

// What pays is a matter of time: this clock moves a little whenever it is read, and never otherwise.
let now = 0;
beforeAll(() => void vi.spyOn(performance, 'now').mockImplementation(() => (now += 0.01)));
afterAll(() => void vi.restoreAllMocks());

function guessing(): EngineKit {
  return new EngineKit({ speculation: true, stepMs: 0.2 });
}

describe('Speculation', { timeout: 20_000 }, () => {
  it('makes several tokens in one step when an answer repeats its prompt, and sends them in one message', () => {
    const plain = new EngineKit();
    const kit = guessing();
    const said = `!!say ${TEXT.repeat(2)}!!`;
    const expected = plain.answer(said);
    const found = kit.answer(said);
    expect(found).toMatchObject({ text: expected.text, tokens: expected.tokens, ends: ['stop'] });
    expect(found.endedAtStep).toBeLessThan(expected.endedAtStep / 2);
    expect(kit.accepted).toBeGreaterThan(100);
    expect(kit.drafted).toBeGreaterThanOrEqual(kit.accepted);
    expect(plain.drafted).toBe(0);
  });

  it('guesses nothing while two answers decode in one worker', () => {
    const kit = guessing();
    const ids = [1, 2].map((i) => kit.submit(`!!say ${i} ${TEXT}!!`, { maxTokens: 60 }));
    kit.run();
    expect(ids.map((id) => kit.outcome(id).tokens.length)).toEqual([60, 60]);
    // At most the few steps before the second one arrived in its row, and after the first one left.
    expect(kit.drafted).toBeLessThan(40);
  });

  it('stops inside a guess at the limit, at a stop string, at the end token and at the end of the context', () => {
    const [plain, kit] = [false, true].map((speculation) => new EngineKit({ maxLen: 256, stepMs: 0.2, speculation }));
    for (let maxTokens = 1; maxTokens < 40; maxTokens += 2) {
      const said = `!!say ${TEXT}!!`;
      for (const options of [{ maxTokens }, { stop: [TEXT.slice(maxTokens, maxTokens + 3)] }]) {
        const expected = plain!.answer(said, options);
        const found = kit!.answer(said, options);
        expect(found).toMatchObject({ tokens: expected.tokens, text: expected.text, ends: expected.ends });
      }
    }
    const [a, b] = [plain!, kit!].map((one) => one.answer('abababab', { ignoreEos: true }));
    expect(b!.tokens).toEqual(a!.tokens);
    expect(b!.promptTokens + b!.tokens.length).toBe(256);
    expect(kit!.accepted).toBeGreaterThan(100);
  });

  it(`gives the tokens of single steps with seeds, penalties, biases and sessions (seed ${seed})`, () => {
    const next = seededRandom(seed);
    const [plain, kit] = [false, true].map((speculation) => new EngineKit({ maxLen: 1024, stepMs: 0.2, speculation }));
    let history: number[] = [];
    for (let turn = 0; turn < 30; turn++) {
      const words = Array.from({ length: 3 + Math.floor(next() * 20) }, () =>
        'abc '.repeat(1 + Math.floor(next() * 3)),
      );
      const options = {
        session: 's',
        maxTokens: 1 + Math.floor(next() * 60),
        ...(next() < 0.5 ? { temperature: 0.7 + next(), seed: Math.floor(next() * 1000), topP: 0.95 } : {}),
        ...(next() < 0.3 ? { repetitionPenalty: 1 + next(), frequencyPenalty: next() } : {}),
        ...(next() < 0.3 ? { logitBias: { 97: 3 * next(), 98: -next() } } : {}),
      };
      const text = Buffer.from(next() < 0.4 ? `!!say ${words.join('')}!!` : words.join(''));
      if (history.length > 700) history = [];
      const prompt = [...history, ...text];
      const expected = plain!.answer(prompt, options);
      const found = kit!.answer(prompt, options);
      expect(found).toEqual({ ...expected, endedAtStep: found.endedAtStep });
      history = [...found.promptIds, ...found.tokens];
    }
    // Marks of KV memory are what plain steps would have asked for.
    expect(kit!.gauges.kvUsedTokens).toBe(plain!.gauges.kvUsedTokens);
    expect(kit!.accepted).toBeGreaterThan(100);
  });

  it('keeps what a cancelled and a parked answer had, wherever the guesses stood', () => {
    const said = `!!say ${TEXT.repeat(2)}!!`;
    const whole = new EngineKit().answer(said);
    for (let after = 1; after < 30; after += 2) {
      const kit = guessing();
      const parked = kit.submit(said);
      for (let i = 0; i < after; i++) kit.step(0);
      kit.flag(parked, Flag.park);
      for (let i = 0; i < 5; i++) kit.step(0);
      kit.flag(parked, Flag.run);
      kit.run();
      expect(kit.outcome(parked)).toMatchObject({ tokens: whole.tokens, ends: ['stop'] });
      const cancelled = kit.submit(said);
      for (let i = 0; i < after; i++) kit.step(0);
      kit.cancel(cancelled);
      kit.run();
      const { tokens } = kit.outcome(cancelled);
      expect(tokens).toEqual(whole.tokens.slice(0, tokens.length));
    }
  });
});
