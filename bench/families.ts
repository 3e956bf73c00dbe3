// Bench `families`: a tiny seeded checkpoint of every family, computed by our float32 graph and by node-llama-cpp from a
// GGUF file with the same weights. Reported is how far the logits are apart over random text, and how many tokens of a
// greedy answer are the same; nothing is timed.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { tinyTensors, writeSafetensors } from '../test/workers/model/checkpoint.ts';
import { families, tinyConfig } from '../test/workers/model/families.ts';
import { argmax, open } from '../test/workers/model/kit.ts';
import { compileModel } from '../workers/model/compile.ts';
import type { Bench } from './bench.ts';
import { exportGguf } from './peers/gguf-export.ts';
import { installPeer, nodeLlamaCpp } from './peers/install.ts';
import { random } from '../test/support/random.ts';

/** Of the random text, and of the greedy answer that follows its last token in a run of its own. */
const TOKENS = 64;
const PROMPT_TOKENS = 40;
const CONTEXT = 128;

/** Fields the other engine's code fixes or leaves out; our own tests vary them against the float reference. */
export const changes: Readonly<Record<string, Record<string, unknown>>> = {
  mistral: { sliding_window: null },
  'phi 3': { sliding_window: null },
  'gemma 2': { query_pre_attn_scalar: 32 },
  'gemma 3': { query_pre_attn_scalar: 32, rope_local_base_freq: 10_000 },
};

/** Families under the scalings that their published files are not made with. */
const longDivisors = [1, 1.2, 1.5, 2, 3, 4, 6, 9];
export const scaled: Readonly<Record<string, [family: string, changes: Record<string, unknown>]>> = {
  'qwen 2.5, yarn': [
    'qwen 2.5',
    { rope_theta: 100, rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 64 } },
  ],
  'phi 3, longrope': [
    'phi 3',
    {
      original_max_position_embeddings: 64,
      rope_scaling: { type: 'longrope', long_factor: longDivisors, short_factor: longDivisors.map(() => 1) },
    },
  ],
};

/** What is used of the other library. */
interface Llama {
  loadModel(options: object): Promise<{
    createContext(options: object): Promise<{
      getSequence(): {
        clearHistory(): Promise<void>;
        controlledEvaluate(input: object[]): Promise<{ next: { logits: Map<number, number> } }[]>;
        evaluate(tokens: number[], options: object): AsyncGenerator<number>;
      };
      dispose(): Promise<void>;
    }>;
    dispose(): Promise<void>;
  }>;
  dispose(): Promise<void>;
}

export const bench: Bench = {
  flags: {
    dir: { kind: 'text', fallback: join(tmpdir(), 'tokenwire-bench-peers'), meaning: 'where peers are installed' },
    family: {
      kind: 'text',
      fallback: '',
      meaning: `one of ${[...Object.keys(families), ...Object.keys(scaled)].join('; ')}; none: all`,
    },
  },
  async run(flags, report) {
    const entry = await installPeer(join(flags.text('dir'), 'node-llama-cpp'), nodeLlamaCpp);
    const library = (await import(pathToFileURL(entry).href)) as { getLlama(options: object): Promise<Llama> };
    const llama = await library.getLlama({ gpu: false, build: 'never', logLevel: 'error' });
    const folder = mkdtempSync(join(tmpdir(), 'tokenwire-bench-families-'));
    const seed = flags.integer('seed');
    const only = flags.text('family');
    try {
      for (const [i, family] of [...Object.keys(families), ...Object.keys(scaled)].entries()) {
        if (only !== '' && only !== family) continue;
        const directory = join(folder, String(i));
        const [base, more] = scaled[family] ?? [family, {}];
        const config = { ...tinyConfig(base), ...changes[base], ...more };
        writeSafetensors(directory, config, tinyTensors(config, seed), 'F32');
        writeTokenizer(directory, Number(config['vocab_size']));
        const draw = random(seed);
        const text = Array.from({ length: TOKENS }, () => Math.floor(draw() * Number(config['vocab_size'])));
        const ours = await computeOurs(directory, text);
        const theirs = await computeTheirs(llama, directory, text);
        const { largest, sameChoices } = compare(ours.logits, theirs.logits);
        const differing = ours.answer.findIndex((id, t) => id !== theirs.answer[t]);
        const same = differing < 0 ? TOKENS : differing;
        report.add('tokens of a greedy answer that are the same, of 64', same, 'tokens', { family });
        report.add('likeliest tokens that are the same, of 64 positions', sameChoices, 'tokens', { family });
        report.add('largest difference of logits, of their spread', largest, 'share', { family });
      }
    } finally {
      await llama.dispose();
      rmSync(folder, { recursive: true });
    }
  },
};

