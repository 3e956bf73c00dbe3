import { afterEach, describe, expect, it, vi } from 'vitest';
import type { EngineShared } from '../../workers/messages/shared.ts';
import { SoloModel } from '../../workers/solo-model.ts';
import type { Model } from '../../workers/model/model.ts';
import { random } from '../support/random.ts';

const seed = Number(process.env.SEED ?? 20261123);

/** Time of a step in ms without noise: of `rows` rows on all cores, and of the fullest worker when they are split. */
interface Costs {
  alone: number;
  own: number;
  split: number;
}

/** Two cores, on which somebody else may compute: then all cores wait for each other, and split rows get less of them. */
class Machine {
  /** Virtual time in ms. */
  nowMs = 0;
  isCrowded = false;
  tokens = 0;
  readonly #next = random(seed);
  readonly #costs: Costs;
  readonly #busy = new Int32Array(new SharedArrayBuffer(8));
  readonly #soloRows = new Int32Array(new SharedArrayBuffer(4));
  readonly #solo: SoloModel;
  readonly #streams: number;
  /** Streams whose prompts are being computed come and go: so many fewer decode at times. */
  readonly #absent: number;
  #isSplit = false;
  #fewSinceMs = 0;

  constructor(streams: number, costs: Costs, absent = 0) {
    this.#streams = streams;
    this.#absent = absent;
    this.#costs = costs;
    vi.spyOn(performance, 'now').mockImplementation(() => this.nowMs);
    const model = {
      canDecodeAlone: true,
      decode: (_first: number, rows: number, _tokens: unknown, _past: unknown, isAlone: boolean) => {
        const ms = this.stepMs(isAlone ? 'alone' : this.#busy[0] === 1 || rows < streams - absent ? 'split' : 'own');
        // One row alone: what is expected of several follows from it.
        this.nowMs += absent > 0 && rows === 1 && !isAlone ? ms / 2 : ms;
      },
    };
    const shared = { busy: this.#busy.buffer, soloRows: this.#soloRows.buffer };
    const takeWait = (): number => (this.isCrowded ? 0.3 : 0.1);
    this.#solo = new SoloModel(model as unknown as Model, shared as unknown as EngineShared, 1, 'blocks', takeWait);
    // What one row costs is known from streams that ran alone.
    for (const from = this.nowMs; this.nowMs < from + 3000;) this.#solo.decode(0, 1, [], []);
    this.nowMs = this.tokens = 0;
    this.#solo.takeChange();
  }

  stepMs(way: keyof Costs): number {
    const ms = this.#costs[way] * (0.9 + 0.2 * this.#next());
    if (!this.isCrowded || way === 'own') return ms;
    return way === 'split' ? ms * 1.4 : ms * (this.#next() < 1 / 3 ? 5 : 2);
  }

  /** Decodes with the streams where the lead would leave them. */
  run(forMs: number): void {
    for (const until = this.nowMs + forMs; this.nowMs < until;) {
      const streams = this.#streams - Math.floor((1 + Math.sin(this.nowMs / 90)) * 0.5 * (this.#absent + 1));
      const isFew = streams <= Atomics.load(this.#soloRows, 0);
      if (!isFew) this.#fewSinceMs = this.nowMs;
      if (this.#isSplit === isFew && (!isFew || this.nowMs - this.#fewSinceMs > 200)) {
        this.#isSplit = !isFew;
        this.nowMs += 20;
      }
      this.#busy[0] = this.#isSplit ? 1 : 0;
      const rows = this.#isSplit ? Math.ceil(streams / 2) : streams;
      const before = Atomics.load(this.#soloRows, 0);
      this.#solo.decode(0, rows, [], []);
      // The lead sleeps while streams are gathered, and would leave them on one core.
      expect(this.#solo.takeChange()).toBe(Atomics.load(this.#soloRows, 0) !== before);
      this.tokens += streams;
    }
  }
}

interface Phase {
  isCrowded: boolean;
  ms: number;
}

/** Tokens to those of the better of both ways, had it been kept throughout. */
function worth(streams: number, costs: Costs, phases: readonly Phase[], absent = 0): number {
  const machine = new Machine(streams, costs, absent);
  for (const { isCrowded, ms } of phases) {
    machine.isCrowded = isCrowded;
    machine.run(ms);
  }
  const { tokens } = machine;
  const fixed = (['alone', 'split'] as const).map((way) => {
    let sum = 0;
    for (const { isCrowded, ms } of phases) {
      machine.isCrowded = isCrowded;
      for (let spentMs = 0; spentMs < ms; spentMs += machine.stepMs(way)) sum += streams - absent / 2;
    }
    return sum;
  });
  return tokens / Math.max(...fixed);
}

const quiet = { isCrowded: false, ms: 60_000 };
const crowded = { isCrowded: true, ms: 60_000 };

describe(`SoloModel on a simulated machine (seed ${seed})`, () => {
  afterEach(() => void vi.restoreAllMocks());

  // The steps' times of two kinds of machine, and a third case in between; where all cores gain little, little can be lost.
  for (const [streams, costs] of [
    [4, { alone: 2.23, own: 3.5, split: 2.67 }],
    [8, { alone: 3.43, own: 6.2, split: 3.91 }],
    [4, { alone: 3.48, own: 5.4, split: 3.64 }],
    [4, { alone: 4.2, own: 5.4, split: 3.64 }],
  ] as const) {
    const name = `${streams} streams, ${costs.alone} or ${costs.split} ms`;
    it(`is worth the better way on a quiet machine: ${name}`, () => {
      expect(worth(streams, costs, [quiet])).toBeGreaterThan(0.97);
    });

    it(`is worth the better way beside a busy neighbour: ${name}`, () => {
      expect(worth(streams, costs, [crowded])).toBeGreaterThan(0.97);
    });

    it(`is worth at least the better way beside a neighbour that comes and goes: ${name}`, () => {
      const phases = Array.from({ length: 12 }, (_, i) => ({ isCrowded: i % 2 === 1, ms: 15_000 }));
      expect(worth(streams, costs, phases)).toBeGreaterThan(0.97);
    });
  }

  for (const alone of [4.1, 5, 7.5]) {
    it(`costs little where all cores give nothing, however many decode at the moment: ${alone} or 3.9 ms`, () => {
      const costs = { alone, own: 6.2, split: 3.9 };
      expect(worth(8, costs, [{ isCrowded: false, ms: 15_000 }], 3)).toBeGreaterThan(0.97);
    });
  }
});
