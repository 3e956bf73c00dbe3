// Builds one entry of the cache: the graph of decode steps, where it is worth it a second one for prefill or one in rows
// for both, packed and checked, then committed. Called by compile under the entry's lock.
// What must stay true: nothing appears under the entry's name before all of it is there and was compared.
import fs from 'node:fs';
import path from 'node:path';
import type { CompiledModel, ModelShape } from '../messages/models.ts';
import { divergence, type Graph } from './agreement.ts';
import { checkDiskSpace, commitEntry, createTemporary, hashFiles, type CacheMeta, type Entry } from './cache.ts';
import { floatAttention } from './float-attention.ts';
import { buildGraph, type BuildOptions, type LayerKvScales } from './graph-builder.ts';
import { calibrateKv } from './kv-scales.ts';
import { findMlpOutliers } from './mlp-outliers.ts';
import { prepack } from './prepack.ts';
import type { Progress } from './progress.ts';
import type { QuantizationPlan } from './quantize.ts';
import type { OnStep } from './self-text.ts';
import { numParameters, type ModelSpec } from './specs/spec.ts';
import { agreeingSizes } from './verify-agreement.ts';
import { verifyGraph } from './verify-graph.ts';
import { RoundedSource } from './weights/rounded.ts';
import type { WeightSource } from './weights/source.ts';

export interface Job {
  /** As the caller named it, for warnings. */
  model: string;
  spec: ModelSpec;
  source: WeightSource;
  plan: QuantizationPlan;
  shape: ModelShape;
  /** Products in rows, for steps and chunks, where they come near enough to those in blocks. */
  wantsRows: boolean;
  /** Opens the texts that compare the two graphs. */
  firstToken: number;
}

type FormOptions = Pick<BuildOptions, 'form' | 'kvScales' | 'mlpOutliers'>;

const STEPS = 'model';
const CHUNKS = 'prefill';
/** Decode steps in rows. What prefills beside it names its weights. */
const ROWS = 'rows';
const baseNames = { steps: STEPS, chunks: CHUNKS, rows: ROWS } as const;
/** Only while an entry with 8-bit KV memory is built. */
const FLOAT = 'float-kv';
/**
 * A prefill graph further than this from the decode graph is not used. The default model's is at 0.005; against the
 * float reference that meant 0.0046 for texts prefilled as a whole and 0.0019 for answers to prefilled prompts (README).
 * 8-bit KV memory rounds anew what either graph writes, so what it costs by itself may come on top.
 */
const MAX_DIVERGENCE = 0.01;

/**
 * Tokens per verifying run. Default model at 256 and 1,024 tokens of context, one thread: 2 tokens cost 1.2-1.3 steps,
 * 4 cost 1.8-2.1, 8 cost 2.9-3.4; the sizes between them gain too little for a session each.
 */
const VERIFY_SIZES = [2, 4, 8];

/** Channels of an MLP that stay float in the prefill graph; what fewer cost is in the README. */
const MLP_OUTLIERS = 32;

/** Files that engine workers open. */
export function entryFiles(
  folder: string,
  meta: Pick<CacheMeta, 'products' | 'hasPrefillGraph' | 'verifySizes'>,
): Pick<CompiledModel, 'decodePath' | 'prefillPath' | 'verifyGraphs'> {
  const decodePath = path.join(folder, `${stepsName(meta)}.onnx`);
  const prefillPath = meta.hasPrefillGraph ? path.join(folder, `${CHUNKS}.onnx`) : decodePath;
  const verifyGraphs = meta.verifySizes.map((numTokens) => ({ numTokens, path: verifyPath(folder, numTokens) }));
  return { decodePath, prefillPath, verifyGraphs };
}

function stepsName({ products }: Pick<CacheMeta, 'products'>): string {
  return products === 'rows' ? ROWS : STEPS;
}

function verifyPath(folder: string, numTokens: number): string {
  return path.join(folder, `verify-${numTokens}.onnx`);
}

