// Models that come and go while others answer: real threads, the fake model, no sockets.
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { queryObjects } from 'node:v8';
import { afterEach, describe, expect, it } from 'vitest';
import { startEngines, type EngineSet } from '../../../src/engine/models.ts';
import type { EngineOptions } from '../../../src/engine/options.ts';
import { chat, generate } from '../support/collect.ts';
import { fakeOptions } from '../support/engine-options.ts';

let set: EngineSet | null = null;

async function start(models: EngineOptions['models'], options: Partial<EngineOptions> = {}): Promise<EngineSet> {
  set = startEngines(fakeOptions(models, options));
  await set.loaded;
  return set;
}

afterEach(async () => {
  await set?.stop();
  set = null;
});

/** Others may use the machine too. */
const WAIT = { timeout: 60_000, interval: 20 };
const endless = { ignoreEos: true, maxTokens: 1500 };
const slow = 'fake:stepMs=5';
/** Shared buffers of this thread, living ones. */
const shared = (): number => Number(queryObjects(SharedArrayBuffer, { format: 'count' }));
const say = (text: string): string => `!!say ${text} !!`;
const states = (engines: EngineSet): string[] => engines.admin.list().map(({ id, state }) => `${id} ${state}`);

/** Tokens of `prompt` by the fake model when nothing happens meanwhile. */
async function undisturbed(prompt: string): Promise<string> {
  const engines = await start(['fake:']);
  const { text } = await generate(engines.find(undefined), prompt, endless).done;
  await engines.stop();
  return text;
}