interface Computed {
  /** Of every position of the text. */
  logits: Float32Array[];
  /** Greedy tokens after its beginning. */
  answer: number[];
}

function compare(ours: Float32Array[], theirs: Float32Array[]): { largest: number; sameChoices: number } {
  let [largest, sameChoices] = [0, 0];
  for (const [t, row] of ours.entries()) {
    const other = theirs[t]!;
    const spread = Math.max(...row) - Math.min(...row);
    for (const [i, value] of row.entries()) largest = Math.max(largest, Math.abs(value - other[i]!) / spread);
    if (argmax(row) === argmax(other)) sameChoices++;
  }
  return { largest, sameChoices };
}

async function computeOurs(directory: string, text: readonly number[]): Promise<Computed> {
  const compiled = await compileModel({
    model: directory,
    cacheDir: join(directory, 'cache'),
    maxContext: CONTEXT,
    quantization: 'f32',
  });
  const { model } = open(compiled, { numSlots: 1, maxLen: CONTEXT });
  try {
    const logits = text.map((id, t) => model.decode(0, 1, [id], [t]).slice());
    const answer = [argmax(model.prefill(0, text.slice(0, PROMPT_TOKENS), 0, true)!)];
    while (answer.length < TOKENS) {
      const past = PROMPT_TOKENS + answer.length - 1;
      answer.push(argmax(model.decode(0, 1, [answer.at(-1)!], [past])));
    }
    return { logits, answer };
  } finally {
    model.dispose();
  }
}

async function computeTheirs(llama: Llama, directory: string, text: readonly number[]): Promise<Computed> {
  const file = join(directory, 'model.gguf');
  exportGguf(directory, file, 'f32');
  const model = await llama.loadModel({ modelPath: file });
  // More threads than idle cores make its barriers spin for minutes.
  const context = await model.createContext({
    contextSize: CONTEXT,
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: 'F32',
    experimentalKvCacheValueType: 'F32',
  });
  const sequence = context.getSequence();
  const wanted = { generateNext: { logits: true, options: { temperature: 0 } } };
  const results = await sequence.controlledEvaluate(text.map((id) => [id, wanted]));
  const logits = results.map(({ next }) => {
    const row = new Float32Array(next.logits.size);
    for (const [id, value] of next.logits) row[id] = value;
    return row;
  });
  await sequence.clearHistory();
  const answer: number[] = [];
  const options = { temperature: 0, yieldEogToken: true };
  for await (const id of sequence.evaluate(text.slice(0, PROMPT_TOKENS), options)) {
    answer.push(id);
    if (answer.length === TOKENS) break;
  }
  await context.dispose();
  await model.dispose();
  return { logits, answer };
}

/** A byte-level BPE whose first 256 tokens are the bytes and whose others are pairs of letters: enough to load. */
export function writeTokenizer(directory: string, vocabSize: number): void {
  let shifted = 256;
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : shifted++));
  const letters = [...'abcdefghijklmnopqrstuvwxyz'];
  const pairs = letters.flatMap((a) => letters.map((b) => [a, b] as const)).slice(0, vocabSize - bytes.length);
  const tokens = [...bytes, ...pairs.map((pair) => pair.join(''))];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const merges = pairs.map((pair) => pair.join(' '));
  writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify({ model: { type: 'BPE', vocab, merges } }));
  writeFileSync(join(directory, 'tokenizer_config.json'), '{}');
}

/** Bytes that the GPT-2 alphabet writes as the character of the same number. */
function isPrintable(byte: number): boolean {
  return (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
}
