import { describe, expect, it } from 'vitest';
import { Flag } from '../../workers/messages/requests.ts';
import { Ctl } from '../../workers/messages/shared.ts';
import { EngineKit } from './support/engine-kit.ts';
import { random } from '../support/random.ts';

const seed = Number(process.env.SEED ?? 20261122);

function prompts(count: number, next: () => number): string[] {
  const words = ['天空', 'sea', 'France', '水果', 'robot', '🙂', 'music', 'bread', 'city', '月亮'];
  return Array.from({ length: count }, (_, i) => {
    const length = 1 + Math.floor(next() * 40);
    return `${i}: ${Array.from({ length }, () => words[Math.floor(next() * words.length)]).join(' ')}`;
  });
}

describe('Engine', () => {
  it('answers a scripted prompt with its text and its usage', () => {
    const outcome = new EngineKit().answer('!!say Paris 🙂 !!');
    expect(outcome.text).toBe('Paris 🙂 ');
    expect(outcome.ends).toEqual(['stop']);
    expect(outcome.promptTokens).toBeGreaterThan(10);
  });

  it('stops at the token limit, at a stop string and at the end of the context', () => {
    const kit = new EngineKit({ maxLen: 256 });
    expect(kit.answer('!!say abcdefgh !!', { maxTokens: 3 })).toMatchObject({ text: 'abc', ends: ['length'] });
    expect(kit.answer('!!say one STOP two !!', { stop: ['STOP'] })).toMatchObject({ text: 'one ', ends: ['stop'] });
    const full = kit.answer('go on', { ignoreEos: true });
    expect(full.ends).toEqual(['length']);
    expect(full.promptTokens + full.tokens.length).toBe(256);
  });

  it('ends with whole characters where the token limit cuts one', () => {
    const kit = new EngineKit({ maxLen: 256 });
    for (let maxTokens = 1; maxTokens <= 5; maxTokens++) {
      const outcome = kit.answer('!!say a🙂 !!', { maxTokens });
      expect(outcome).toMatchObject({ text: maxTokens === 5 ? 'a🙂' : 'a', ends: ['length'] });
      expect(outcome.tokens.length).toBe(maxTokens);
    }
  });

  it('parses tool calls and says so in the finish reason', () => {
    const call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>';
    const outcome = new EngineKit().answer(`!!say sure ${call}!!`, { tools: ['add'] });
    expect(outcome.tools).toEqual([{ name: 'add', arguments: '{"a": 1}' }]);
    expect(outcome.ends).toEqual(['tool_calls']);
    expect(outcome.text.trim()).toBe('sure');
  });

  it('posts a step of very many rows in parts, and no answer notices', () => {
    const rows = 200;
    const numTokens = 2 * rows;
    const kit = new EngineKit({ rows, maxLen: 512 });
    const ids = Array.from({ length: rows }, (_, i) =>
      kit.submit(`number ${i}`, { ignoreEos: true, maxTokens: numTokens }),
    );
    kit.run();
    const alone = new EngineKit({ maxLen: 512 });
    for (const [i, id] of ids.entries()) {
      expect(kit.outcome(id).tokens).toHaveLength(numTokens);
      if (i % 50 === 0) {
        const { text } = alone.answer(`number ${i}`, { ignoreEos: true, maxTokens: numTokens });
        expect(kit.outcome(id).text).toBe(text);
      }
    }
    expect(kit.mostTokens).toBe(128);
  });

  it('leaves few streams to the solo worker, splits many, and gathers them again when they are few', () => {
    const kit = new EngineKit({ workers: 3, rows: 16, maxLen: 256 });
    new Int32Array(kit.shared.soloRows)[0] = 4;
    const running = (): number[] => kit.workers.map(({ engine }) => engine.numDecoding);
    const settle = (steps = 60): void => {
      for (let i = 0; i < steps; i++) kit.step(i % 3);
    };
    const start = (): number => kit.submit('go on', { ignoreEos: true, maxTokens: 200 });
    const first = [start(), start(), start(), start()];
    for (let i = 0; i < 10 && running()[1] !== 4; i++) settle(12);
    expect(running()).toEqual([0, 4, 0]);
    const more = [start(), start()];
    for (let i = 0; i < 10 && running().reduce((sum, n) => sum + n) !== 6; i++) settle(12);
    expect(running().reduce((sum, n) => sum + n)).toBe(6);
    expect(Math.max(...running())).toBeLessThan(6);
    for (const id of [...more, ...first.slice(0, 2)]) kit.cancel(id);
    // They have to be few for 200 ms of real time.
    const isGathered = (): boolean => running().join() === '0,2,0';
    for (let i = 0; i < 80 && !isGathered(); i++) {
      settle(3);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
    expect(running()).toEqual([0, 2, 0]);
    kit.run();
    const { text } = new EngineKit({ maxLen: 256 }).answer('go on', { ignoreEos: true, maxTokens: 200 });
    for (const id of first.slice(2)) expect(kit.outcome(id).text).toBe(text);
  });

  it('ends a request that cannot be encoded without harm to others', () => {
    const kit = new EngineKit({ maxLen: 128 });
    const good = kit.submit('!!say fine !!');
    const bad = kit.submit('x'.repeat(500));
    kit.run();
    expect(kit.outcome(bad)).toMatchObject({ ends: ['error'], error: expect.stringContaining('context_too_long') });
    expect(kit.outcome(good).text).toBe('fine ');
  });

  it('frees the slot of a cancelled request by the next step', () => {
    const kit = new EngineKit({ rows: 1, homes: 1 });
    const first = kit.submit('long', { ignoreEos: true });
    const second = kit.submit('!!say next !!');
    for (let i = 0; i < 20; i++) kit.step(0);
    expect(kit.outcome(first).tokens.length).toBeGreaterThan(5);
    expect(kit.outcome(second).tokens.length).toBe(0);
    kit.cancel(first);
    kit.step(0);
    expect(kit.outcome(first).ends).toEqual(['cancelled']);
    kit.step(0);
    expect(kit.outcome(second).tokens.length).toBeGreaterThan(0);
    kit.run();
    expect(kit.outcome(second).text).toBe('next ');
  });

  it('ends with whole characters where a cancel cuts one', () => {
    for (let numTokens = 1; numTokens <= 5; numTokens++) {
      const kit = new EngineKit({ maxLen: 256 });
      const id = kit.submit('!!say a🙂 !!', {});
      while (kit.outcome(id).tokens.length < numTokens) kit.step(0);
      kit.cancel(id);
      kit.step(0);
      const { text, tokens, ends } = kit.outcome(id);
      expect(ends).toEqual(['cancelled']);
      expect(text).toBe(tokens.length >= 5 ? 'a🙂' : 'a');
    }
  });

  it('refuses what missed its deadline', () => {
    const outcome = new EngineKit().answer('late', { deadline: Date.now() - 1 });
    expect(outcome).toMatchObject({ ends: ['error'], error: expect.stringContaining('deadline_exceeded') });
  });

  it('continues a session in place and reuses the KV of its last turn', () => {
    const kit = new EngineKit();
    const first = kit.answer('!!say hello !!', { session: 's1' });
    expect(first.promptIds).toHaveLength(first.promptTokens);
    const ids = [...first.promptIds, ...first.tokens];
    const second = kit.answer([...ids, 10, 20, 30, 40], { session: 's1' });
    // All but the last sampled token had its KV computed.
    expect(second.cachedTokens).toBe(ids.length - 1);
    expect(kit.gauges.residentSlots).toBe(1);
  });

  it('continues in place also without a session, where the answer comes back in other tokens', () => {
    const kit = new EngineKit();
    const prompt = Array.from({ length: 40 }, (_, i) => 50 + i);
    const first = kit.answer(prompt, { maxTokens: 6 });
    const changed = [...prompt, ...first.tokens.slice(0, 2), 10, 20, 30, 40];
    const second = kit.answer(changed);
    expect(second.cachedTokens).toBe(prompt.length + 2);
    expect(kit.gauges.residentSlots).toBe(1);
    expect(second.text).toBe(new EngineKit().answer(changed).text);
    // Within a prompt it is another one's beginning, which is copied.
    expect(kit.answer([...prompt, 50, 60, 70]).cachedTokens).toBe(prompt.length);
    expect(kit.gauges.residentSlots).toBe(2);
  });

  it('gives no prefix of one tenant to another', () => {
    const kit = new EngineKit();
    const text = 'the same long system prompt for everybody, word by word';
    kit.answer(text, { tenant: 'a' });
    expect(kit.answer(text, { tenant: 'b' }).cachedTokens).toBe(0);
    expect(kit.answer(text, { tenant: 'a' }).cachedTokens).toBeGreaterThan(20);
  });

  it.each([1, 2, 3])('gives each request the answer it gets alone, in any batch, on %i workers', (workers) => {
    const next = random(seed);
    const texts = prompts(24, next);
    const params = texts.map((_, i) => (i % 3 === 0 ? {} : { temperature: 0.9, seed: i, maxTokens: 40 + i }));
    const alone = texts.map((text, i) => new EngineKit().answer(text, params[i]).text);
    const kit = new EngineKit({ workers, rows: 4, speculation: true });
    const ids: number[] = [];
    for (const [i, text] of texts.entries()) {
      ids.push(kit.submit(text, params[i]));
      for (let k = Math.floor(next() * 12); k > 0; k--) kit.step(Math.floor(next() * workers));
    }
    kit.run(() => Math.floor(next() * workers));
    expect(ids.map((id) => kit.outcome(id).text)).toEqual(alone);
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it.each([1, 2, 3, 4, 5, 6])('ends every request exactly once under random cancels (seed offset %i)', (offset) => {
    const next = random(seed + offset);
    const workers = 1 + (offset % 3);
    const kit = new EngineKit({ workers, rows: 2, homes: 2 * workers, speculation: offset % 2 === 0 });
    const ids: number[] = [];
    for (const text of prompts(40, next)) {
      ids.push(kit.submit(text, { temperature: next(), maxTokens: 1 + Math.floor(next() * 60) }));
      for (let k = Math.floor(next() * 6); k > 0; k--) kit.step(Math.floor(next() * workers));
      if (next() < 0.3) kit.cancel(ids[Math.floor(next() * ids.length)]!);
    }
    kit.run(() => Math.floor(next() * workers));
    for (const id of ids) expect(kit.outcome(id).ends, `seed ${seed + offset}`).toHaveLength(1);
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it('preempts what the budget cannot hold, and the answers stay the same', () => {
    const texts = prompts(6, random(seed));
    const options = { maxTokens: 120, ignoreEos: true } as const;
    const alone = texts.map((text) => new EngineKit({ maxLen: 512 }).answer(text, options).text);
    // One full row and home are always there; the rest has room for little more than the prompts.
    const kit = new EngineKit({ rows: 4, homes: 4, maxLen: 512, budgetTokens: 2 * 512 + 1000 });
    const ids = texts.map((text) => kit.submit(text, options));
    kit.run();
    expect(ids.map((id) => kit.outcome(id).text)).toEqual(alone);
    expect(kit.gauges.kvUsedTokens).toBeLessThanOrEqual(2 * 512 + 1000);
  });

  it.each([1, 2])(
    'gives a parked request the text it would have had, and its place to others meanwhile (%i workers)',
    (workers) => {
      const options = { ignoreEos: true, maxTokens: 80 } as const;
      const texts = prompts(6, random(seed));
      const alone = texts.map((text) => new EngineKit().answer(text, options).text);
      // One row per worker: with the first request parked, the others can only run in its place.
      const kit = new EngineKit({ workers, rows: 1, homes: 2 * workers });
      const ids = texts.map((text) => kit.submit(text, options));
      const run = (steps: number): void => {
        for (let i = 0; i < steps; i++) kit.step(i % workers);
      };
      run(30 * workers);
      kit.flag(ids[0]!, Flag.park);
      run(4 * workers);
      const before = kit.outcome(ids[0]!).tokens.length;
      expect(before).toBeGreaterThan(10);
      run(1500);
      expect(kit.outcome(ids[0]!).tokens).toHaveLength(before);
      for (const id of ids.slice(1)) expect(kit.outcome(id).ends).toEqual(['length']);
      kit.flag(ids[0]!, Flag.run);
      kit.run();
      expect(ids.map((id) => kit.outcome(id).text)).toEqual(alone);
    },
  );

  it('ends a parked request that is cancelled', () => {
    const kit = new EngineKit();
    const id = kit.submit('parked', { ignoreEos: true });
    for (let i = 0; i < 20; i++) kit.step(0);
    kit.flag(id, Flag.park);
    for (let i = 0; i < 5; i++) kit.step(0);
    expect(kit.outcome(id).ends).toEqual([]);
    kit.cancel(id);
    kit.run();
    expect(kit.outcome(id).ends).toEqual(['cancelled']);
  });

  it('uses both workers when nothing is to be prefilled', () => {
    const kit = new EngineKit({ workers: 2, rows: 8 });
    const ids = Array.from({ length: 8 }, (_, i) => kit.submit(`stream ${i}`, { ignoreEos: true, maxTokens: 300 }));
    const until = performance.now() + 400;
    // For a time, and on a busy machine for some steps too.
    while (performance.now() < until || kit.steps < 60) kit.step(kit.steps % 2);
    const counts = [0, 1].map((index) => {
      const before = ids.map((id) => kit.outcome(id).tokens.length);
      kit.step(index);
      return ids.filter((id, i) => kit.outcome(id).tokens.length > before[i]!).length;
    });
    if (ids.every((id) => kit.outcome(id).ends.length === 0)) expect(Math.abs(counts[0]! - counts[1]!)).toBeLessThan(2);
    kit.run();
  });

  it.each([1, 2])('lets a prompt have all cores only while nothing decodes in any of %d workers', (workers) => {
    const kit = new EngineKit({ workers });
    const chunks = (): boolean[] => kit.chunksAlone.splice(0);
    // What was computed to learn the rates.
    chunks();
    const first = kit.submit('first', { ignoreEos: true, maxTokens: 400 });
    for (let i = 0; kit.outcome(first).tokens.length < 5; i++) kit.step(i % workers);
    expect(chunks()).toEqual([true]);
    const second = kit.submit('second', { ignoreEos: true, maxTokens: 3 });
    for (let i = 0; kit.outcome(second).ends.length === 0; i++) kit.step(i % workers);
    expect(chunks()).toEqual([false]);
    kit.run();
    kit.answer('third', { maxTokens: 2 });
    expect(chunks()).toEqual([true]);
  });
});

describe('Engine › worker loss', () => {
  it('ends what was lent to a decode worker that died, and goes on with a new one', () => {
    const kit = new EngineKit({ workers: 2, rows: 4 });
    const ids = Array.from({ length: 6 }, (_, i) => kit.submit(`stream ${i}`, { ignoreEos: true, maxTokens: 200 }));
    for (let i = 0; i < 40; i++) kit.step(i % 2);
    kit.spawn(1); // the old one is never stepped again
    kit.post(0, { op: 'lost', index: 1 });
    kit.connect(1);
    kit.run();
    const lost = ids.filter((id) => kit.outcome(id).error.startsWith('worker_lost'));
    expect(lost.length).toBeGreaterThan(0);
    expect(lost.length).toBeLessThan(ids.length);
    for (const id of ids) expect(kit.outcome(id).ends).toHaveLength(1);
    expect(kit.answer('!!say again !!').text).toBe('again ');
  });

  it('keeps the streams of a decode worker when the lead dies', () => {
    const kit = new EngineKit({ workers: 2, rows: 4 });
    const alone = new EngineKit().answer('stream 1', { ignoreEos: true, maxTokens: 200 }).text;
    const ids = [0, 1, 2].map((i) => kit.submit(`stream ${i}`, { ignoreEos: true, maxTokens: 200 }));
    for (let i = 0; i < 30; i++) kit.step(i % 2);
    kit.spawn(0);
    kit.connect(1);
    const survivors = new Set<number>();
    for (let i = 0; i < 2000; i++) kit.step(i % 2);
    for (const id of ids) if (kit.outcome(id).ends.length > 0) survivors.add(id);
    expect(survivors.size).toBeGreaterThan(0);
    if (survivors.has(ids[1]!)) expect(kit.outcome(ids[1]!).text).toBe(alone);
    for (const id of ids) if (!survivors.has(id)) kit.outcomes.delete(id);
    expect(kit.answer('!!say back !!').text).toBe('back ');
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it('is woken by the mail counter, which moves after the message', () => {
    const kit = new EngineKit();
    const before = kit.workers[0]!.engine.seenMail;
    kit.submit('!!say x !!');
    expect(Atomics.load(new Int32Array(kit.workers[0]!.ctl), Ctl.mail)).toBeGreaterThan(before);
    kit.run();
  });
});
