// Builds one entry of the cache: the graph of decode steps, where it is worth it a second one for prefill, both packed
// and checked, then committed. Called by compile under the entry's lock.
// What must stay true: nothing appears under the entry's name before all of it is there and was compared.
import fs from 'node:fs';
import path from 'node:path';
import type { CompiledModel, ModelShape } from '../messages.ts';
import { divergence, type Graph } from './agreement.ts';
import { checkDiskSpace, commitEntry, createTemporary, hashFiles, type CacheMeta, type Entry } from './cache.ts';
import { buildGraph, type BuildOptions, type LayerKvScales } from './graph-builder.ts';
import { calibrateKv } from './kv-scales.ts';
import { prepack } from './prepack.ts';
import type { QuantizationPlan } from './quantize.ts';
import { numParameters, type ModelSpec } from './specs/spec.ts';
import { agreeingSizes } from './verify-agreement.ts';
import { verifyGraph } from './verify-graph.ts';
import type { WeightSource } from './weights/source.ts';

export interface Job {
  /** As the caller named it, for warnings. */
  model: string;
  spec: ModelSpec;
  source: WeightSource;
  plan: QuantizationPlan;
  shape: ModelShape;
  /** Opens the texts that compare the two graphs. */
  firstToken: number;
}

type Progress = (phase: string, done: number) => void;

const STEPS = 'model';
const CHUNKS = 'prefill';
/** Only while an entry with 8-bit KV memory is built. */
const FLOAT = 'float-kv';
/**
 * A prefill graph further than this from the decode graph is not used. The default model's is at 0.003; against the
 * float reference that meant 0.0023 for texts prefilled as a whole and 0.0017 for answers to prefilled prompts (README).
 */
const MAX_DIVERGENCE = 0.01;

/**
 * Tokens per verifying run. Default model at 256 and 1,024 tokens of context, one thread: 2 tokens cost 1.2-1.3 steps,
 * 4 cost 1.8-2.1, 8 cost 2.9-3.4; the sizes between them gain too little for a session each.
 */
const VERIFY_SIZES = [2, 4, 8];

/** Files that engine workers open. */
export function entryFiles(
  folder: string,
  meta: Pick<CacheMeta, 'hasChunkGraph' | 'verifySizes'>,
): Pick<CompiledModel, 'decodePath' | 'prefillPath' | 'verifyGraphs'> {
  const decodePath = path.join(folder, `${STEPS}.onnx`);
  const prefillPath = meta.hasChunkGraph ? path.join(folder, `${CHUNKS}.onnx`) : decodePath;
  const verifyGraphs = meta.verifySizes.map((numTokens) => ({ numTokens, path: verifyPath(folder, numTokens) }));
  return { decodePath, prefillPath, verifyGraphs };
}

function verifyPath(folder: string, numTokens: number): string {
  return path.join(folder, `verify-${numTokens}.onnx`);
}

