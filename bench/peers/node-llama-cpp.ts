// Process of the peer node-llama-cpp: one context with a sequence per stream, batched by the library itself. Forked by
// peer-process.ts with the file that re-exports the installed library, the GGUF file, the tokenizer's configuration, the
// number of sequences and of threads.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { IncrementalText } from './incremental-text.ts';
import { runPeer, type ChatRequest, type PeerAnswer, type PeerModel } from './sse-front.ts';

/** What is used of the library; token ids are numbers. */
interface Sequence {
  readonly nextTokenIndex: number;
  adaptStateToTokens(tokens: number[], allowShift: boolean): Promise<void>;
  evaluate(tokens: number[], options: { temperature: number; yieldEogToken: boolean }): AsyncGenerator<number>;
}

interface Model {
  tokenize(text: string, specialTokens: boolean): number[];
  detokenize(tokens: number[]): string;
  createContext(options: object): Promise<{ getSequence(): Sequence }>;
}

interface Library {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<Model> }>;
  Template: new (source: string) => { render(values: object): string };
}

const CONTEXT_TOKENS = 2048;

async function load(): Promise<PeerModel> {
  const [entry, gguf, tokenizerConfig, sequences, threads] = process.argv.slice(2) as [
    string,
    string,
    string,
    string,
    string,
  ];
  const library = (await import(pathToFileURL(entry).href)) as Library;
  const llama = await library.getLlama({ gpu: false, build: 'never', logLevel: 'error' });
  const model = await llama.loadModel({ modelPath: gguf });
  const context = await model.createContext({
    sequences: Number(sequences),
    contextSize: CONTEXT_TOKENS,
    threads: Number(threads),
    flashAttention: true,
  });
  const { chat_template: source } = JSON.parse(readFileSync(tokenizerConfig, 'utf8')) as { chat_template: string };
  const template = new library.Template(source);
  const free = Array.from({ length: Number(sequences) }, () => context.getSequence());
  const waiting: ((sequence: Sequence) => void)[] = [];

  const take = async (): Promise<Sequence> =>
    free.pop() ?? new Promise<Sequence>((resolve) => void waiting.push(resolve));
  const giveBack = (sequence: Sequence): void => {
    const next = waiting.shift();
    if (next === undefined) free.push(sequence);
    else next(sequence);
  };

  return {
    name: 'node-llama-cpp',
    async answer(request, onText, signal) {
      const prompt = model.tokenize(template.render({ messages: request.messages, add_generation_prompt: true }), true);
      const sequence = await take();
      try {
        return await generate(model, sequence, prompt, request, onText, signal);
      } finally {
        giveBack(sequence);
      }
    },
  };
}

async function generate(
  model: Model,
  sequence: Sequence,
  prompt: number[],
  request: ChatRequest,
  onText: (text: string) => void,
  signal: AbortSignal,
): Promise<PeerAnswer> {
  let completionTokens = 0;
  const done = (): PeerAnswer => ({ promptTokens: prompt.length, completionTokens });
  if (signal.aborted) return done();
  // Keeps what the last answer's prompt has in common with this one, as its own chat session would.
  await sequence.adaptStateToTokens(prompt.slice(0, -1), false);
  const text = new IncrementalText<number>((ids) => model.detokenize(ids));
  const options = { temperature: 0, yieldEogToken: request.ignoreEos };
  for await (const token of sequence.evaluate(prompt.slice(sequence.nextTokenIndex), options)) {
    if (signal.aborted) break;
    completionTokens++;
    const piece = text.push(token);
    if (piece !== '') onText(piece);
    if (completionTokens >= request.maxTokens) break;
  }
  return done();
}

runPeer(load);
