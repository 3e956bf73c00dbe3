// Several answers to one prompt in the engine: what they share, and that they share nothing else.
import { describe, expect, it } from 'vitest';
import { Flag } from '../../workers/messages/requests.ts';
import { random } from '../support/random.ts';
import { EngineKit } from './support/engine-kit.ts';

const seed = Number(process.env.SEED ?? 20261122);
const prompt = `the sea, the sky and ${'a long road '.repeat(12)}`;
const warm = { temperature: 1, seed: 7, maxTokens: 40, ignoreEos: true } as const;

const texts = (kit: EngineKit, ids: number[]): string[] => ids.map((id) => kit.outcome(id).text);

/** What the choices say with room for all. */
function answersOf(n: number, options: Parameters<EngineKit['submit']>[1]): string[] {
  const kit = new EngineKit({ rows: 4 });
  const ids = kit.submitChoices(n, prompt, options);
  kit.run();
  return texts(kit, ids);
}

describe('Engine › choices', () => {
  it('computes the prompt of eight choices once', () => {
    const kit = new EngineKit({ rows: 8 });
    const ids = kit.submitChoices(8, prompt, warm);
    kit.run();
    const { promptTokens } = kit.outcome(ids[0]!);
    expect(promptTokens).toBeGreaterThan(100);
    expect(kit.numPrefilled).toBe(promptTokens);
    for (const id of ids) expect(kit.outcome(id)).toMatchObject({ promptTokens, cachedTokens: 0, ends: ['length'] });
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it.each([1, 2, 3])('gives choices that differ and that the seed gives again, on %i workers', (workers) => {
    const next = random(seed);
    const kit = new EngineKit({ workers, rows: 4 });
    const ids = kit.submitChoices(4, prompt, warm);
    kit.run(() => Math.floor(next() * workers));
    const answers = texts(kit, ids);
    expect(new Set(answers).size, `seed ${seed}`).toBe(4);
    const again = new EngineKit({ rows: 4 });
    const againIds = again.submitChoices(4, prompt, warm);
    again.run();
    expect(answers).toEqual(texts(again, againIds));
    expect(answers[0]).toBe(new EngineKit().answer(prompt, warm).text);
  });

  it('gives equal choices when sampling is greedy', () => {
    const kit = new EngineKit({ workers: 2, rows: 4 });
    const ids = kit.submitChoices(5, prompt, { maxTokens: 30 });
    kit.run();
    expect(new Set(texts(kit, ids)).size).toBe(1);
  });

  it('stops, and parses tool calls, for each choice', () => {
    const kit = new EngineKit({ rows: 4 });
    const call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>';
    const ids = kit.submitChoices(2, `!!say sure ${call}!!`, { tools: ['add'] });
    const stopped = kit.submitChoices(2, '!!say one STOP two !!', { stop: ['STOP'] });
    kit.run();
    for (const id of ids) expect(kit.outcome(id)).toMatchObject({ ends: ['tool_calls'], tools: [{ name: 'add' }] });
    for (const id of stopped) expect(kit.outcome(id)).toMatchObject({ text: 'one ', ends: ['stop'] });
  });

  it('ends choices whose first token is their last', () => {
    const kit = new EngineKit();
    const ids = kit.submitChoices(3, '!!say abc !!', { maxTokens: 1 });
    kit.run();
    for (const id of ids) expect(kit.outcome(id)).toMatchObject({ text: 'a', ends: ['length'] });
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it('counts all choices at admission, and takes more than there are rows when it is empty', () => {
    const kit = new EngineKit({ rows: 4 });
    const before = kit.submit('alone', warm);
    const ids = kit.submitChoices(4, prompt, warm);
    for (let i = 0; i < 5; i++) kit.step(0);
    expect(kit.gauges).toMatchObject({ waiting: 4, running: 1 });
    kit.run();
    expect(kit.outcome(before).ends).toEqual(['length']);
    const many = kit.submitChoices(8, prompt, warm);
    kit.run();
    expect(texts(kit, many).slice(0, 4)).toEqual(texts(kit, ids));
    expect(new Set(texts(kit, many)).size).toBe(8);
    for (const id of many) expect(kit.outcome(id).ends).toEqual(['length']);
  });

  it.each(['waiting', 'prefilling', 'copying', 'decoding'])(
    'goes on with the others when one is cancelled while %s',
    (phase) => {
      const expected = answersOf(3, warm);
      for (const victim of [0, 1, 2]) {
        const kit = new EngineKit({ rows: 4 });
        if (phase === 'waiting') kit.submitChoices(4, 'in the way', warm);
        const ids = kit.submitChoices(3, prompt, warm);
        const steps = { waiting: 3, prefilling: 0, copying: 1, decoding: 12 }[phase]!;
        for (let i = 0; i < steps; i++) kit.step(0);
        kit.cancel(ids[victim]!);
        kit.run();
        for (const [i, id] of ids.entries()) {
          expect(kit.outcome(id).ends).toEqual([i === victim ? 'cancelled' : 'length']);
          if (i !== victim) expect(kit.outcome(id).text).toBe(expected[i]);
        }
        expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
      }
    },
  );

  it('gives the answers of ample memory when the budget preempts choices, and when homes are short', () => {
    const options = { ...warm, maxTokens: 120 };
    const expected = answersOf(4, options);
    for (const tight of [{ budgetTokens: 2 * 512 + 900 }, { homes: 2 }, { rows: 2, homes: 2 }]) {
      const kit = new EngineKit({ rows: 4, ...tight });
      const ids = kit.submitChoices(4, prompt, options);
      kit.run();
      expect(texts(kit, ids), JSON.stringify(tight)).toEqual(expected);
      expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
    }
  });

  it('ends all choices of a prompt that does not fit', () => {
    const kit = new EngineKit({ maxLen: 128 });
    const ids = kit.submitChoices(3, 'x'.repeat(500));
    kit.run();
    for (const id of ids) expect(kit.outcome(id).error).toContain('context_too_long');
  });

  it.each([1, 2, 3, 4])(
    'ends every choice exactly once under random cancels and parking (seed offset %i)',
    (offset) => {
      const next = random(seed + offset);
      const workers = 1 + (offset % 3);
      const kit = new EngineKit({ workers, rows: 3, homes: 3 * workers });
      const ids: number[] = [];
      const parked: number[] = [];
      for (let request = 0; request < 25; request++) {
        const n = 1 + Math.floor(next() * 6);
        ids.push(
          ...kit.submitChoices(n, `${request} ${prompt.slice(0, 20 + next() * 100)}`, { ...warm, seed: request }),
        );
        for (let k = Math.floor(next() * 8); k > 0; k--) kit.step(Math.floor(next() * workers));
        const one = ids[Math.floor(next() * ids.length)]!;
        if (next() < 0.4) kit.cancel(one);
        else if (next() < 0.3 && kit.outcome(one).ends.length === 0) {
          kit.flag(one, Flag.park);
          parked.push(one);
        }
      }
      for (const id of parked) if (kit.outcome(id).ends.length === 0) kit.flag(id, Flag.run);
      kit.run(() => Math.floor(next() * workers));
      for (const id of ids) expect(kit.outcome(id).ends, `seed ${seed + offset}`).toHaveLength(1);
      expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
    },
  );
});