/** Throws an Error when the disk is too small or the weights cannot be read, and what `progress` throws; nothing is left behind then. */
export async function buildEntry(job: Job, entry: Entry, progress: Progress): Promise<CacheMeta> {
  const { spec, source, plan, shape } = job;
  const wantsChunkGraph = plan.chunkQkv !== null;
  const isInt8 = shape.kvType === 'int8';
  const hasSecond = wantsChunkGraph || job.wantsRows;
  const numGraphs = 1 + (hasSecond ? 1 : 0) + (isInt8 ? 1 : 0);
  checkDiskSpace(entry.root, diskBytes(spec, plan, numGraphs, hasSecond));
  const temporary = createTemporary(entry.root);
  let built = 0;
  const part: Progress = (phase, done) => progress(phase, (0.95 * (built + done)) / numGraphs);
  const onStep = (): void => part('building', 0);
  const onCheck = (): void => progress('checking', 0.95);
  try {
    const float = isInt8 ? await buildFloat(job, temporary, part) : null;
    if (float !== null) built++;
    const kvScales = float?.scales ?? null;
    let steps: Steps = {
      ...(await addGraph(job, temporary, { form: 'steps', kvScales }, part)),
      products: 'blocks',
      rowDivergence: null,
    };
    built++;
    const blocks: Graph = { file: path.join(temporary, `${STEPS}.onnx`), shape };
    let kvDivergence = 0;
    if (float !== null) {
      kvDivergence = divergence(float.graph, blocks, job.firstToken, onStep);
      removeGraph(temporary, FLOAT);
    }
    if (job.wantsRows) {
      const rows = await addGraph(job, temporary, { form: 'rows', kvScales }, part);
      steps = chooseSteps(job, temporary, steps, rows, kvDivergence, onCheck);
    }
    if (wantsChunkGraph && steps.products === 'blocks') {
      const { intermediateSize } = spec;
      const count = Math.min(MLP_OUTLIERS, Math.floor(intermediateSize / 4));
      const mlpOutliers = findMlpOutliers(blocks, intermediateSize, count, job.firstToken, onStep);
      await addGraph(job, temporary, { form: 'chunks', kvScales, mlpOutliers }, part);
    }
    const prefill = addPrefillGraph(job, temporary, steps, kvDivergence, onCheck);
    const verifySizes = addVerifyGraphs(job, temporary, steps, onCheck);
    onCheck();
    const meta = commitEntry(temporary, entry.folder, {
      key: entry.key,
      parts: entry.parts,
      weightsSha256: hashFiles(source.files),
      ...steps,
      ...prefill,
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
  await buildPlain(job, graph.file, { form: 'steps', kvScales: null }, progress);
  const onStep = (): void => progress('calibrating', 0.8);
  return { graph, scales: calibrateKv(graph.file, graph.shape, job.spec.rotaryDim, job.firstToken, onStep) };
}

type PackedGraph = Pick<CacheMeta, 'weightsBytes' | 'isPrepacked'>;
type Steps = PackedGraph & Pick<CacheMeta, 'products' | 'rowDivergence'>;

async function addGraph(job: Job, folder: string, options: FormOptions, progress: Progress): Promise<PackedGraph> {
  const name = baseNames[options.form];
  const files = (base: string) => {
    const model = path.join(folder, `${base}.onnx`);
    return { model, data: dataFile(model) };
  };
  const plain = files(`${name}-plain`);
  const final = files(name);
  await buildPlain(job, plain.model, options, progress);
  const weightsBytes = fs.statSync(plain.data).size;
  const onStep = (): void => progress('packing', 0.8);
  onStep();
  const isPrepacked = prepack(plain, final, job.shape, onStep);
  if (isPrepacked) for (const file of Object.values(plain)) fs.rmSync(file);
  else keepPlain(job.model, plain, final);
  return { weightsBytes, isPrepacked };
}

async function buildPlain(job: Job, model: string, options: FormOptions, progress: Progress): Promise<void> {
  progress('building', 0);
  const graph = await buildGraph({
    spec: job.spec,
    source: roundedFor(job.plan, options.form, job.source),
    plan: job.plan,
    maxPositions: job.shape.maxPositions,
    dataPath: dataFile(model),
    ...options,
    onProgress: async (done) => {
      progress('building', 0.8 * done);
      // Lets timers and messages of this thread through between layers.
      await new Promise((resolve) => setImmediate(resolve));
    },
  });
  fs.writeFileSync(model, graph);
}

/** In 4 bits the graph of chunks has the weights of the other one, and not better ones. */
function roundedFor({ matrices }: QuantizationPlan, form: BuildOptions['form'], source: WeightSource): WeightSource {
  return form === 'chunks' && matrices?.bits === 4 ? new RoundedSource(source, matrices) : source;
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

/** Keeps the graph in rows where it is near enough to the one in blocks, and removes the other of the two. */
function chooseSteps(
  { shape, firstToken }: Job,
  folder: string,
  blocks: Steps,
  rows: PackedGraph,
  kvDivergence: number,
  onStep: OnStep,
): Steps {
  const [base, other] = [STEPS, ROWS].map((name) => ({ file: path.join(folder, `${name}.onnx`), shape }));
  const rowDivergence = divergence(base!, other!, firstToken, onStep);
  const isKept = isNear(rowDivergence, kvDivergence);
  removeGraph(folder, isKept ? STEPS : ROWS);
  return isKept ? { ...rows, products: 'rows', rowDivergence } : { ...blocks, rowDivergence };
}

/** Written so that NaN is refused too. */
function isNear(found: number, kvDivergence: number): boolean {
  return found <= MAX_DIVERGENCE + kvDivergence;
}

/**
 * Keeps the best graph for prefill that is near enough to the decode graph: that of chunks, and one that attends over
 * floats, which a decode graph can give too: the one in rows always, else with 8-bit KV memory.
 */
function addPrefillGraph(
  { spec, shape, firstToken }: Job,
  folder: string,
  steps: Steps,
  kvDivergence: number,
  onStep: OnStep,
): Pick<CacheMeta, 'hasPrefillGraph' | 'prefillDivergence'> {
  const file = (name: string): string => path.join(folder, `${name}.onnx`);
  const isInt8 = shape.kvType === 'int8';
  // The attention kernel for floats leaves out what lies before a window.
  const hasWindow = spec.layers.some(({ window }) => window !== null && window < shape.maxPositions);
  const attendsOverFloats = isInt8 || !hasWindow;
  const decode: Graph = { file: file(stepsName(steps)), shape };
  const prefill: Graph = { file: file(CHUNKS), shape };
  const sources = [
    ...(fs.existsSync(prefill.file) ? [prefill] : []),
    ...(isInt8 || (steps.products === 'rows' && attendsOverFloats) ? [decode] : []),
  ];
  let prefillDivergence: number | null = null;
  for (const source of sources) {
    if (attendsOverFloats) {
      fs.writeFileSync(prefill.file, floatAttention(fs.readFileSync(source.file), shape, spec.rotaryDim));
    }
    prefillDivergence = divergence(decode, prefill, firstToken, onStep);
    if (isNear(prefillDivergence, kvDivergence)) return { hasPrefillGraph: true, prefillDivergence };
    removeGraph(folder, CHUNKS);
  }
  return { hasPrefillGraph: false, prefillDivergence };
}

/** Returns the sizes whose graph was kept: guessed tokens may never change an answer, so agreement is to the bit. */
function addVerifyGraphs({ shape, firstToken }: Job, folder: string, steps: Steps, onStep: OnStep): number[] {
  const decode = fs.readFileSync(path.join(folder, `${stepsName(steps)}.onnx`));
  const sizes = VERIFY_SIZES.filter((numTokens) => numTokens < shape.maxPositions);
  for (const numTokens of sizes) fs.writeFileSync(verifyPath(folder, numTokens), verifyGraph(decode, numTokens));
  const files = entryFiles(folder, { ...steps, hasPrefillGraph: false, verifySizes: sizes });
  const agreeing = agreeingSizes(files, shape, firstToken, onStep);
  for (const size of sizes) if (!agreeing.includes(size)) fs.rmSync(verifyPath(folder, size));
  return agreeing;
}

function removeGraph(folder: string, name: string): void {
  for (const file of fs.readdirSync(folder)) if (file.startsWith(name)) fs.rmSync(path.join(folder, file));
}

/** Of a weight in the graph of chunks, about. */
const CHUNK_BITS = 8.5;

/** Plain data, the packed file twice (before and after aligning; it holds both forms of every matrix), and a reserve. */
function diskBytes(spec: ModelSpec, plan: QuantizationPlan, numGraphs: number, hasChunks: boolean): number {
  const embedding = spec.vocabSize * spec.hiddenSize * (plan.embedding === 'float16' ? 2 : 4);
  const matrices = numParameters({ ...spec, tiedEmbeddings: true });
  const bits = plan.matrices === null ? 32 : plan.matrices.bits + 32 / plan.matrices.blockSize;
  const allBits = hasChunks ? (numGraphs - 1) * bits + CHUNK_BITS : numGraphs * bits;
  return Math.ceil(numGraphs * 3 * embedding + 5 * ((matrices * allBits) / 8)) + (32 << 20);
}
