// Sessions take a setting from the environment that all threads share; see workers/README.md, "Prefill and decode
// sessions must not see each other's settings". Here this thread stands for one that is just creating its session.
import { SHARE_ENV, Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';

const FLAG = 'ORT_GQA_DISABLE_FLASH_ATTENTION';
const binding = new URL('../../../workers/model/ort-binding.ts', import.meta.url).href;
const graph = new URL('../../../workers/model/self-test-graph.ts', import.meta.url).href;
/** Long enough for the self-test of the thread, which takes milliseconds. */
const WATCH_MS = 500;

it('A thread that opens its first session leaves the settings of a loading one alone', async () => {
  // [lock, phase of the worker]
  const shared = new Int32Array(new SharedArrayBuffer(8));
  shared[0] = 1;
  process.env[FLAG] = '1';
  const code = `
    const shared = require('node:worker_threads').workerData;
    (async () => {
      const { OrtSession } = await import(${JSON.stringify(binding)});
      const { selfTestGraph } = await import(${JSON.stringify(graph)});
      const { model } = selfTestGraph();
      Atomics.store(shared, 1, 1);
      new OrtSession(model, { threads: 1, loadLock: shared }).dispose();
      Atomics.store(shared, 1, 2);
    })();`;
  const worker = new Worker(code, { eval: true, env: SHARE_ENV, workerData: shared });
  const failed = new Promise<never>((_, reject) => worker.once('error', reject));
  const isOnline = new Promise((resolve) => worker.once('online', resolve));
  await Promise.race([isOnline, failed]);
  // Looked at without a pause: the flag would be missing for a moment only.
  let numMissing = 0;
  let untilMs = performance.now() + 120_000;
  for (let hasBegun = false; performance.now() < untilMs;) {
    if (process.env[FLAG] !== '1') numMissing++;
    if (hasBegun || Atomics.load(shared, 1) === 0) continue;
    hasBegun = true;
    untilMs = performance.now() + WATCH_MS;
  }
  expect(numMissing).toBe(0);
  expect(shared[1]).toBe(1);
  Atomics.store(shared, 0, 0);
  Atomics.notify(shared, 0);
  await Promise.race([failed, expect.poll(() => Atomics.load(shared, 1)).toBe(2)]);
  expect(process.env[FLAG]).toBe('1');
  delete process.env[FLAG];
  await worker.terminate();
});
