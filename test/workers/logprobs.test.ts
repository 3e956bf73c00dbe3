// Log-probabilities through the engine over the fake model.
import { describe, expect, it } from 'vitest';
import { Flag } from '../../workers/messages/requests.ts';
import { EngineKit, type Outcome } from './support/engine-kit.ts';

const options = { temperature: 1, seed: 3, maxTokens: 80, ignoreEos: true } as const;
const bytesOf = (outcome: Outcome): string =>
  Buffer.from(outcome.logprobs.flatMap(([, , own]) => own ?? [])).toString('utf8');

describe('Engine › logprobs', () => {
  it('come with as many alternatives as asked for, and change nothing about the text', () => {
    const without = new EngineKit().answer('some prompt', options);
    expect(without.logprobs).toEqual([]);
    for (const logprobs of [0, 3, 20]) {
      const outcome = new EngineKit().answer('some prompt', { ...options, logprobs });
      expect(outcome.text).toBe(without.text);
      expect(bytesOf(outcome)).toBe(outcome.text.replace(/\uFFFD$/, ''));
      for (const [, logprob, , top] of outcome.logprobs) {
        expect(top).toHaveLength(logprobs);
        expect(logprob).toBeLessThanOrEqual(0);
      }
    }
  });

  it("are of the model's own distribution, whatever bias, penalties and temperature made of it", () => {
    const said = new EngineKit().answer('!!say ab !!', { logprobs: 1, temperature: 2 });
    expect(said.logprobs.map(([token, logprob, , top]) => [token, logprob, top[0]?.[0]])).toEqual(
      [...'ab '].map((token) => [token, 0, token]),
    );
    const biased = new EngineKit().answer('!!say ab !!', { logprobs: 1, maxTokens: 1, logitBias: { 122: 100 } });
    const [token, logprob, , top] = biased.logprobs[0]!;
    expect([token, logprob, top[0]?.[0]]).toEqual(['z', -40, 'a']);
  });

  it('are the same on two workers, after parking, and for each of several choices', () => {
    const alone = new EngineKit().answer('some prompt', { ...options, logprobs: 2 });
    const kit = new EngineKit({ workers: 2, rows: 4 });
    const ids = kit.submitChoices(3, 'some prompt', { ...options, logprobs: 2 });
    for (let i = 0; i < 40; i++) kit.step(i % 2);
    kit.flag(ids[0]!, Flag.park);
    for (let i = 0; i < 400; i++) kit.step(i % 2);
    kit.flag(ids[0]!, Flag.run);
    kit.run();
    expect(kit.outcome(ids[0]!).logprobs).toEqual(alone.logprobs);
    for (const id of ids) expect(bytesOf(kit.outcome(id))).toBe(kit.outcome(id).text.replace(/\uFFFD$/, ''));
  });

  it('leave out what a stop string cuts off and what is a tool call', () => {
    const stopped = new EngineKit().answer('!!say one STOP two !!', { stop: ['STOP'], logprobs: 0 });
    expect(bytesOf(stopped)).toBe('one ');
    const call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>';
    const called = new EngineKit().answer(`!!say sure ${call}!!`, { tools: ['add'], logprobs: 0 });
    expect(called.tools).toHaveLength(1);
    expect(bytesOf(called)).toBe(called.text);
  });
});
