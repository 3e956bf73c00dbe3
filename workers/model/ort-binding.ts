// The only door to onnxruntime. Owns the no-copy hook (README) and sessions; onnx-model and prepack call it.
// Leans on internals of onnxruntime-node 1.30.0, which is why that version is pinned and why every thread tests the
// hook before it trusts it. What must stay true: a run either fills the caller's arrays or throws.
import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';
import type { env as OrtEnv, Tensor as OrtTensor } from 'onnxruntime-common';
import { selfTestGraph } from './self-test-graph.ts';

export type Tensor = OrtTensor;
export type TensorType = 'float32' | 'int8' | 'int32' | 'int64';
export type TensorData = Float32Array | Int8Array | Int32Array | BigInt64Array;
export type Tensors = Record<string, Tensor>;

interface NativeSession {
  loadModel(path: string, options: object): void;
  loadModel(buffer: ArrayBufferLike, byteOffset: number, byteLength: number, options: object): void;
  run(feeds: Tensors, fetches: Record<string, Tensor | null>, options: object): Tensors;
  dispose(): void;
}

interface NativePackage {
  initOrt(): void;
  binding: {
    InferenceSession: new () => NativeSession;
    initOrtOnce(logLevel: number, tensorConstructor: unknown, isMain: boolean): void;
  };
}

const require = createRequire(import.meta.url);
const native = require('onnxruntime-node/dist/binding.js') as NativePackage;
const common = require('onnxruntime-common') as { Tensor: typeof OrtTensor; env: typeof OrtEnv };
export const ortVersion = (require('onnxruntime-node/package.json') as { version: string }).version;

/** Errors of runs are thrown to us; printing them as well would fill a server's log on behalf of its callers. */
const LOG_FATAL = 4;

// The binding makes every fetched output with the constructor registered here. All our outputs have memory of their
// own, so after the computation there is nothing left to make: throwing at the first output skips copying all of them.
const DONE = Symbol('computed');
let isArmed = false;

type TensorArguments = ConstructorParameters<typeof OrtTensor>;
function HookedTensor(...args: TensorArguments): Tensor {
  if (isArmed) throw DONE;
  return new common.Tensor(...args);
}

export interface ThreadHealth {
  /** False: the hook does not work in this thread and every run copies its outputs. */
  noCopy: boolean;
  /** Why not, '' when it works. */
  reason: string;
}

let health: ThreadHealth | undefined;

/**
 * Installs and tests the hook in this thread; later calls return the first verdict. Warns once when it does not work.
 * `loadLock` as in SessionOptions: the test opens a session too.
 */
export function installHook(loadLock?: Int32Array): ThreadHealth {
  if (health !== undefined) return health;
  common.env.logLevel = 'fatal';
  // Order matters: initOrt marks the package as initialised, so that its own later sessions do not undo our hook.
  native.initOrt();
  native.binding.initOrtOnce(LOG_FATAL, HookedTensor, isMainThread);
  // Sessions of the test itself must not wait for its verdict.
  health = { noCopy: true, reason: '' };
  health = selfTest(loadLock);
  if (!health.noCopy) {
    process.emitWarning(`onnxruntime outputs are copied in this thread (slower): ${health.reason}`, 'TokenwireWarning');
  }
  return health;
}

export interface SessionOptions {
  threads: number;
  /**
   * Threads spin while they wait for each other: faster alone on their cores, much slower on shared ones. 'runs': only
   * within a run, so that others get the cores between runs. Default 'never'.
   */
  spin?: 'never' | 'runs' | 'always';
  /**
   * For decode steps: attention without flash kernels, which are faster for long prefill only; and as the same few shapes
   * come again and again, the memory of all values within a run is laid out once for each (README).
   */
  forSteps?: boolean;
  /** One Int32 shared by all threads of the process that open sessions; see `withFlashDisabled`. */
  loadLock?: Int32Array;
  /** Save the optimised graph here with packed weights in `dataName` beside it. */
  prepackTo?: { path: string; dataName: string };
  /** Test switch: behave as if the hook did not work. */
  forceCopy?: boolean;
}

const FLASH_FLAG = 'ORT_GQA_DISABLE_FLASH_ATTENTION';

export class OrtSession {
  /** Runs that copied their outputs. */
  hookMisses = 0;
  #session: NativeSession;
  #noCopy: boolean;

  /** `model`: path, or the bytes of a model without external data. Throws an Error when it cannot be loaded. */
  constructor(model: string | Uint8Array, options: SessionOptions) {
    this.#noCopy = installHook(options.loadLock).noCopy && options.forceCopy !== true;
    this.#session = new native.binding.InferenceSession();
    const nativeOptions = sessionOptions(options);
    const load = (): void => {
      if (typeof model === 'string') this.#session.loadModel(model, nativeOptions);
      else this.#session.loadModel(model.buffer, model.byteOffset, model.byteLength, nativeOptions);
    };
    withFlashDisabled(options.forSteps === true, options.loadLock, load);
  }

  /**
   * Runs the graph; every tensor of `fetches` holds its output afterwards, whether the hook worked or not. A tensor may
   * be both feed and fetch (KV memory); on one that is not grown by the graph itself the result is undefined.
   * Holds the thread. Throws an Error for anything ONNX Runtime refuses; the session stays usable.
   */
  run(feeds: Tensors, fetches: Tensors): void {
    let results: Tensors;
    if (this.#noCopy) {
      isArmed = true;
      try {
        results = this.#session.run(feeds, fetches, {});
      } catch (error) {
        if (error === DONE) return;
        throw error;
      } finally {
        isArmed = false;
      }
    } else {
      // Trust nothing about pre-allocated outputs here: let the runtime allocate, and copy.
      const own = Object.fromEntries(Object.keys(fetches).map((name) => [name, null]));
      results = this.#session.run(feeds, own, {});
    }
    this.hookMisses++;
    for (const [name, fetch] of Object.entries(fetches)) copyInto(fetch, results[name], name);
  }

