// The rows one worker decodes together: contiguous slots [base, base + rows). A sequence joins at the end (its KV is
// copied from its home), leaves by copying back what it generated (decoding on meanwhile if it goes on elsewhere), and the last row then fills the hole. Copies run
// in slices between steps, so that no step waits long; rows that are not live meanwhile are decoded as dummies whose
// single write lands where the copy will overwrite it or beyond what is valid.
import { sliceTokens } from './kv/kv-memory.ts';
import type { KvMemory } from './kv/kv-memory.ts';
import type { Model } from './model/model.ts';
import type { Outputs } from './outputs.ts';
import type { Sequence, StopCause } from './sequence.ts';
import { isUrgent } from './shares.ts';
import type { Speculator } from './speculator.ts';

/** Rows sampled before the main thread gets the first of them: it delivers while the rest is sampled. */
const PART_EVENTS = 128;
/** The time of a step is the best of so many: one that was preempted says nothing about the model. */
const STEP_WINDOW = 6;

/**
 * How a sequence left its row: finished, handed to another worker, set aside (KV in its home) because nobody reads it
 * or to make room for others, or out of memory.
 */
export type LeaveKind = 'done' | 'moved' | 'parked' | 'yielded' | 'preempted';

type RowState = 'joining' | 'live' | 'leaving' | 'hole';

interface Row {
  state: RowState;
  sequence: Sequence | null;
  /** Positions already copied by the move under way. */
  copied: number;
  /** A hole: the sequence whose row is being copied into it. */
  source: Sequence | null;
  kind: LeaveKind;
  /** Live, and decodes on until all of its past is at home: then it goes to another worker. */
  isDeparting: boolean;
}

export class DecodeRange {
  readonly numRows: number;
  readonly #base: number;
  readonly #kv: KvMemory;
  readonly #onLeft: (sequence: Sequence, kind: LeaveKind) => void;
  readonly #rows: Row[] = [];
  readonly #joining: Sequence[] = [];
  readonly #sliceTokens: number;
  readonly #tokens: Int32Array;
  readonly #past: Int32Array;
  readonly #stepTimes: number[] = [];

  constructor(base: number, numRows: number, kv: KvMemory, onLeft: (sequence: Sequence, kind: LeaveKind) => void) {
    this.numRows = numRows;
    this.#base = base;
    this.#kv = kv;
    this.#onLeft = onLeft;
    this.#sliceTokens = sliceTokens(kv);
    this.#tokens = new Int32Array(numRows);
    this.#past = new Int32Array(numRows);
    for (let row = 0; row < numRows; row++) kv.claim(base + row);
  }

  /** Sequences here that are going to stay: live rows that are not about to go elsewhere, and those still joining. */
  get size(): number {
    const staying = this.#rows.filter((row) => row.state === 'live' && !row.isDeparting);
    return this.#joining.length + staying.length;
  }

  /** Released ones are still here. */
  get isReleasing(): boolean {
    return this.#rows.some((row) => row.isDeparting);
  }

  get numLive(): number {
    return this.#rows.reduce((n, row) => n + (row.state === 'live' ? 1 : 0), 0);
  }

  /** Somebody waits for every token of one of them. */
  get hasUrgent(): boolean {
    return this.sequences().some(({ meta }) => isUrgent(meta));
  }

  /** What a step takes, of late. */
  get stepMs(): number {
    return this.#stepTimes.length > 0 ? Math.min(...this.#stepTimes) : 0;
  }

  /** Nothing to decode and nothing to copy. */
  get isIdle(): boolean {
    return this.#rows.length === 0 && this.#joining.length === 0;
  }

  /** Ids of all sequences that have not been given up through `onLeft`. */
  get ids(): number[] {
    return this.sequences().map((sequence) => sequence.id);
  }

