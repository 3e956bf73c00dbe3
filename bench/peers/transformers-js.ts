// Process of the peer transformers.js: the model's own ONNX graph through the library's generate(), one answer at a time,
// since it does not batch separate requests. Forked by peer-process.ts with the file that re-exports the installed
// library and the model's directory.
import { basename, dirname, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { IncrementalText } from './incremental-text.ts';
import { runPeer, type PeerModel } from './sse-front.ts';

interface Inputs {
  input_ids: { dims: number[] };
}

interface Library {
  env: { allowRemoteModels: boolean; localModelPath: string };
  AutoTokenizer: { from_pretrained(name: string): Promise<Tokenizer> };
  AutoModelForCausalLM: { from_pretrained(name: string, options: object): Promise<Model> };
  InterruptableStoppingCriteria: new () => { interrupt(): void };
  BaseStreamer: new () => object;
}

interface Tokenizer {
  apply_chat_template(messages: object[], options: object): Inputs;
  decode(ids: bigint[], options: { skip_special_tokens: boolean }): string;
}

interface Model {
  generate(options: object): Promise<unknown>;
}

async function load(): Promise<PeerModel> {
  const [entry, directory] = process.argv.slice(2) as [string, string];
  const library = (await import(pathToFileURL(entry).href)) as Library;
  library.env.allowRemoteModels = false;
  library.env.localModelPath = dirname(directory) + sep;
  const name = basename(directory);
  const tokenizer = await library.AutoTokenizer.from_pretrained(name);
  const model = await library.AutoModelForCausalLM.from_pretrained(name, { dtype: 'q8', device: 'cpu' });
  let last: Promise<unknown> = Promise.resolve();

  return {
    name: 'transformers.js',
    answer(request, onText, signal) {
      const inputs = tokenizer.apply_chat_template(request.messages, {
        add_generation_prompt: true,
        return_dict: true,
      });
      const promptTokens = inputs.input_ids.dims.at(-1) ?? 0;
      let completionTokens = 0;
      const text = new IncrementalText<bigint>((ids) => tokenizer.decode(ids, { skip_special_tokens: true }));
      const streamer = Object.assign(new library.BaseStreamer(), {
        isPrompt: true,
        put(rows: bigint[][]): void {
          // The first call brings the prompt.
          if (this.isPrompt) this.isPrompt = false;
          else {
            for (const id of rows[0] ?? []) {
              completionTokens++;
              const piece = text.push(id);
              if (piece !== '') onText(piece);
            }
          }
        },
        end(): void {
          // Nothing is held back that could be shown.
        },
      });
      const run = async (): Promise<{ promptTokens: number; completionTokens: number }> => {
        if (!signal.aborted) {
          const stop = new library.InterruptableStoppingCriteria();
          signal.addEventListener('abort', () => stop.interrupt());
          await model.generate({
            ...inputs,
            do_sample: false,
            max_new_tokens: request.maxTokens,
            ...(request.ignoreEos ? { min_new_tokens: request.maxTokens } : {}),
            streamer,
            stopping_criteria: stop,
          });
        }
        return { promptTokens, completionTokens };
      };
      const result = last.then(run);
      last = result.catch(() => {});
      return result;
    },
  };
}

runPeer(load);
