// A compiled model opened in one thread: decode steps and prefill chunks over KV memory shared with other threads.
// Implements the seam of model.ts for the engine. Knows tensors and graph names; knows nothing of sequences.
// A slot must have one writer at a time: the engine's rule, nothing here can check it.
import { kvArray } from '../messages/models.ts';
import type { CompiledModel, KvArray, ModelShape } from '../messages/models.ts';
import { GraphNames } from './graph-builder.ts';
import type { TopRows } from '../sampling/top-rows.ts';
import type { Model } from './model.ts';
import { OrtSession, tensor, type SessionOptions, type Tensor, type Tensors } from './ort-binding.ts';
import { isLargeVocabulary, TopSelection } from './top-selection.ts';
import { Verifier } from './verifier.ts';

/** KV memory of all slots: per layer one buffer for K and one for V, alternating, [slots, kvHeads, maxLen, headDim]. */
export type KvBuffers = readonly (ArrayBufferLike | KvArray)[];

export interface KvLayout {
  numSlots: number;
  maxLen: number;
}

export interface OpenOptions {
  threads: number;
  /** Threads of a run that has the machine for itself (Model, isAlone); default: `threads`. */
  threadsAlone?: number;
  /** Open decode for such runs too. */
  decodeAlone?: boolean;
  /** Sessions to load. They share the mapped weights; each costs its own arena. */
  role: 'decode' | 'prefill' | 'both';
  /** Load the graphs of `verify` too; needs decode. */
  verify?: boolean;
  /** Leave what only makes a model faster to `openNext`: default false. */
  inParts?: boolean;
  spin?: SessionOptions['spin'];
  /** One Int32 shared by all threads of the process that open models. */
  loadLock?: Int32Array;
  /** Hand out the likeliest tokens (Model.top); default: where the vocabulary is large. */
  selectTop?: boolean;
  /** Test switch: run as if the no-copy hook did not work. */
  forceCopy?: boolean;
}

/** Feeds and fetches of one shape, built once; a run only changes the arrays behind them. */
interface Plan {
  ids: BigInt64Array;
  lengths: Int32Array;
  longest: Int32Array;
  feeds: Tensors;
  fetches: Tensors;
}

/** Decode ranges seen lately; one plan is 2·layers tensor objects, no tensor memory. */
const MAX_PLANS = 128;

export class OnnxModel implements Model {
  readonly vocabSize: number;
  #shape: ModelShape;
  #layout: KvLayout;
  #kv: KvArray[];
  #slotLength: number;
  #decode: OrtSession | null;
  #prefill: OrtSession | null;
  /** The same graphs on more threads. */
  #decodeAlone: OrtSession | null = null;
  #prefillAlone: OrtSession | null = null;
  #verifier: Verifier | null = null;
  #verifierAlone: Verifier | null = null;
  /** What `openNext` opens, in this order. */
  #unopened: (() => void)[] = [];
  #selection: TopSelection | null;
  #top: TopRows | null = null;
  #plans = new Map<number, Plan>();
  #slotTensors = new Map<number, Tensor[]>();
  #tick = tensor('int64', new BigInt64Array(1), [1]);
  /** [rows, vocab], grown to the largest batch so far. */
  #decodeLogits: Float32Array = new Float32Array(0);
  #prefillLogits: Float32Array;
  #prefillIds = new BigInt64Array(0);
  #prefillLength = new Int32Array(1);
  #prefillTotal = new Int32Array(1);
  #logitIndex = new BigInt64Array(1);

