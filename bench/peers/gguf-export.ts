// One of our model directories as a GGUF file that llama.cpp and its bindings load: same weights, same tokenizer, same
// chat template. Called by the benches `peers` and `families`. The tokenizer must be a byte-level BPE; what the other
// engine is told of the architecture is in gguf-layout.ts.
import fs from 'node:fs';
import { findModelDirectory, modelId, readJson } from '../../workers/model/model-directory.ts';
import { readSpec } from '../../workers/model/specs/families.ts';
import type { ModelSpec } from '../../workers/model/specs/spec.ts';
import { openWeights } from '../../workers/model/weights/open.ts';
import { findLayout, modelMeta, planTensors } from './gguf-layout.ts';
import { GGUF_ALIGNMENT, writeGguf, type MetaValue } from './gguf-writer.ts';

/** Of matrices; norms and biases are always float32. */
export type WeightEncoding = 'q8_0' | 'f16' | 'f32';

/** general.file_type: most tensors are of this kind. */
const FILE_TYPE = { f32: 0, f16: 1, q8_0: 7 } as const;
const TOKEN_NORMAL = 1;
const TOKEN_CONTROL = 3;

/** Writes `file`; an unfinished one never carries that name. Throws an Error naming what cannot be exported. */
export function exportGguf(model: string, file: string, encoding: WeightEncoding): void {
  const directory = findModelDirectory(model);
  const config = readJson(directory, 'config.json') ?? {};
  const spec = readSpec(config, directory);
  const layout = findLayout(String(config['model_type']), spec, directory);
  const meta = new Map<string, MetaValue>([
    ['general.architecture', { type: 'string', value: layout.architecture }],
    ['general.name', { type: 'string', value: modelId(directory) }],
    ['general.alignment', { type: 'u32', value: GGUF_ALIGNMENT }],
    ['general.file_type', { type: 'u32', value: FILE_TYPE[encoding] }],
    ['general.quantization_version', { type: 'u32', value: 2 }],
    ...modelMeta(layout, spec),
    ...tokenizerMeta(directory, spec),
  ]);
  const unfinished = `${file}.${process.pid}`;
  try {
    writeGguf(unfinished, meta, planTensors(layout, spec, openWeights(directory, spec), encoding));
    fs.renameSync(unfinished, file);
  } finally {
    fs.rmSync(unfinished, { force: true });
  }
}

interface TokenizerFile {
  model?: { type?: string; vocab?: Record<string, number>; merges?: (string | string[])[] };
  added_tokens?: { id: number; content: string; special: boolean }[];
}

function tokenizerMeta(directory: string, spec: ModelSpec): [string, MetaValue][] {
  const { model, added_tokens: added = [] } = (readJson(directory, 'tokenizer.json') ?? {}) as TokenizerFile;
  if (model?.type !== 'BPE' || model.vocab === undefined || model.merges === undefined) {
    throw new Error(`${directory}: tokenizer.json is no BPE tokenizer; only those can be exported`);
  }
  const tokens = Array.from({ length: spec.vocabSize }, (_, id) => `<unused${id}>`);
  const types = tokens.map(() => TOKEN_CONTROL);
  const ids = new Map([...Object.entries(model.vocab), ...added.map(({ id, content }) => [content, id] as const)]);
  for (const [token, id] of ids) {
    if (id >= spec.vocabSize) throw new Error(`${directory}: token id ${id} lies outside the vocabulary`);
    tokens[id] = token;
    types[id] = TOKEN_NORMAL;
  }
  for (const { id, special } of added) if (special) types[id] = TOKEN_CONTROL;
  const merges = model.merges.map((pair) => (typeof pair === 'string' ? pair : pair.join(' ')));
  const config = readJson(directory, 'tokenizer_config.json') ?? {};
  const meta: [string, MetaValue][] = [
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'gpt-2' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    ['tokenizer.ggml.merges', { type: 'strings', value: merges }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ];
  for (const [key, name] of [
    ['bos_token_id', 'bos_token'],
    ['eos_token_id', 'eos_token'],
    ['padding_token_id', 'pad_token'],
  ] as const) {
    const value = ids.get(String(config[name]));
    if (value !== undefined) meta.push([`tokenizer.ggml.${key}`, { type: 'u32', value }]);
  }
  const template = config['chat_template'];
  if (typeof template === 'string') meta.push(['tokenizer.chat_template', { type: 'string', value: template }]);
  return meta;
}