describe('Models at run time', () => {
  it('are loaded beside others, found by id and alias, and refused twice', async () => {
    const engines = await start([slow]);
    const { admin } = engines;
    const phases: string[] = [];
    const view = await admin.load(
      { spec: 'fake:', id: 'second', aliases: ['two'] },
      { onProgress: ({ progress }) => phases.push(progress?.phase ?? '') },
    );
    expect(view).toMatchObject({ id: 'second', aliases: ['two'], state: 'ready', isDefault: false });
    expect(phases).toContain('starting workers');
    expect(engines.find('two')).toBe(engines.find('second'));
    expect(engines.find(undefined).model.id).toBe('fake');
    expect((await generate(engines.find('two'), say('hello')).done).text).toBe('hello ');
    // The same again is no change; another one of the name is.
    expect(await admin.load({ spec: 'fake:', id: 'second' })).toMatchObject({ id: 'second' });
    await expect(admin.load({ spec: slow, id: 'second' })).rejects.toMatchObject({ code: 'conflict' });
    await expect(admin.load({ spec: slow, id: 'third', aliases: ['two'] })).rejects.toMatchObject({ code: 'conflict' });
    // What asks for no name of its own gets the model's, which is taken.
    await expect(admin.load({ spec: 'fake:stepMs=1' })).rejects.toMatchObject({ code: 'conflict' });
    expect(states(engines)).toEqual(['fake ready', 'second ready', 'fake:stepMs=1 failed']);
    expect(engines.engines.map(({ model }) => model.id)).toEqual(['fake', 'second']);
  });

  it('are one load when two ask for the same at once', async () => {
    const { admin } = await start([slow]);
    const source = { spec: 'fake:', id: 'twin' };
    const [a, b] = await Promise.all([admin.load(source), admin.load(source)]);
    expect(a).toEqual(b);
    expect(admin.list()).toHaveLength(2);
  });

  it('are no more than MAX_MODELS, those that failed not counted', async () => {
    const { admin } = await start([slow], { maxModels: 2 });
    await expect(admin.load({ spec: 'fake:nonsense=1' })).rejects.toMatchObject({ code: 'invalid_request' });
    await admin.load({ spec: 'fake:', id: 'b' });
    await expect(admin.load({ spec: 'fake:', id: 'c' })).rejects.toMatchObject({ code: 'conflict' });
    await admin.unload('b');
    expect(await admin.load({ spec: 'fake:', id: 'c' })).toMatchObject({ state: 'ready' });
  });

  it('leave streams of others alone when they come, are swapped and go, and two tenants too', async () => {
    const expected = await undisturbed('a long story');
    const engines = await start(['fake:stepMs=1']);
    const { admin } = engines;
    const runs = ['a', 'b'].map((tenant) => generate(engines.find('fake'), 'a long story', endless, { tenant }));
    await Promise.all(runs.map((run) => run.tokens(5)));
    await admin.load({ spec: 'fake:', id: 'other' });
    await admin.load({ spec: slow }, { replace: 'other' });
    await admin.unload('other');
    const results = await Promise.all(runs.map((run) => run.done));
    for (const result of results) expect(result).toMatchObject({ text: expected, reason: 'length', numEnds: 1 });
  });

  it('go on with new threads after a swap, while running streams end on the old ones', async () => {
    const expected = await undisturbed('a long story');
    const engines = await start([{ spec: 'fake:stepMs=1', aliases: ['tale'] }]);
    const { admin } = engines;
    const engine = engines.find('tale');
    const runs = [0, 1, 2, 3].map(() => generate(engine, 'a long story', endless));
    await Promise.all(runs.map((run) => run.tokens(3)));
    const view = await admin.load({ spec: 'fake:', aliases: ['saga'] }, { replace: 'fake' });
    expect(view).toMatchObject({ id: 'fake', spec: 'fake:', state: 'ready', aliases: ['tale', 'saga', 'default'] });
    expect(engines.find('saga')).toBe(engine);
    // A session holds on to the engine it began with.
    expect((await generate(engine, say('new'), {}, { session: 's' }).done).text).toBe('new ');
    runs[3]!.cancel();
    const results = await Promise.all(runs.map((run) => run.done));
    expect(results.map(({ reason }) => reason)).toEqual(['length', 'length', 'length', 'cancelled']);
    for (const result of results.slice(0, 3)) expect(result.text).toBe(expected);
    await expect.poll(() => admin.list()[0]!.retired, WAIT).toBe(0);
    const { totalBytes, freeBytes } = admin.kvMemory;
    expect(admin.list()[0]!.kvBytes + freeBytes).toBe(totalBytes);
  });

  it('serve on when their successor cannot be loaded, dies while it starts, or does not fit', async () => {
    const engines = await start([slow]);
    const { admin } = engines;
    const run = generate(engines.find('fake'), 'x', endless);
    await run.tokens(2);
    const swap = (spec: string): Promise<unknown> => admin.load({ spec }, { replace: 'default' });
    await expect(swap('fake:oops=1')).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(swap('./no/such/model')).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(swap('fake:dies=1')).rejects.toMatchObject({ code: 'invalid_request' });
    expect(admin.list()[0]).toMatchObject({ state: 'ready', progress: null, spec: slow, retired: 0 });
    expect(admin.list()[0]!.failure).toMatch(/ordered to die/);
    expect((await generate(engines.find('fake'), say('still')).done).text).toBe('still ');
    run.cancel();
    expect((await run.done).reason).toBe('cancelled');
    expect(await admin.load({ spec: 'fake:' }, { replace: 'fake' })).toMatchObject({ failure: null });
  });

  it('refuse a load that the machine or KV_MEMORY has no room for, and name what is there', async () => {
    let available = 2 ** 40;
    const floor = 2 * 2048 * 32;
    const { admin } = await start([slow], { kvMemoryBytes: 2 * floor, availableBytes: () => available });
    const second = await admin.load({ spec: 'fake:', id: 'b' });
    expect(second.kvBytes).toBe(floor);
    await expect(admin.load({ spec: 'fake:', id: 'c' })).rejects.toThrow(
      'one full context needs 128 KiB of KV memory, and 0 B of 256 KiB are free: unload another model, or raise KV_MEMORY',
    );
    await admin.unload('b');
    expect(await admin.load({ spec: 'fake:', id: 'd', contextLength: 512 })).toMatchObject({ contextLength: 512 });
    available = 1 << 20;
    await expect(admin.load({ spec: 'fake:', id: 'e' })).rejects.toThrow('of memory, and 1 MiB are there');
  });

  it('drain when they are unloaded, and refuse what comes meanwhile', async () => {
    const engines = await start([slow, { spec: 'fake:', id: 'other' }]);
    const gone: string[] = [];
    engines.onModelGone = (model) => gone.push(model);
    const { admin } = engines;
    const engine = engines.find('fake');
    const run = generate(engine, 'x', { ignoreEos: true, maxTokens: 60 });
    await run.tokens(2);
    const unloading = admin.unload('fake');
    expect(states(engines)).toEqual(['fake draining', 'other ready']);
    expect(() => engines.find('fake')).toThrow(expect.objectContaining({ code: 'unknown_model' }));
    expect(() => generate(engine, 'y')).toThrow(expect.objectContaining({ code: 'unknown_model' }));
    // The next one answers to `default`.
    expect(engines.find(undefined).model).toMatchObject({ id: 'other', aliases: ['default'] });
    expect(gone).toEqual([]);
    expect((await run.done).tokenIds).toHaveLength(60);
    await unloading;
    expect(gone).toEqual(['fake']);
    expect(states(engines)).toEqual(['other ready']);
    await expect(admin.unload('fake')).rejects.toMatchObject({ code: 'unknown_model' });
    // Who held on to it goes on with the next one of its name.
    await admin.load({ spec: 'fake:', id: 'fake' });
    expect((await generate(engine, say('back')).done).text).toBe('back ');
    expect(await engine.countTokens(chat('one two'))).toBeGreaterThan(5);
  });

  it('end their streams with an error when they are unloaded by force', async () => {
    const engines = await start([slow, { spec: 'fake:', id: 'other' }]);
    const { admin } = engines;
    const runs = [0, 1].map(() => generate(engines.find('fake'), 'x', endless));
    await Promise.all(runs.map((run) => run.tokens(2)));
    const patient = admin.unload('fake');
    await admin.unload('fake', { isForced: true });
    await patient;
    for (const run of runs) {
      const result = await run.done;
      expect(result).toMatchObject({ numEnds: 1, error: { code: 'unknown_model' } });
      expect(result.error!.message).toBe('model fake was unloaded while it answered');
    }
    await admin.unload('other');
    expect(() => engines.find(undefined)).toThrow('no model is loaded');
    expect(engines.isReady).toBe(false);
  });

  it('can be given up while they are loaded or wait for that', async () => {
    const engines = await start([slow]);
    const { admin } = engines;
    const loads = ['a', 'b'].map((id) => admin.load({ spec: 'fake:', id }));
    const ends = Promise.allSettled(loads);
    expect(() => engines.find('b')).toThrow(expect.objectContaining({ code: 'model_loading' }));
    await Promise.all([admin.unload('a'), admin.unload('b')]);
    expect((await ends).map((end) => (end as PromiseRejectedResult).reason.code)).toEqual(['conflict', 'conflict']);
    expect(states(engines)).toEqual(['fake ready']);
    expect(await admin.load({ spec: 'fake:', id: 'a' })).toMatchObject({ state: 'ready' });
    const { totalBytes, freeBytes } = admin.kvMemory;
    const held = admin.list().reduce((sum, { kvBytes }) => sum + kvBytes, 0);
    await expect.poll(() => held + freeBytes, WAIT).toBe(totalBytes);
  });

  it('sleep when nobody asks, are listed all the same, and wake for the next request', async () => {
    const engines = await start([{ spec: 'fake:', id: 'sleepy' }], { idleTimeoutMs: 150 });
    const { admin } = engines;
    const engine = engines.find('sleepy');
    const run = generate(engine, 'x', { ignoreEos: true, maxTokens: 40 });
    await run.done;
    await expect.poll(() => admin.list()[0]!.state, WAIT).toBe('unloaded');
    await expect.poll(() => admin.kvMemory.freeBytes, WAIT).toBe(admin.kvMemory.totalBytes);
    expect(engines.engines).toHaveLength(1);
    expect(engines.isReady).toBe(true);
    expect(await engine.countTokens(chat('one two'))).toBeGreaterThan(5);
    const cancelled = generate(engines.find(undefined), 'never');
    const runs = [0, 1, 2].map((i) => generate(engines.find(undefined), say(`woken${i}`)));
    cancelled.cancel();
    expect((await cancelled.done).reason).toBe('cancelled');
    expect((await Promise.all(runs.map((each) => each.done))).map(({ text }) => text)).toEqual([
      'woken0 ',
      'woken1 ',
      'woken2 ',
    ]);
  });

  it('tell those who wait when they cannot be opened again, and try once more for the next', async () => {
    const floor = 2 * 2048 * 32;
    const engines = await start([{ spec: 'fake:', id: 'sleepy' }], {
      idleTimeoutMs: 200,
      kvMemoryBytes: 2 * floor - 1,
    });
    const { admin } = engines;
    await expect.poll(() => admin.list()[0]!.state, WAIT).toBe('unloaded');
    // Another one takes the KV memory, and keeps it by being asked.
    await admin.load({ spec: slow, id: 'busy' });
    const run = generate(engines.find('busy'), 'x', endless);
    await run.tokens(1);
    const asked = await generate(engines.find('sleepy'), 'x').done;
    expect(asked.error).toMatchObject({ code: 'model_loading', message: 'model sleepy could not be loaded again' });
    expect(admin.list()[0]!.failure).toContain('KV memory');
    run.cancel();
    await run.done;
    await admin.unload('busy');
    await sleep(1100);
    expect((await generate(engines.find('sleepy'), say('again')).done).text).toBe('again ');
  });

  it('give KV memory back to others once they are idle', async () => {
    const floor = 2 * 2048 * 32;
    const engines = await start(['fake:', { spec: 'fake:', id: 'b' }], { kvMemoryBytes: 4 * floor });
    const { admin } = engines;
    const bytes = (id: string): number => admin.list().find((model) => model.id === id)!.kvBytes;
    // Long prompts of many sessions fill all it may have.
    for (let i = 0; i < 6; i++) {
      await generate(engines.find('fake'), `${i} ${'x'.repeat(1500)}`, {}, { session: `s${i}` }).done;
    }
    expect(bytes('fake')).toBeGreaterThan(floor);
    expect(admin.kvMemory.freeBytes).toBeLessThan(floor);
    const more = await admin.load({ spec: 'fake:', id: 'c' });
    expect(more.state).toBe('ready');
    const held = admin.list().reduce((sum, { kvBytes }) => sum + kvBytes, 0);
    expect(held + admin.kvMemory.freeBytes).toBe(4 * floor);
    expect((await generate(engines.find('fake'), say('here')).done).text).toBe('here ');
  });

  it('follow a list: what is new is loaded, what changed swapped, what is missing unloaded', async () => {
    const engines = await start([
      { spec: 'fake:', id: 'a' },
      { spec: 'fake:', id: 'b' },
    ]);
    const { admin } = engines;
    await admin.load({ spec: 'fake:', id: 'by-hand' });
    expect(await admin.reload()).toMatchObject({ unchanged: ['a', 'b', 'by-hand'], swapped: [], failed: [] });
    const report = await admin.reload([
      { spec: 'fake:', id: 'c', aliases: ['sea'] },
      { spec: 'fake:stepMs=1', id: 'b' },
      { spec: 'fake:wrong=1', id: 'd' },
    ]);
    expect(report).toMatchObject({ loaded: ['c'], swapped: ['b'], unloaded: ['a'], unchanged: [] });
    expect(report.failed).toEqual([{ model: 'd', message: expect.stringContaining('unknown setting "wrong"') }]);
    await expect.poll(() => states(engines), WAIT).toEqual(['c ready', 'b ready', 'by-hand ready', 'd failed']);
    expect(engines.find(undefined).model.id).toBe('c');
    expect(engines.find('sea').model.id).toBe('c');
    // New names only: nothing is loaded for that.
    const again = await admin.reload([
      { spec: 'fake:', id: 'c', aliases: ['ocean'] },
      { spec: 'fake:stepMs=1', id: 'b' },
    ]);
    expect(again).toMatchObject({ unchanged: ['c', 'b'], loaded: [], failed: [] });
    expect(engines.find('ocean').model.id).toBe('c');
    expect(() => engines.find('sea')).toThrow('there is no model "sea"');
    // Another order is told too: the first is the default.
    let told: string[] = [];
    engines.onModelsChanged = () => (told = engines.engines.map(({ model }) => model.id));
    await admin.reload([
      { spec: 'fake:stepMs=1', id: 'b' },
      { spec: 'fake:', id: 'c', aliases: ['ocean'] },
    ]);
    expect(told).toEqual(['b', 'c', 'by-hand']);
  });

  it('free their KV memory when they have ended', async () => {
    const { admin } = await start([slow]);
    // Once it may be what the test before has left that goes; not three times.
    for (let i = 0; i < 3; i++) {
      await admin.load({ spec: 'fake:', id: 'guest' });
      const during = shared();
      await admin.unload('guest');
      await expect.poll(shared, { ...WAIT, interval: 200 }).toBeLessThan(during - 8);
    }
  });

  it('can all end while one is being loaded', async () => {
    const engines = await start([slow]);
    const run = generate(engines.find('fake'), 'x', endless);
    await run.tokens(1);
    const load = engines.admin.load({ spec: 'fake:', id: 'late' }).catch((error: { code: string }) => error.code);
    while (engines.admin.list().length < 2) await setImmediate();
    await engines.stop();
    expect(await load).toBe('shutting_down');
    expect((await run.done).error).toMatchObject({ code: 'shutting_down' });
    await expect(engines.admin.load({ spec: 'fake:', id: 'later' })).rejects.toMatchObject({ code: 'shutting_down' });
  });

  it('leave no thread and no memory behind in 20 loads', async () => {
    const engines = await start([slow]);
    const { admin } = engines;
    const cycle = async (): Promise<void> => {
      await admin.load({ spec: 'fake:', id: 'guest' });
      await generate(engines.find('guest'), 'x'.repeat(300)).done;
      await admin.unload('guest');
    };
    for (let i = 0; i < 5; i++) await cycle();
    const handles = process.getActiveResourcesInfo().length;
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 15; i++) await cycle();
    await sleep(50);
    expect(process.getActiveResourcesInfo().length).toBeLessThanOrEqual(handles + 2);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
    expect(admin.kvMemory.freeBytes).toBe(admin.kvMemory.totalBytes - admin.list()[0]!.kvBytes);
  });
});
