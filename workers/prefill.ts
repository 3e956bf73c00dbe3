// Prefill on the lead: which admitted sequence computes its next chunk, and how long that chunk is. The shares say whose
// chunk is next; within a class of a tenant the shortest prompt goes first. Chunks are sized by time from the measured
// rate, so that neither a running stream nor a cancel ever waits for more than one.
import { sliceTokens } from './kv/kv-memory.ts';
import type { KvMemory } from './kv/kv-memory.ts';
import type { LatencyClass } from '../protocol/messages.ts';
import type { Model } from './model/model.ts';
import { PrefillRate } from './prefill-rate.ts';
import type { Sequence } from './sequence.ts';
import { classRank, isUrgent } from './shares.ts';
import type { Claimant, Shares } from './shares.ts';

/** A chunk may take this long when streams decode in the same worker, and this long when none does. */
const SHARED_CHUNK_MS = 24;
const ALONE_CHUNK_MS = 28;
/** Of a prompt that needs several chunks beside streams: one, and the step after it. */
const SHARED_GAP_MS = 22;
/** The less urgent compute so much at once while an urgent prompt may come at any time. */
const BRIEF_CHUNK_MS = 12;
/**
 * Where even a short chunk takes longer: shorter ones read the weights, and far into a long prompt the past, again and
 * again for little. Running streams and urgent prompts are worth some of that.
 */
const MIN_SHARED_CHUNK = 8;
const MIN_ALONE_CHUNK = 16;
const MAX_CHUNK = 512;
/** With nobody near, the end of a prompt may be so many times as long: a chunk more would read all of the past again. */
const LAST_CHUNK = 1.5;
const CALIBRATION_CHUNK = 32;
/** Every so many chunks the oldest prompt of a class goes first, whatever its length: no prompt starves. */
const OLDEST_EVERY = 4;

interface Entry {
  sequence: Sequence;
  /** For its turn: its own, or with the class of who waits for it. */
  meta: Claimant['meta'];
  /** Ids whose KV is in the home. */
  done: number;
  /** Slot a prefix is still being copied from, or -1. */
  copyFrom: number;
  copied: number;
  /** What others wait for: it goes as far as this with the class of the most urgent of them. */
  wantedLength: number | null;
  /** Another choice computed the prompt and this one's first token is sampled: nothing is left to compute. */
  isFork: boolean;
}

export interface ChunkResult {
  sequence: Sequence;
  numTokens: number;
  /** Logits after the last id when the prompt is complete. */
  logits: Float32Array | undefined;
  /** A fork has all the KV it needs in its home and its first token already: it can decode. */
  isForked: boolean;
}

/** Where streams decode while a chunk is computed: it decides how long the chunk may take and on how many threads. */
export type Decoding = 'here' | 'elsewhere' | 'nowhere';

export class Prefill {
  readonly #kv: KvMemory;
  readonly #shares: Shares;
  readonly #entries: Entry[] = [];
  readonly #onCopied: (slot: number) => void;
  readonly #sliceTokens: number;
  readonly #rates = { beside: new PrefillRate(), alone: new PrefillRate() };
  #chunks = 0;

  /** What is prefilled contends in `shares`. `onCopied`: a prefix is no longer needed in the slot it was copied from. */
  constructor(kv: KvMemory, shares: Shares, onCopied: (slot: number) => void) {
    this.#kv = kv;
    this.#shares = shares;
    this.#onCopied = onCopied;
    this.#sliceTokens = sliceTokens(kv);
  }

  get size(): number {
    return this.#entries.length;
  }

  /** One of them is urgent, or somebody urgent waits for it. */
  get hasUrgent(): boolean {
    return this.#entries.some(({ meta }) => isUrgent(meta));
  }

  get sequences(): Sequence[] {
    return this.#entries.map((entry) => entry.sequence);
  }

  /** Measures the first rates in a slot that is the caller's and not in use; also brings the weights into memory. */
  calibrate(model: Model, slot: number): void {
    for (const decoding of ['elsewhere', 'nowhere'] as const) {
      for (let run = 0; run < 2; run++) {
        const started = performance.now();
        model.prefill(slot, new Int32Array(CALIBRATION_CHUNK), 0, true, decoding === 'nowhere');
        this.#rateOf(decoding).add(CALIBRATION_CHUNK, 0, performance.now() - started);
      }
    }
  }

  /** Expected time beside streams for all that is left to compute, and for a prompt of `further` tokens after it. */
  pendingMs(further: number): number {
    const { beside } = this.#rates;
    const left = (entry: Entry): number => beside.spanMs(entry.done, entry.sequence.ids.length);
    return this.#entries.reduce((sum, entry) => sum + left(entry), beside.spanMs(0, further));
  }

  /** Admits a sequence into its home; the KV of its first `cached` ids is there, or is to be copied from `copyFrom`. */
  add(sequence: Sequence, cached: number, copyFrom: number | null): void {
    sequence.homeLength = copyFrom === null ? cached : 0;
    this.#enter(sequence, cached, copyFrom ?? -1, false);
  }

  /** A choice whose prompt another one computed, in the slot `copyFrom`: only its KV is to be copied. */
  addFork(sequence: Sequence, copyFrom: number): void {
    sequence.homeLength = 0;
    this.#enter(sequence, sequence.past, copyFrom, true);
  }

