// Ending while ONNX Runtime computes is what aborts processes, so this runs on real weights. They also take a while to compile.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { ask, killAll, READY, start } from './server-process.ts';

const cacheDir = mkdtempSync(join(tmpdir(), 'tokenwire-sigterm-'));
afterEach(killAll);
afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));

const NUM_ROUNDS = 20;
const NUM_STREAMS = 8;

describe('SIGTERM under load', () => {
  it('exits 0, twenty times in a row', { timeout: 900_000 }, async () => {
    for (let round = 0; round < NUM_ROUNDS; round++) {
      const started = start('main', ['--drain-timeout', '50ms'], { MODEL: '', CACHE_DIR: cacheDir });
      const [, url] = await started.says(READY);
      const long = { ignore_eos: true, max_tokens: 3000, stream: true };
      const answers = await Promise.all(Array.from({ length: NUM_STREAMS }, () => ask(url!, long)));
      const texts = Promise.all(answers.map((answer) => answer.text()));
      // Spread over the steps and chunks of the engines.
      await new Promise((resolve) => setTimeout(resolve, round * 7));
      started.child.kill('SIGTERM');
      expect(await started.ended, `round ${round}: ${started.output()}`).toEqual({ code: 0, signal: null });
      for (const text of await texts) expect(text).toContain('"code":"shutting_down"');
    }
  });
});

describe('SIGTERM while a model is compiled', () => {
  it('stops the compile and exits 0; nothing of it is left', async () => {
    // Where the signal comes through only when all is compiled, this says nothing: then once more.
    for (let attempt = 1; ; attempt++) {
      const cold = join(cacheDir, `cold-${attempt}`);
      const started = start('main', [], { MODEL: '', CACHE_DIR: cold });
      await started.says(/loading: (building|packing|checking)/);
      started.child.kill('SIGTERM');
      expect(await started.ended, started.output()).toEqual({ code: 0, signal: null });
      expect(started.output()).not.toContain('because of a bug');
      const left = readdirSync(join(cold, 'models'));
      if (attempt === 10 || left.every((name) => name.startsWith('.') || name.endsWith('.lock'))) {
        expect(left).toEqual([]);
        return;
      }
    }
  });
});
