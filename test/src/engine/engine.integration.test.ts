// The engine with real worker threads over the fake model: concurrency, cancel, and the ways a worker can die.
import { afterEach, describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import { startEngines } from '../../../src/engine/models.ts';
import type { EngineSet } from '../../../src/engine/models.ts';
import type { EngineOptions } from '../../../src/engine/options.ts';
import { generate } from '../support/collect.ts';
import { fakeOptions } from '../support/engine-options.ts';

let set: EngineSet | null = null;

async function start(model: string, options: Partial<EngineOptions> = {}): Promise<EngineSet> {
  set = startEngines(fakeOptions([model], { workers: 2, kvMemoryBytes: 1 << 30, ...options }));
  await set.loaded;
  return set;
}

afterEach(async () => {
  await set?.stop();
  set = null;
});

const endless = { ignoreEos: true, maxTokens: 1500 };

describe('Engine threads', () => {
  it('gives the same texts on one and on two workers, under load', async () => {
    const texts: string[][] = [];
    for (const workers of [1, 2]) {
      const engine = (await start('fake:stepMs=0.2,prefillUs=5', { workers })).find(undefined);
      const runs = Array.from({ length: 24 }, (_, i) => generate(engine, `prompt ${i} 🙂 ${'x'.repeat(i * 7)}`));
      const results = await Promise.all(runs.map((run) => run.done));
      texts.push(results.map((result) => result.text));
      expect(results.every((result) => result.reason === 'stop' && result.numEnds === 1)).toBe(true);
      await set!.stop();
    }
    expect(texts[0]).toEqual(texts[1]);
    expect(texts[0]!.join('').length).toBeGreaterThan(500);
  });

  it('ends a cancelled request and frees its place', async () => {
    const engine = (await start('fake:stepMs=5')).find(undefined);
    const run = generate(engine, 'long', endless);
    await run.tokens(5);
    run.cancel();
    run.cancel();
    const result = await run.done;
    expect(result.reason).toBe('cancelled');
    // On an idle machine one or two more; how many come meanwhile on a busy one is for it to say.
    expect(result.tokenIds.length).toBeLessThan(endless.maxTokens / 2);
    expect((await generate(engine, '!!say after !!').done).text).toBe('after ');
  });

  it('encodes a long prompt elsewhere, and cancels it there too', async () => {
    const engine = (await start('fake:stepMs=0')).find(undefined);
    const long = await generate(engine, `${'y'.repeat(1500)} `.repeat(1)).done;
    expect(long.promptTokens).toBeGreaterThan(1500);
    const tooLong = await generate(engine, 'word '.repeat(400_000)).done;
    expect(tooLong.error?.code).toBe('context_too_long');
    const run = generate(engine, 'word '.repeat(400_000));
    run.cancel();
    expect((await run.done).reason).toBe('cancelled');
  });

  it('refuses more waiting requests than the queue holds', async () => {
    const engine = (await start('fake:stepMs=20')).find(undefined);
    let refused: unknown;
    const runs = [];
    for (let i = 0; i < 1100 && !refused; i++) {
      try {
        runs.push(generate(engine, `n ${i}`, endless));
      } catch (error) {
        refused = error;
      }
    }
    expect(refused).toBeInstanceOf(ServiceError);
    expect(refused).toMatchObject({ code: 'overloaded', retryAfterMs: expect.any(Number) });
    for (const run of runs) run.cancel();
    const results = await Promise.all(runs.map((run) => run.done));
    expect(results.every((result) => result.reason === 'cancelled')).toBe(true);
  });

  it('refuses a tenant that has too much waiting, and still takes others', async () => {
    const queue = { tenantQueueSize: 5 };
    const engine = (await start('fake:stepMs=20', { slots: 4, queue })).find(undefined);
    const runs: ReturnType<typeof generate>[] = [];
    const flood = (): void => {
      for (let i = 0; i < 20; i++) runs.push(generate(engine, `n ${i}`, endless, { tenant: 'greedy' }));
    };
    expect(flood).toThrow(expect.objectContaining({ code: 'rate_limited', retryAfterMs: expect.any(Number) }));
    expect((await generate(engine, '!!say hello !!', {}, { tenant: 'small' }).done).text).toBe('hello ');
    for (const run of runs) run.cancel();
    await Promise.all(runs.map((run) => run.done));
  });

  it('says when to come back to who waited too long, and to whom the deadline passed', async () => {
    const engine = (await start('fake:stepMs=20', { slots: 4, queue: { queueTimeoutMs: 300 } })).find(undefined);
    const runs = [0, 1].map((i) => generate(engine, `n ${i}`, endless));
    await Promise.all(runs.map((run) => run.tokens(1)));
    const late = await generate(engine, 'late').done;
    expect(late.error).toMatchObject({ code: 'queue_timeout', retryAfterMs: expect.any(Number) });
    const overdue = await generate(engine, 'overdue', {}, { deadlineMs: 50 }).done;
    expect(overdue.error).toMatchObject({ code: 'deadline_exceeded', retryAfterMs: expect.any(Number) });
    for (const run of runs) run.cancel();
    await Promise.all(runs.map((run) => run.done));
  });

  it.each(['throw', 'oom'])('loses only the responses of the worker that dies (%s)', async (fault) => {
    const engines = await start('fake:stepMs=2,faults=1');
    const restarts: number[] = [];
    engines.onWorkerRestart = (_, index) => restarts.push(index);
    const engine = engines.find(undefined);
    // Enough streams that both workers hold some.
    const runs = Array.from({ length: 6 }, (_, i) => generate(engine, `stream ${i}`, endless));
    await Promise.all(runs.map((run) => run.tokens(30)));
    const bad = await generate(engine, `!!${fault} !!`).done;
    expect(bad.error?.code).toBe('worker_lost');
    expect(bad.error?.row.retryable).toBe(true);
    const again = await generate(engine, '!!say alive !!').done;
    expect(again.text).toBe('alive ');
    expect(restarts).toHaveLength(1);
    const results = await Promise.all(runs.map((run) => run.done));
    const lost = results.filter((result) => result.reason === 'error');
    expect(lost.length).toBeLessThan(runs.length);
    for (const result of lost) expect(result.error?.code).toBe('worker_lost');
    for (const result of results.filter((r) => r.reason !== 'error')) expect(result.tokenIds).toHaveLength(1500);
    expect(results.every((result) => result.numEnds === 1)).toBe(true);
  });

  it('keeps the streams of the decode worker when the lead dies', async () => {
    const engines = await start('fake:stepMs=2,faults=1');
    const restarts: number[] = [];
    engines.onWorkerRestart = (_, index) => restarts.push(index);
    const engine = engines.find(undefined);
    const runs = Array.from({ length: 4 }, (_, i) => generate(engine, `stream ${i}`, endless));
    await Promise.all(runs.map((run) => run.tokens(30)));
    const bad = await generate(engine, '!!prefill-throw !!').done;
    expect(bad.error?.code).toBe('worker_lost');
    expect(restarts).toEqual([0]);
    const results = await Promise.all(runs.map((run) => run.done));
    expect(results.some((result) => result.reason === 'length')).toBe(true);
    expect(results.every((result) => result.numEnds === 1)).toBe(true);
    expect((await generate(engine, '!!say alive !!').done).text).toBe('alive ');
    expect(engine.gauges.waiting).toBe(0);
  });

  it('reports a worker that dies again and again as fatal', async () => {
    const engines = await start('fake:faults=1');
    const fatal: string[] = [];
    engines.onFatal = (reason) => fatal.push(reason);
    const engine = engines.find(undefined);
    for (let i = 0; i < 6; i++) {
      const result = await generate(engine, '!!prefill-throw !!').done.catch(() => null);
      expect(result?.error?.code).toBe('worker_lost');
      if (fatal.length > 0) break;
    }
    expect(fatal[0]).toMatch(/died 6 times/);
  });

  it('says which model it does not have', async () => {
    const engines = await start('fake:');
    expect(engines.find('default')).toBe(engines.find(undefined));
    expect(() => engines.find('gpt-4')).toThrow(/no model "gpt-4"/);
  });

  it('refuses to start with less memory than one full sequence and names the context that fits', async () => {
    const starting = start('fake:', { kvMemoryBytes: 40_000 });
    await expect(starting).rejects.toThrow(/MAX_CONTEXT=\d+/);
  });
});