  dispose(): void {
    this.#session.dispose();
  }
}

/** A tensor over the caller's memory, which may be shared between threads. */
export function tensor(type: TensorType, data: TensorData, dims: number[]): Tensor {
  return new common.Tensor(type, data as never, dims);
}

function copyInto(target: Tensor, result: Tensor | undefined, name: string): void {
  if (result === undefined) throw new Error(`onnxruntime returned no output ${name}`);
  const from = result.data as TensorData;
  const to = target.data as TensorData;
  if (from.length !== to.length) throw new Error(`output ${name} has ${from.length} values, expected ${to.length}`);
  if (from.buffer !== to.buffer || from.byteOffset !== to.byteOffset) (to as Float32Array).set(from as Float32Array);
}

function sessionOptions(options: SessionOptions): object {
  const { spin = 'never' } = options;
  const session: Record<string, unknown> = { intra_op: { allow_spinning: spin === 'never' ? '0' : '1' } };
  if (spin === 'runs') session['force_spinning_stop'] = '1';
  // Smaller pieces of work per thread: 1.2-1.5x at eight rows and more (facts in README).
  if (options.threads >= 2) session['dynamic_block_base'] = '4';
  const prepack = options.prepackTo;
  if (prepack !== undefined) {
    session['save_external_prepacked_constant_initializers'] = '1';
    session['optimized_model_external_initializers_file_name'] = prepack.dataName;
    session['optimized_model_external_initializers_min_size_in_bytes'] = '1024';
  }
  return {
    graphOptimizationLevel: 'all',
    executionMode: 'sequential',
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    enableCpuMemArena: true,
    enableMemPattern: options.forSteps === true,
    logSeverityLevel: LOG_FATAL,
    extra: { session },
    ...(prepack === undefined ? {} : { optimizedModelFilePath: prepack.path }),
  };
}

/**
 * The attention kernel reads its flag from the environment while a session loads, and threads started with
 * SHARE_ENV have one environment: without the lock one thread's flag could reach another's session.
 */
function withFlashDisabled(isDisabled: boolean, lock: Int32Array | undefined, load: () => void): void {
  if (lock !== undefined) while (Atomics.compareExchange(lock, 0, 0, 1) !== 0) Atomics.wait(lock, 0, 1, 1000);
  // Read under the lock: otherwise another thread's flag would be taken for the caller's and put back for good.
  const before = process.env[FLASH_FLAG];
  try {
    if (isDisabled) process.env[FLASH_FLAG] = '1';
    else delete process.env[FLASH_FLAG];
    load();
  } finally {
    if (before === undefined) delete process.env[FLASH_FLAG];
    else process.env[FLASH_FLAG] = before;
    if (lock !== undefined) {
      Atomics.store(lock, 0, 0);
      Atomics.notify(lock, 0, 1);
    }
  }
}

function broken(reason: string): ThreadHealth {
  return { noCopy: false, reason };
}

/** One attention step over a tiny cache: was the cache written in place, did the sentinel arrive, are errors errors? */
function selfTest(loadLock?: Int32Array): ThreadHealth {
  const graph = selfTestGraph();
  let session: OrtSession | undefined;
  try {
    session = new OrtSession(graph.model, { threads: 1, ...(loadLock === undefined ? {} : { loadLock }) });
    const [k, v] = [new Float32Array(graph.cacheLength), new Float32Array(graph.cacheLength)];
    const out = new Float32Array(graph.headDim);
    const longest = Int32Array.of(2);
    const pastK = tensor('float32', k, graph.cacheDims);
    const pastV = tensor('float32', v, graph.cacheDims);
    const feeds: Tensors = {
      qkv: tensor(
        'float32',
        Float32Array.from({ length: 3 * graph.headDim }, (_, i) => i + 1),
        [1, 1, 3 * graph.headDim],
      ),
      past_k: pastK,
      past_v: pastV,
      seqlens_k: tensor('int32', Int32Array.of(1), [1]),
      total_len: tensor('int32', longest, [1]),
    };
    const fetches: Tensors = {
      tick: tensor('int64', new BigInt64Array(1), [1]),
      present_k: pastK,
      present_v: pastV,
      out: tensor('float32', out, [1, 1, graph.headDim]),
    };
    session.run(feeds, fetches);
    if (session.hookMisses > 0) return broken('the run returned instead of stopping at its first output');
    // The new key and value belong at position 1; their values are what qkv held.
    if (k[graph.headDim] !== graph.headDim + 1 || v[graph.headDim] !== 2 * graph.headDim + 1) {
      return broken('the attention cache was not written in place');
    }
    if (!out.some((value) => value !== 0)) return broken('the output buffer was not filled');
    (feeds['seqlens_k']!.data as Int32Array)[0] = graph.maxLen + 4;
    longest[0] = graph.maxLen + 5;
    try {
      session.run(feeds, fetches);
      return broken('a run beyond the cache was not refused');
    } catch (error) {
      return error instanceof Error ? { noCopy: true, reason: '' } : broken('an error arrived as something else');
    }
  } catch (error) {
    return broken(`the test run failed: ${String(error)}`);
  } finally {
    session?.dispose();
  }
}