  sequences(): Sequence[] {
    return [...this.#rows.flatMap((row) => row.sequence ?? []), ...this.#joining];
  }

  /** Takes a sequence over; the KV of all its ids but the last is in its home. */
  join(sequence: Sequence): void {
    this.#kv.claim(sequence.home);
    this.#joining.push(sequence);
  }

  /**
   * Lets live and joining sequences go as `verdict` says: 'done' (the client has been told its end), 'parked', or null
   * to stay.
   */
  reap(verdict: (sequence: Sequence) => 'done' | 'parked' | null): void {
    for (const row of this.#rows) {
      const kind = row.state === 'live' ? verdict(row.sequence!) : null;
      if (kind) this.#leave(row, kind);
    }
    for (let i = this.#joining.length - 1; i >= 0; i--) {
      const sequence = this.#joining[i]!;
      const kind = verdict(sequence);
      if (!kind) continue;
      this.#joining.splice(i, 1);
      const row = this.#rows.find((candidate) => candidate.sequence === sequence);
      if (row) this.#vacate(row);
      this.#onLeft(sequence, kind);
    }
  }

  /** Lets `count` live sequences go on in another worker, the last rows first, as soon as their KV is at home. */
  release(count: number): number {
    let released = 0;
    for (let i = this.#rows.length - 1; i >= 0 && released < count; i--) {
      const row = this.#rows[i]!;
      if (row.state !== 'live' || row.isDeparting || !this.#hasRoomAtHome(row)) continue;
      row.isDeparting = true;
      row.kind = 'moved';
      released++;
    }
    return released;
  }

  /** Sends this sequence to its home, to make room for others. False when it does not decode here. */
  yield(id: number): boolean {
    const row = this.#rows.find(({ state, sequence }) => state === 'live' && sequence!.id === id);
    if (!row || !this.#hasRoomAtHome(row)) return false;
    this.#leave(row, 'yielded');
    return true;
  }

  /**
   * One batched decode step. A sequence that is alone here may advance by several tokens when a speculator is given.
   * Returns the number of rows that ran. `postPart` is called between rows of a large batch when so much has been
   * sampled that delivering it should begin.
   */
  decode(model: Model, out: Outputs, speculator: Speculator | null, postPart: () => void): number {
    this.#preemptUnfundable();
    const count = this.#rows.findLastIndex((row) => row.state === 'live') + 1;
    if (count === 0) return 0;
    this.#kv.assertOwned(this.#base, count);
    const only = this.#rows.length === 1 && this.#joining.length === 0 ? this.#rows[0]! : null;
    if (speculator !== null && only !== null) {
      const sequence = only.sequence!;
      // No memory that a plain step would not have asked for.
      const room = this.#kv.mark(this.#base) - sequence.past;
      this.#conclude(only, speculator.step(this.#base, sequence, room, out), out);
      return 1;
    }
    for (let i = 0; i < count; i++) {
      const row = this.#rows[i]!;
      const live = row.state === 'live';
      this.#tokens[i] = live ? row.sequence!.ids.at(-1)! : 0;
      this.#past[i] = live || row.state === 'leaving' ? row.sequence!.past : row.copied;
    }
    const started = performance.now();
    const logits = model.decode(this.#base, count, this.#tokens, this.#past);
    for (let i = 0; i < count; i++) {
      const row = this.#rows[i]!;
      if (row.state !== 'live') continue;
      this.#conclude(row, row.sequence!.accept(logits, i * model.vocabSize, out, model.top), out);
      if (out.numEvents >= PART_EVENTS) postPart();
    }
    this.#stepTimes.push(performance.now() - started);
    if (this.#stepTimes.length > STEP_WINDOW) this.#stepTimes.shift();
    return count;
  }

  #conclude(row: Row, cause: StopCause, out: Outputs): void {
    if (cause === null) return;
    out.conclude(row.sequence!.id, cause);
    this.#leave(row, 'done');
  }

  /** Runs copies for about `budgetMs`; returns the number of tokens moved. */
  move(budgetMs: number): number {
    const until = performance.now() + budgetMs;
    let moved = 0;
    for (;;) {
      const tokens = this.#moveSlice();
      if (tokens < 0) return moved;
      moved += tokens;
      if (performance.now() >= until) return moved;
    }
  }

  /** One slice of the most urgent copy; -1 when there is nothing to copy. */
  #moveSlice(): number {
    const leaving = this.#rows.find((row) => row.state === 'leaving');
    if (leaving) return this.#bringHome(leaving);
    const departing = this.#rows.findLast((row) => row.isDeparting);
    if (departing) {
      if (this.#hasRoomAtHome(departing)) return this.#bringHome(departing);
      departing.isDeparting = false;
      return 0;
    }
    while (this.#rows.at(-1)?.state === 'hole') this.#rows.pop();
    const hole = this.#rows.findIndex((row) => row.state === 'hole');
    if (hole >= 0 && this.#rows.at(-1)!.state === 'live') {
      const tokens = this.#fillHole(hole);
      if (tokens >= 0) return tokens;
    }
    return this.#joinNext();
  }

  #bringHome(row: Row): number {
    const sequence = row.sequence!;
    const { home, past } = sequence;
    if (row.kind === 'preempted' || !this.#kv.reserve(home, past)) {
      this.#vacate(row);
      this.#onLeft(sequence, row.kind);
      return 0;
    }
    const from = sequence.homeLength;
    const to = Math.min(past, from + this.#sliceTokens);
    if (to > from) this.#kv.copy(this.#slot(row), home, from, to);
    sequence.homeLength = Math.max(from, to);
    if (to < past) return to - from;
    this.#vacate(row);
    this.#onLeft(sequence, row.kind);
    return Math.max(0, to - from);
  }

  /** The last row goes on decoding while its past is copied; with the last slice it changes place. */
  #fillHole(index: number): number {
    const hole = this.#rows[index]!;
    const last = this.#rows.at(-1)!;
    const { past } = last.sequence!;
    if (hole.source !== last.sequence) {
      hole.source = last.sequence;
      hole.copied = 0;
    }
    if (!this.#kv.reserve(this.#base + index, past + 1)) return -1;
    const from = hole.copied;
    const to = Math.min(past, from + this.#sliceTokens);
    this.#kv.copy(this.#slot(last), this.#base + index, from, to);
    hole.copied = to;
    if (to === past) {
      this.#rows[index] = last;
      this.#rows.pop();
    }
    return to - from;
  }

  #joinNext(): number {
    const sequence = this.#joining[0];
    if (!sequence) return -1;
    let row = this.#rows.find((candidate) => candidate.state === 'joining');
    if (!row) {
      if (this.#rows.length === this.numRows) return -1;
      if (!this.#kv.reserve(this.#base + this.#rows.length, sequence.past + 1)) {
        this.#joining.shift();
        this.#onLeft(sequence, 'preempted');
        return 0;
      }
      row = { state: 'joining', sequence, copied: 0, source: null, kind: 'done', isDeparting: false };
      this.#rows.push(row);
    }
    const from = row.copied;
    const to = Math.min(sequence.past, from + this.#sliceTokens);
    this.#kv.copy(sequence.home, this.#slot(row), from, to);
    row.copied = to;
    if (to === sequence.past) {
      row.state = 'live';
      this.#joining.shift();
    }
    return to - from;
  }

  /** A live row whose next token finds no memory within the budget gives its seat up and keeps its tokens. */
  #preemptUnfundable(): void {
    for (const [index, row] of this.#rows.entries()) {
      if (row.state === 'live' && !this.#kv.reserve(this.#base + index, row.sequence!.past + 1)) {
        this.#leave(row, 'preempted');
      }
    }
  }

  #leave(row: Row, kind: LeaveKind): void {
    row.state = 'leaving';
    row.kind = kind;
    row.isDeparting = false;
  }

  #vacate(row: Row): void {
    row.state = 'hole';
    row.sequence = null;
    row.source = null;
    row.copied = 0;
    row.isDeparting = false;
  }

  #hasRoomAtHome({ sequence }: Row): boolean {
    return this.#kv.reserve(sequence!.home, sequence!.past);
  }

  #slot(row: Row): number {
    return this.#base + this.#rows.indexOf(row);
  }
}