  /** Another prompt of this class waits for the first `length` ids of `sequence`. Said again while that is so. */
  want(sequence: Sequence, length: number, latencyClass: LatencyClass): void {
    const entry = this.#entries.find((candidate) => candidate.sequence === sequence)!;
    if (classRank[latencyClass] < classRank[entry.meta.class]) entry.meta = { ...entry.meta, class: latencyClass };
    entry.wantedLength = Math.min(length, entry.wantedLength ?? Infinity);
  }

  /** Takes a sequence out; its home holds the KV of its first `homeLength` ids. */
  remove(sequence: Sequence): void {
    const index = this.#entries.findIndex((entry) => entry.sequence === sequence);
    const entry = this.#entries.splice(index, 1)[0]!;
    this.#shares.settle(sequence.meta);
    if (entry.copyFrom >= 0) this.#onCopied(entry.copyFrom);
  }

  /** Its chunks would come before those of everything that is being prefilled, but for urgent ones of its own kind. */
  isBeforeAll(sequence: Sequence): boolean {
    const lane = this.#shares.next<Claimant>([...this.#entries, sequence]);
    return lane.at(-1) === sequence && (lane.length === 1 || isUrgent(sequence.meta));
  }

  /**
   * Computes the next chunk; with streams nowhere, on all cores. Prompts of more urgent classes than its own may come at
   * any time down to `expectedRank`: it is brief then. `stepMs`: what a step of the streams in this worker takes.
   */
  step(model: Model, decoding: Decoding, expectedRank: number, stepMs: number): ChunkResult | null {
    const entry = this.#next();
    if (!entry) return null;
    const { sequence } = entry;
    const nothing = { sequence, numTokens: 0, logits: undefined, isForked: false };
    if (entry.copyFrom >= 0 && !this.#copyPrefix(entry)) return nothing;
    if (entry.isFork) {
      this.remove(sequence);
      return { ...nothing, isForked: true };
    }
    const isBrief = classRank[entry.meta.class] > expectedRank;
    const numTokens = this.#chunkLength(entry, decoding, isBrief, stepMs);
    const isLast = entry.done + numTokens === sequence.ids.length;
    this.#kv.assertOwned(sequence.home);
    const started = performance.now();
    const ids = sequence.ids.slice(entry.done, entry.done + numTokens);
    const logits = model.prefill(sequence.home, ids, entry.done, isLast, decoding === 'nowhere');
    this.#rateOf(decoding).add(numTokens, entry.done, performance.now() - started);
    entry.done += numTokens;
    sequence.homeLength = entry.done;
    if (entry.wantedLength !== null && entry.done >= entry.wantedLength) {
      entry.wantedLength = null;
      entry.meta = sequence.meta;
    }
    if (isLast) this.remove(sequence);
    return { sequence, numTokens, logits, isForked: false };
  }

  /** One slice of the prefix; true when all of it is there. */
  #copyPrefix(entry: Entry): boolean {
    const to = Math.min(entry.done, entry.copied + this.#sliceTokens);
    this.#kv.copy(entry.copyFrom, entry.sequence.home, entry.copied, to);
    entry.copied = to;
    entry.sequence.homeLength = to;
    if (to < entry.done) return false;
    this.#onCopied(entry.copyFrom);
    entry.copyFrom = -1;
    return true;
  }

  #enter(sequence: Sequence, done: number, copyFrom: number, isFork: boolean): void {
    this.#kv.claim(sequence.home);
    this.#shares.contend(sequence.meta);
    this.#entries.push({ sequence, meta: sequence.meta, done, copyFrom, copied: 0, wantedLength: null, isFork });
  }

  /** Whom the shares prefer, of those the shortest remaining prompt, with a regular turn for the oldest. */
  #next(): Entry | undefined {
    if (this.#entries.length < 2) return this.#entries[0];
    const lane = this.#shares.next(this.#entries);
    if (++this.#chunks % OLDEST_EVERY === 0) return lane[0];
    // Of about the same length the oldest, else those that came together would overtake each other.
    const size = ({ sequence, wantedLength, done }: Entry): number => {
      return Math.ceil(Math.log2((wantedLength ?? sequence.ids.length) - done));
    };
    return lane.reduce((best, entry) => (size(entry) < size(best) ? entry : best));
  }

  #rateOf(decoding: Decoding): PrefillRate {
    return decoding === 'nowhere' ? this.#rates.alone : this.#rates.beside;
  }

  #chunkLength(entry: Entry, decoding: Decoding, isBrief: boolean, stepMs: number): number {
    const remaining = entry.sequence.ids.length - entry.done;
    const isShared = decoding === 'here';
    const least = isShared || isBrief ? MIN_SHARED_CHUNK : MIN_ALONE_CHUNK;
    const within = (ms: number): number => {
      return Math.max(least, Math.min(MAX_CHUNK, this.#rateOf(decoding).tokensWithin(ms, entry.done)));
    };
    let most = within(isBrief ? BRIEF_CHUNK_MS : isShared ? SHARED_CHUNK_MS : ALONE_CHUNK_MS);
    if (isShared && remaining > most) most = Math.min(most, within(Math.max(BRIEF_CHUNK_MS, SHARED_GAP_MS - stepMs)));
    // A short rest costs a run of its own: of two chunks both have half.
    const isWaitedFor = isShared || isBrief || this.#entries.length > 1;
    const last = isWaitedFor ? most : Math.min(MAX_CHUNK, Math.floor(most * LAST_CHUNK));
    const length = remaining <= last ? remaining : remaining < 2 * most ? Math.ceil(remaining / 2) : most;
    // Never leave a single token: a chunk of one takes another kernel path and rounds differently.
    return remaining - length === 1 ? length - 1 : length;
  }
}
