import { describe, expect, it, vi } from 'vitest';
import type { LatencyClass } from '../../protocol/messages.ts';
import { EngineKit } from './support/engine-kit.ts';
import { random } from '../support/random.ts';

const seed = Number(process.env.SEED ?? 20261122);
const endless = { ignoreEos: true, maxTokens: 400 } as const;

function steps(kit: EngineKit, count: number): void {
  for (let i = 0; i < count; i++) kit.step(i % kit.workers.length);
}

function tokensOf(kit: EngineKit, ids: readonly number[]): number {
  return ids.reduce((sum, id) => sum + kit.outcome(id).tokens.length, 0);
}

describe('Engine › fairness', () => {
  it.each([1, 2])(
    'gives a newcomer a row of a tenant that holds them all, and it ends as it would (%i workers)',
    (workers) => {
      const alone = new EngineKit().answer('greedy 1', endless).text;
      const kit = new EngineKit({ workers, rows: 2, homes: 2 * workers + 2 });
      const greedy = [0, 1, 2, 3, 4, 5].map((i) => kit.submit(`greedy ${i}`, { ...endless, tenant: 'greedy' }));
      steps(kit, 200);
      const small = kit.submit('!!say hello there !!', { tenant: 'small' });
      steps(kit, 80);
      expect(kit.outcome(small)).toMatchObject({ text: 'hello there ', ends: ['stop'] });
      expect(greedy.every((id) => kit.outcome(id).ends.length === 0)).toBe(true);
      kit.run();
      expect(kit.outcome(greedy[1]!).text).toBe(alone);
      for (const id of greedy) expect(kit.outcome(id)).toMatchObject({ ends: ['length'] });
      expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
    },
  );

  it('begins voice while chat of the same tenant holds all rows, and chat goes on afterwards', () => {
    const kit = new EngineKit({ rows: 2, homes: 3 });
    const chats = [0, 1].map((i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 60);
    const voice = kit.submit('!!say yes !!', { class: 'voice' });
    const other = kit.submit('!!say no !!');
    steps(kit, 40);
    expect(kit.outcome(voice).text).toBe('yes ');
    kit.run();
    expect(kit.outcome(voice).endedAtStep).toBeLessThan(kit.outcome(other).endedAtStep);
    for (const id of chats) expect(kit.outcome(id).tokens).toHaveLength(400);
  });

  it('keeps a row in eight free for urgent requests, once there has been one', () => {
    const kit = new EngineKit({ rows: 8, homes: 9 });
    expect(kit.answer('!!say ready !!', { class: 'voice' }).text).toBe('ready ');
    const chats = Array.from({ length: 10 }, (_, i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 100);
    const numBegun = (): number => chats.filter((id) => kit.outcome(id).tokens.length > 0).length;
    expect(numBegun()).toBe(7);
    const voice = kit.submit('!!say yes !!', { class: 'voice' });
    const before = chats.map((id) => kit.outcome(id).tokens.length);
    steps(kit, 20);
    expect(kit.outcome(voice).text).toBe('yes ');
    // Nobody had to make room.
    const after = chats.map((id) => kit.outcome(id).tokens.length);
    expect(after.filter((count, i) => count > before[i]! + 15)).toHaveLength(7);
    expect(numBegun()).toBe(7);
    kit.run();
    for (const id of chats) expect(kit.outcome(id).ends).toEqual(['length']);
  });

  it.each([1, 2])('begins voice when all rows are taken, and somebody leaves one meanwhile (%i workers)', (workers) => {
    const kit = new EngineKit({ workers, rows: 8, homes: 12 * workers });
    const desk = { tenant: 'desk', class: 'voice' } as const;
    const numRows = 8 * workers;
    const voices = [kit.submit('voice 0', { ...endless, ...desk })];
    const chats = Array.from({ length: numRows + 2 }, (_, i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 150);
    // One row in eight is free.
    for (let i = 1; i <= workers; i++) voices.push(kit.submit(`voice ${i}`, { ...endless, ...desk }));
    steps(kit, 20);
    expect(kit.gauges.running).toBe(numRows);
    const numTokens = (): number => tokensOf(kit, chats);
    const late = kit.submit('one more', { ...endless, ...desk });
    const before = numTokens();
    for (let i = 0; i < 8 && kit.outcome(late).tokens.length === 0; i++) kit.step(i % workers);
    expect(kit.outcome(late).tokens.length).toBeGreaterThan(0);
    expect(numTokens() - before).toBeLessThan(8 * numRows);
    steps(kit, 80);
    expect(kit.outcome(late).tokens.length).toBeGreaterThan(20 / workers);
    expect(kit.gauges.running).toBeLessThanOrEqual(numRows);
    kit.run();
    for (const id of [...voices, late, ...chats]) expect(kit.outcome(id).ends).toEqual(['length']);
  });

  it('gives all rows to chat where nothing urgent has come', () => {
    const kit = new EngineKit({ rows: 8, homes: 9 });
    const chats = Array.from({ length: 10 }, (_, i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 100);
    expect(chats.filter((id) => kit.outcome(id).tokens.length > 0)).toHaveLength(8);
    for (const id of chats) kit.cancel(id);
    kit.run();
  });

  it('prefills voice at once although as many prompts as may be are being prefilled', () => {
    const kit = new EngineKit({ rows: 16, homes: 16, maxLen: 2048 });
    const long = Array.from({ length: 12 }, (_, i) => kit.submit(`${i} ${'long '.repeat(380)}`, { maxTokens: 2 }));
    steps(kit, 4);
    const voice = kit.submit('!!say yes !!', { class: 'voice' });
    kit.run();
    const before = long.filter((id) => kit.outcome(id).endedAtStep < kit.outcome(voice).endedAtStep);
    expect(before.length).toBeLessThan(8);
  });

  it('computes voice that came during a chunk of others before its own rows decode again', () => {
    const kit = new EngineKit({ rows: 4, homes: 6, maxLen: 2048, prefillUsPerToken: 200 });
    const chat = kit.submit('chat', endless);
    steps(kit, 10);
    const long = kit.submit('long '.repeat(300), { class: 'batch', maxTokens: 2 });
    let voice = 0;
    kit.onChunk = () => {
      kit.onChunk = () => undefined;
      voice = kit.submit([65, 66, 67, 68], { ...endless, class: 'voice' });
    };
    const before = kit.outcome(chat).tokens.length;
    kit.step(0);
    expect(kit.outcome(chat).tokens).toHaveLength(before + 1);
    expect(kit.outcome(voice).tokens).toHaveLength(1);
    expect(kit.outcome(long).tokens).toHaveLength(0);
    for (const id of [chat, long, voice]) kit.cancel(id);
    kit.run();
  });

  it('computes one urgent prompt after the other while none of its own rows is urgent', () => {
    // By a clock that only chunks move, 20 ms each.
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      const kit = new EngineKit({ rows: 8, homes: 10, maxLen: 2048 });
      kit.onChunk = () => void vi.advanceTimersByTime(20);
      const begun = (ids: readonly number[]): number => ids.filter((id) => kit.outcome(id).tokens.length > 0).length;
      const chat = kit.submit('chat', endless);
      steps(kit, 10);
      const before = kit.outcome(chat).tokens.length;
      const first = [1, 2, 3, 4].map((i) => kit.submit(`voice ${i}`, { ...endless, class: 'voice' }));
      kit.step(0);
      // For 48 ms; then the rows decode.
      expect(begun(first)).toBe(3);
      expect(kit.outcome(chat).tokens).toHaveLength(before + 1);
      steps(kit, 3);
      const later = [1, 2, 3].map((i) => kit.submit(`more ${i}`, { ...endless, class: 'voice' }));
      kit.step(0);
      expect(begun(later)).toBe(1);
      for (const id of [...first, ...later]) kit.cancel(id);
      steps(kit, 3);
      // The chunks of a long one take turns with the rows.
      const long = kit.submit('long '.repeat(300), { ...endless, class: 'voice' });
      const tokens = kit.outcome(chat).tokens.length;
      steps(kit, 2);
      expect(kit.outcome(long).tokens).toHaveLength(0);
      expect(kit.outcome(chat).tokens).toHaveLength(tokens + 2);
      for (const id of [chat, long]) kit.cancel(id);
      kit.run();
    } finally {
      vi.useRealTimers();
    }
  });

  it('lets a second urgent prompt in beside the first although eight others are being prefilled', () => {
    const kit = new EngineKit({ rows: 16, homes: 16, maxLen: 2048 });
    const long = Array.from({ length: 8 }, (_, i) => kit.submit(`${i} ${'long '.repeat(380)}`, { tenant: `t${i}` }));
    kit.step(0);
    const voices = [1, 2].map((i) => kit.submit(`${i} voice`, { class: 'voice', tenant: 'desk' }));
    let numIn = 0;
    kit.onChunk = () => {
      kit.onChunk = () => undefined;
      numIn = kit.gauges.running;
    };
    kit.step(0);
    expect(numIn).toBe(long.length + voices.length);
    for (const id of [...long, ...voices]) kit.cancel(id);
    kit.run();
  });

  it('keeps rows free for urgent requests where no prompts are computed', () => {
    const kit = new EngineKit({ workers: 2, rows: 8, homes: 24 });
    expect(kit.answer('!!say ready !!', { class: 'voice' }).text).toBe('ready ');
    const chats = Array.from({ length: 18 }, (_, i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 200);
    expect(kit.workers.map(({ engine }) => engine.numDecoding)).toEqual([8, 6]);
    const voices = [1, 2].map((i) => kit.submit(`voice ${i}`, { ...endless, class: 'voice' }));
    steps(kit, 40);
    expect(kit.workers.map(({ engine }) => engine.numDecoding)).toEqual([8, 8]);
    for (const id of [...chats, ...voices]) kit.cancel(id);
    kit.run();
  });

  it('serves prompts of one class and about one length in the order they came', () => {
    const kit = new EngineKit({ rows: 6, homes: 6, prefillUsPerToken: 100 });
    const ids = ['a', 'b', 'c', 'd'].map((letter, i) => {
      return kit.submit(letter.repeat(60 - i), { class: 'voice', maxTokens: 1 });
    });
    kit.run();
    const ends = ids.map((id) => kit.outcome(id).endedAtStep);
    expect(ends).toEqual(ends.toSorted((a, b) => a - b));
  });

  it('leaves no short rest of a prompt: what is left becomes one chunk or two halves', () => {
    const kit = new EngineKit({ rows: 4, homes: 4, maxLen: 2048, prefillUsPerToken: 200 });
    const lengths: number[] = [];
    let before = 0;
    kit.onChunk = () => {
      lengths.push(kit.numPrefilled - before);
      before = kit.numPrefilled;
    };
    kit.answer('x'.repeat(900), { maxTokens: 1 });
    lengths.push(kit.numPrefilled - before);
    const [beforeLast, last] = lengths.slice(-2);
    expect(last).toBeGreaterThanOrEqual(beforeLast! - 1);
  });

  it('gives the rows kept free to urgent requests although a tenant with more rights waits for a row', () => {
    const kit = new EngineKit({ rows: 8, homes: 9 });
    const desk = { tenant: 'desk', weight: 0.01, class: 'voice' } as const;
    const speaking = kit.submit('voice', { ...endless, ...desk });
    const chats = Array.from({ length: 10 }, (_, i) => kit.submit(`chat ${i}`, endless));
    steps(kit, 100);
    const begun = chats.filter((id) => kit.outcome(id).tokens.length > 0);
    expect(begun).toHaveLength(6);
    const voice = kit.submit('!!say yes !!', desk);
    steps(kit, 20);
    expect(kit.outcome(voice).text).toBe('yes ');
    for (const id of [speaking, ...chats]) kit.cancel(id);
    kit.run();
  });

  it.each([1, 2, 3, 4])('shares tokens by weight among tenants that all want more (seed offset %i)', (offset) => {
    const next = random(seed + offset);
    const workers = 1 + (offset % 2);
    const kit = new EngineKit({ workers, rows: 4, homes: 4 * workers + 4 });
    const tenants = [
      { tenant: 'greedy', weight: 1, streams: 60 },
      { tenant: 'small', weight: 1, streams: 12 },
      { tenant: 'heavy', weight: 2, streams: 24 },
    ];
    const ids = tenants.map(() => [] as number[]);
    for (const [i, { tenant, weight, streams }] of tenants.entries()) {
      for (let k = 0; k < streams; k++) {
        const maxTokens = 60 + Math.floor(next() * 120);
        ids[i]!.push(kit.submit(`${tenant} ${k}`, { tenant, weight, ignoreEos: true, maxTokens }));
      }
    }
    // For as long as everybody has somebody waiting.
    for (let i = 0; tokensOf(kit, ids[1]!) < 800; i++) kit.step(i % workers);
    const got = ids.map((each) => tokensOf(kit, each));
    const total = got.reduce((sum, each) => sum + each, 0);
    for (const [i, { weight }] of tenants.entries()) {
      expect(Math.abs(got[i]! / total - weight / 4), `seed ${seed + offset}: ${got.join(' ')}`).toBeLessThan(0.1);
    }
    kit.run();
    expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
  });

  it.each([1, 2, 3, 4, 5, 6])(
    'gives each request the text it gets alone, however often it made room for others (seed offset %i)',
    (offset) => {
      const next = random(seed + offset);
      const workers = 1 + (offset % 3);
      const classes: LatencyClass[] = ['voice', 'ide', 'chat', 'batch'];
      const kit = new EngineKit({ workers, rows: 1 + (offset % 2), homes: 4 * workers });
      const ids = new Map<number, string>();
      for (let i = 0; i < 40; i++) {
        const tenant = `t${Math.floor(next() * 4)}`;
        const content = `${i} ${'word '.repeat(next() * 20)}`;
        const maxTokens = 5 + Math.floor(next() * 90);
        const options = { class: classes[Math.floor(next() * 4)]!, ignoreEos: true, maxTokens };
        const id = kit.submit(content, { ...options, tenant, weight: 1 + Math.floor(next() * 2) });
        ids.set(id, new EngineKit().answer(content, options).text);
        for (let k = Math.floor(next() * 12); k > 0; k--) kit.step(Math.floor(next() * workers));
        if (next() < 0.1) kit.cancel(id);
      }
      kit.run(() => Math.floor(next() * workers));
      for (const [id, text] of ids) {
        const { ends, text: got } = kit.outcome(id);
        expect(ends, `seed ${seed + offset}, request ${id}`).toHaveLength(1);
        expect(ends[0] === 'cancelled' ? text.slice(0, got.length) : text, `request ${id}`).toBe(got);
      }
      expect(kit.gauges).toMatchObject({ waiting: 0, running: 0 });
    },
  );

  it('refuses what waited too long, and lets what was running before wait on', () => {
    const kit = new EngineKit({ rows: 1, homes: 3 });
    const first = kit.submit('chat', endless);
    steps(kit, 40);
    const late = kit.submit('never begun', { queueDeadline: Date.now() - 1 });
    kit.step(0);
    expect(kit.outcome(late)).toMatchObject({ ends: ['error'], error: expect.stringContaining('queue_timeout') });
    const voice = kit.submit('!!say yes !!', { class: 'voice' });
    kit.run();
    expect(kit.outcome(voice).endedAtStep).toBeLessThan(kit.outcome(first).endedAtStep);
    expect(kit.outcome(first).tokens).toHaveLength(400);
  });
});
