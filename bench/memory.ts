// Bench `memory`: private memory of the server with one and with two workers, after both have decoded, on a seeded random
// checkpoint of 1.1 billion parameters. The weights are mapped, so the second worker should add little. Linux only.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compileModel } from '../workers/model/compile.ts';
import type { Bench } from './bench.ts';
import { UsageError } from './flags.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { findShape, makeCheckpoint } from './make-checkpoint.ts';
import { Prompts } from './prompts.ts';
import { ServerProcess } from './server-process.ts';

const MAX_CONTEXT = 2048;
const PROMPT_TOKENS = 64;
const STREAMS = 4;
const NUM_TOKENS = 16;

interface Memory {
  privateMb: number;
  rssMb: number;
  kvMb: number;
}

export const bench: Bench = {
  flags: {
    shape: { kind: 'text', fallback: '1.1b', meaning: 'of make-checkpoint.ts: 1.1b, vocabulary, tiny' },
    workers: { kind: 'list', fallback: '1,2', meaning: 'numbers of workers; the first is compared with' },
  },
  async run(flags, report) {
    if (process.platform !== 'linux') throw new UsageError('memory reads /proc, so it needs Linux');
    const shape = findShape(flags.text('shape'));
    const folder = mkdtempSync(join(tmpdir(), 'tokenwire-bench-memory-'));
    try {
      const directory = join(folder, 'checkpoint');
      const cacheDir = join(folder, 'cache');
      let begun = performance.now();
      makeCheckpoint(directory, shape, flags.integer('seed'));
      report.add('checkpoint written in', (performance.now() - begun) / 1000, 's', { shape: flags.text('shape') });
      begun = performance.now();
      const model = await compileModel({ model: directory, cacheDir, maxContext: MAX_CONTEXT });
      report.add('compiled in', (performance.now() - begun) / 1000, 's', { quantization: model.quantization });
      const weightsMb = model.weightsBytes / 2 ** 20;
      report.add('weights', weightsMb, 'MiB', { quantization: model.quantization });
      let first: Memory | null = null;
      for (const workers of flags.list('workers')) {
        const memory = await measure(directory, cacheDir, workers, flags.integer('seed'));
        report.add('private memory', memory.privateMb, 'MiB', { workers });
        report.add('KV memory in use', memory.kvMb, 'MiB', { workers });
        report.add('resident memory', memory.rssMb, 'MiB', { workers });
        if (first !== null) {
          const added = memory.privateMb - first.privateMb;
          report.add('added private memory', added, 'MiB', { workers });
          report.add('added / weights', (100 * added) / weightsMb, '%', { workers });
        }
        first ??= memory;
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

async function measure(directory: string, cacheDir: string, workers: number, seed: number): Promise<Memory> {
  const settings = {
    MODEL: directory,
    MAX_CONTEXT: String(MAX_CONTEXT),
    WORKERS: String(workers),
    THREADS: '1',
    SLOTS: '16',
  };
  const server = await ServerProcess.start({ cacheDir, settings });
  const client = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
  try {
    const result = await client.run({
      url: server.url,
      transport: 'native',
      sockets: 1,
      streams: STREAMS,
      mode: 'burst',
      forMs: 0,
      prompts: new Prompts(directory, seed).many(STREAMS, PROMPT_TOKENS),
      maxTokens: NUM_TOKENS,
      class: 'chat',
    });
    if (result.failed > 0) throw new Error(`${result.failed} requests failed: ${result.errors.join('; ')}`);
    const metrics = await server.metrics();
    const privateKb = server.memoryKb('Private_Clean') + server.memoryKb('Private_Dirty');
    return {
      privateMb: privateKb / 1024,
      rssMb: server.memoryKb('VmRSS') / 1024,
      kvMb: metrics.value('kv_reserved_bytes') / 2 ** 20,
    };
  } finally {
    await client.stop();
    await server.stop();
  }
}