/** Throws an Error when the disk is too small or the weights cannot be read; nothing is left behind then. */
export async function buildEntry(job: Job, entry: Entry, progress: Progress): Promise<CacheMeta> {
  const { spec, source, plan, shape } = job;
  const wantsChunkGraph = plan.chunkQkv !== null;
  const isInt8 = shape.kvType === 'int8';
  const numGraphs = 1 + (wantsChunkGraph ? 1 : 0) + (isInt8 ? 1 : 0);
  checkDiskSpace(entry.root, diskBytes(spec, plan, numGraphs));
  const temporary = createTemporary(entry.root);
  let built = 0;
  const part: Progress = (phase, done) => progress(phase, (0.95 * (built + done)) / numGraphs);
  try {
    const float = isInt8 ? await buildFloat(job, temporary, part) : null;
    if (float !== null) built++;
    const kvScales = float?.scales ?? null;
    const steps = await addGraph(job, temporary, 'steps', kvScales, part);
    built++;
    const stepsGraph: Graph = { file: path.join(temporary, `${STEPS}.onnx`), shape };
    let kvDivergence = 0;
    if (float !== null) {
      kvDivergence = divergence(float.graph, stepsGraph, job.firstToken);
      removeGraph(temporary, FLOAT);
    }
    let chunkDivergence: number | null = null;
    let hasChunkGraph = false;
    if (wantsChunkGraph) {
      await addGraph(job, temporary, 'chunks', kvScales, part);
      progress('checking', 0.95);
      const chunksGraph: Graph = { file: path.join(temporary, `${CHUNKS}.onnx`), shape };
      chunkDivergence = divergence(stepsGraph, chunksGraph, job.firstToken);
      // Written so that NaN is refused too.
      hasChunkGraph = chunkDivergence <= MAX_DIVERGENCE;
      if (!hasChunkGraph) removeGraph(temporary, CHUNKS);
    }
    progress('checking', 0.95);
    const verifySizes = addVerifyGraphs(job, temporary);
    const meta = commitEntry(temporary, entry.folder, {
      key: entry.key,
      parts: entry.parts,
      weightsSha256: hashFiles(source.files),
      ...steps,
      hasChunkGraph,
      chunkDivergence,
      kvDivergence,
      verifySizes,
    });
    progress('ready', 1);
    return meta;
  } catch (error) {
    fs.rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** The graph of decode steps over float32 KV memory: it gives the scales, and what 8 bits are compared with. */
async function buildFloat(
  job: Job,
  folder: string,
  progress: Progress,
): Promise<{ graph: Graph; scales: LayerKvScales[] }> {
  const graph: Graph = { file: path.join(folder, `${FLOAT}.onnx`), shape: { ...job.shape, kvType: 'float32' } };
  await buildPlain(job, graph.file, 'steps', null, progress);
  progress('calibrating', 0.8);
  return { graph, scales: calibrateKv(graph.file, graph.shape, job.spec.rotaryDim, job.firstToken) };
}

async function addGraph(
  job: Job,
  folder: string,
  form: BuildOptions['form'],
  kvScales: BuildOptions['kvScales'],
  progress: Progress,
): Promise<{ weightsBytes: number; isPrepacked: boolean }> {
  const name = form === 'steps' ? STEPS : CHUNKS;
  const files = (base: string) => {
    const model = path.join(folder, `${base}.onnx`);
    return { model, data: dataFile(model) };
  };
  const plain = files(`${name}-plain`);
  const final = files(name);
  await buildPlain(job, plain.model, form, kvScales, progress);
  const weightsBytes = fs.statSync(plain.data).size;
  progress('packing', 0.8);
  const isPrepacked = prepack(plain, final, job.shape);
  if (isPrepacked) for (const file of Object.values(plain)) fs.rmSync(file);
  else keepPlain(job.model, plain, final);
  return { weightsBytes, isPrepacked };
}

async function buildPlain(
  job: Job,
  model: string,
  form: BuildOptions['form'],
  kvScales: BuildOptions['kvScales'],
  progress: Progress,
): Promise<void> {
  progress('building', 0);
  const graph = await buildGraph({
    spec: job.spec,
    source: job.source,
    plan: job.plan,
    maxPositions: job.shape.maxPositions,
    dataPath: dataFile(model),
    form,
    kvScales,
    onProgress: async (done) => {
      progress('building', 0.8 * done);
      // Lets timers and messages of this thread through between layers.
      await new Promise((resolve) => setImmediate(resolve));
    },
  });
  fs.writeFileSync(model, graph);
}

function dataFile(model: string): string {
  return `${model}.data`;
}

/** The data file keeps its plain name: the graph refers to it. */
function keepPlain(model: string, plain: { model: string }, final: { model: string }): void {
  process.emitWarning(
    `${model}: its packed form computes something else; workers will not share its weights`,
    'TokenwireWarning',
  );
  fs.renameSync(plain.model, final.model);
}

/** Returns the sizes whose graph was kept: guessed tokens may never change an answer, so agreement is to the bit. */
function addVerifyGraphs({ shape, firstToken }: Job, folder: string): number[] {
  const decode = fs.readFileSync(path.join(folder, `${STEPS}.onnx`));
  const sizes = VERIFY_SIZES.filter((numTokens) => numTokens < shape.maxPositions);
  for (const numTokens of sizes) fs.writeFileSync(verifyPath(folder, numTokens), verifyGraph(decode, numTokens));
  const files = entryFiles(folder, { hasChunkGraph: false, verifySizes: sizes });
  const agreeing = agreeingSizes(files, shape, firstToken);
  for (const size of sizes) if (!agreeing.includes(size)) fs.rmSync(verifyPath(folder, size));
  return agreeing;
}

function removeGraph(folder: string, name: string): void {
  for (const file of fs.readdirSync(folder)) if (file.startsWith(name)) fs.rmSync(path.join(folder, file));
}

/** Plain data, the packed file twice (before and after aligning; it holds both forms of every matrix), and a reserve. */
function diskBytes(spec: ModelSpec, plan: QuantizationPlan, numGraphs: number): number {
  const embedding = spec.vocabSize * spec.hiddenSize * (plan.embedding === 'float16' ? 2 : 4);
  const matrices = numParameters({ ...spec, tiedEmbeddings: true });
  const bits = plan.matrices === null ? 32 : plan.matrices.bits + 32 / plan.matrices.blockSize;
  return Math.ceil(numGraphs * (3 * embedding + 5 * ((matrices * bits) / 8))) + (32 << 20);
}