  /** Loads the sessions (mapped from the cache file). Throws an Error when layout, buffers and model do not fit together. */
  constructor(compiled: CompiledModel, kv: KvBuffers, layout: KvLayout, options: OpenOptions) {
    const { shape } = compiled;
    this.vocabSize = shape.vocabSize;
    this.#shape = shape;
    this.#layout = layout;
    this.#slotLength = shape.numKvHeads * layout.maxLen * shape.headDim;
    this.#kv = kv.map((memory) => (ArrayBuffer.isView(memory) ? memory : kvArray(shape.kvType, memory)));
    if (layout.maxLen > shape.maxPositions) {
      throw new Error(`slots of ${layout.maxLen} tokens, but the model was compiled for ${shape.maxPositions}`);
    }
    if (this.#kv.length !== 2 * shape.numLayers) {
      throw new Error(`${this.#kv.length} KV buffers for ${shape.numLayers} layers`);
    }
    if (this.#kv.some((view) => view.length < layout.numSlots * this.#slotLength)) {
      throw new Error(`a KV buffer is smaller than ${layout.numSlots} slots of ${layout.maxLen} tokens`);
    }
    this.#prefillLogits = new Float32Array(shape.vocabSize);
    const {
      role,
      verify = false,
      decodeAlone = false,
      threadsAlone = options.threads,
      selectTop = isLargeVocabulary(shape.vocabSize),
      inParts = false,
      ...session
    } = options;
    this.#selection = selectTop ? new TopSelection(shape.vocabSize, session) : null;
    this.#decode = role === 'prefill' ? null : new OrtSession(compiled.decodePath, { ...session, forSteps: true });
    this.#prefill = role === 'decode' ? null : new OrtSession(compiled.prefillPath, session);
    const hasMoreThreads = threadsAlone > options.threads;
    if (role !== 'decode' && hasMoreThreads) {
      this.#unopened.push(() => {
        this.#prefillAlone = new OrtSession(compiled.prefillPath, { ...session, threads: threadsAlone });
      });
    }
    if (role !== 'prefill') {
      // Threads that wait for each other at every operator must spin; between runs others get the cores.
      const alone = { ...session, threads: threadsAlone, spin: 'runs' as const };
      const isDecodedAlone = decodeAlone && hasMoreThreads;
      if (isDecodedAlone) {
        this.#unopened.push(() => {
          this.#decodeAlone = new OrtSession(compiled.decodePath, { ...alone, forSteps: true });
        });
      }
      if (verify) {
        const own = (this.#verifier = new Verifier(shape));
        const all = isDecodedAlone ? (this.#verifierAlone = new Verifier(shape)) : null;
        for (const graph of compiled.verifyGraphs) {
          this.#unopened.push(() => own.open(graph, session));
          if (all !== null) this.#unopened.push(() => all.open(graph, alone));
        }
      }
    }
    if (!inParts) while (this.openNext());
  }

  openNext(): boolean {
    const open = this.#unopened.shift();
    open?.();
    return open !== undefined;
  }

  get top(): TopRows | null {
    return this.#top;
  }

  get hookMisses(): number {
    return this.#parts.reduce((sum, part) => sum + (part?.hookMisses ?? 0), 0);
  }

  get canDecodeAlone(): boolean {
    return this.#decodeAlone !== null;
  }

  decode(first: number, n: number, tokens: ArrayLike<number>, past: ArrayLike<number>, isAlone = false): Float32Array {
    if (this.#decode === null) throw new Error('this model was opened without decode');
    if (n < 1) throw new Error('a decode step needs at least one row');
    this.#checkSlots(first, n);
    const plan = this.#decodePlan(first, n);
    let longest = 0;
    for (let i = 0; i < n; i++) {
      const length = past[i]!;
      this.#checkToken(tokens[i]!);
      this.#checkLength(length, 1);
      plan.ids[i] = BigInt(tokens[i]!);
      plan.lengths[i] = length;
      if (length >= longest) longest = length + 1;
    }
    plan.longest[0] = longest;
    ((isAlone ? this.#decodeAlone : null) ?? this.#decode).run(plan.feeds, plan.fetches);
    this.#top = this.#selection?.select(this.#decodeLogits, n) ?? null;
    return this.#decodeLogits.subarray(0, n * this.vocabSize);
  }

  prefill(
    slot: number,
    ids: ArrayLike<number>,
    past: number,
    wantLogits: boolean,
    isAlone = false,
  ): Float32Array | undefined {
    if (this.#prefill === null) throw new Error('this model was opened without prefill');
    const n = ids.length;
    if (n < 1) throw new Error('a prefill chunk needs at least one token');
    this.#checkSlots(slot, 1);
    this.#checkLength(past, n);
    if (this.#prefillIds.length < n) this.#prefillIds = new BigInt64Array(Math.max(n, 512));
    for (let i = 0; i < n; i++) {
      this.#checkToken(ids[i]!);
      this.#prefillIds[i] = BigInt(ids[i]!);
    }
    this.#prefillLength[0] = past + n - 1;
    this.#prefillTotal[0] = past + n;
    this.#logitIndex[0] = BigInt(n - 1);
    // Chunk lengths vary with load, so these are made per call: 20 µs against milliseconds of work.
    const numLogits = wantLogits ? 1 : 0;
    const feeds: Tensors = {
      [GraphNames.ids]: tensor('int64', this.#prefillIds.subarray(0, n), [1, n]),
      [GraphNames.lengths]: tensor('int32', this.#prefillLength, [1]),
      [GraphNames.longest]: tensor('int32', this.#prefillTotal, [1]),
      [GraphNames.logitIndex]: tensor('int64', this.#logitIndex.subarray(0, numLogits), [numLogits]),
    };
    const fetches: Tensors = { [GraphNames.tick]: this.#tick };
    this.#addKv(feeds, fetches, this.#tensorsOfSlot(slot));
    if (wantLogits) fetches[GraphNames.logits] = tensor('float32', this.#prefillLogits, [1, this.vocabSize]);
    ((isAlone ? this.#prefillAlone : null) ?? this.#prefill).run(feeds, fetches);
    if (!wantLogits) return undefined;
    this.#top = this.#selection?.select(this.#prefillLogits, 1) ?? null;
    return this.#prefillLogits;
  }

  get #parts(): (OrtSession | Verifier | TopSelection | null)[] {
    const decoding = [this.#decode, this.#decodeAlone, this.#verifier, this.#verifierAlone];
    return [...decoding, this.#prefill, this.#prefillAlone, this.#selection];
  }

  get verifySizes(): readonly number[] {
    return this.#verifier?.sizes ?? [];
  }

  verify(slot: number, tokens: ArrayLike<number>, past: number, isAlone = false): Float32Array {
    if (this.#verifier === null) throw new Error('this model was opened without verify');
    this.#checkSlots(slot, 1);
    this.#checkLength(past, tokens.length);
    for (let i = 0; i < tokens.length; i++) this.#checkToken(tokens[i]!);
    const all = isAlone && this.#verifierAlone?.sizes.includes(tokens.length) === true ? this.#verifierAlone : null;
    const verifier = all ?? this.#verifier;
    const logits = verifier.run(slot, this.#tensorsOfSlot(slot), tokens, past);
    this.#top = this.#selection?.select(logits, tokens.length) ?? null;
    return logits;
  }

  dispose(): void {
    for (const part of this.#parts) part?.dispose();
    this.#decode = this.#decodeAlone = this.#prefill = this.#prefillAlone = null;
    this.#verifier = this.#verifierAlone = this.#selection = null;
    this.#unopened = [];
    this.#plans.clear();
    this.#slotTensors.clear();
  }

  #decodePlan(first: number, n: number): Plan {
    const key = first * (this.#layout.numSlots + 1) + n;
    let plan = this.#plans.get(key);
    if (plan === undefined) plan = this.#createPlan(first, n);
    else this.#plans.delete(key);
    this.#plans.set(key, plan);
    evictOldest(this.#plans, MAX_PLANS);
    return plan;
  }

  #createPlan(first: number, n: number): Plan {
    if (this.#decodeLogits.length < n * this.vocabSize) {
      // The plans made so far point into the old buffer.
      this.#plans.clear();
      this.#decodeLogits = new Float32Array(n * this.vocabSize);
    }
    const ids = new BigInt64Array(n);
    const lengths = new Int32Array(n);
    const longest = new Int32Array(1);
    const feeds: Tensors = {
      [GraphNames.ids]: tensor('int64', ids, [n, 1]),
      [GraphNames.lengths]: tensor('int32', lengths, [n]),
      [GraphNames.longest]: tensor('int32', longest, [1]),
      [GraphNames.logitIndex]: tensor(
        'int64',
        BigInt64Array.from({ length: n }, (_, i) => BigInt(i)),
        [n],
      ),
    };
    const logits = this.#decodeLogits.subarray(0, n * this.vocabSize);
    const fetches: Tensors = { [GraphNames.tick]: this.#tick };
    this.#addKv(feeds, fetches, this.#kvTensors(first, n));
    fetches[GraphNames.logits] = tensor('float32', logits, [n, this.vocabSize]);
    return { ids, lengths, longest, feeds, fetches };
  }

  #tensorsOfSlot(slot: number): Tensor[] {
    const tensors = this.#slotTensors.get(slot) ?? this.#kvTensors(slot, 1);
    this.#slotTensors.delete(slot);
    this.#slotTensors.set(slot, tensors);
    evictOldest(this.#slotTensors, MAX_PLANS);
    return tensors;
  }

  /** K and V of every layer for slots [first, first + n), each [n, kvHeads, maxLen, headDim]. */
  #kvTensors(first: number, n: number): Tensor[] {
    const dims = [n, this.#shape.numKvHeads, this.#layout.maxLen, this.#shape.headDim];
    return this.#kv.map((view) =>
      tensor(this.#shape.kvType, view.subarray(first * this.#slotLength, (first + n) * this.#slotLength), dims),
    );
  }

  /** One tensor object on both sides makes the attention write new positions in place. */
  #addKv(feeds: Tensors, fetches: Tensors, kv: Tensor[]): void {
    for (let layer = 0; layer < this.#shape.numLayers; layer++) {
      for (const [i, kind] of (['k', 'v'] as const).entries()) {
        feeds[GraphNames.past(kind, layer)] = fetches[GraphNames.present(kind, layer)] = kv[2 * layer + i]!;
      }
    }
  }

  // ONNX Runtime would refuse these too, but not all of them before it has written into someone's slot.

  #checkSlots(first: number, n: number): void {
    if (Number.isInteger(first) && first >= 0 && first + n <= this.#layout.numSlots) return;
    throw new Error(`slots ${first} to ${first + n - 1} are not among ${this.#layout.numSlots}`);
  }

  #checkToken(token: number): void {
    if (Number.isInteger(token) && token >= 0 && token < this.vocabSize) return;
    throw new Error(`token ${token} is not in a vocabulary of ${this.vocabSize}`);
  }

  #checkLength(past: number, added: number): void {
    if (Number.isInteger(past) && past >= 0 && past + added <= this.#layout.maxLen) return;
    throw new Error(`${added} tokens after ${past} do not fit a slot of ${this.#layout.maxLen}`);
  }
}

function evictOldest<V>(map: Map<number, V>, limit: number): void {
  for (const key of map.keys()) {
    if (map.size <= limit) return;
    map.delete(key);
  }
}
