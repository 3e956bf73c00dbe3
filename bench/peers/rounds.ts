// Figures of all contenders by round, and what is published of them: medians, and ratios ours to theirs. A ratio is the
// median over rounds of two values that were measured seconds apart.
import type { Report } from '../report.ts';
import { median } from '../statistics.ts';

interface Figure {
  unit: string;
  /** By contender, then by round. */
  values: Map<string, Map<number, number>>;
}

export class Rounds {
  readonly #ours: string;
  readonly #figures = new Map<string, Figure>();
  #round = -1;

  /** `ours`: the contender that the others are compared with. */
  constructor(ours: string) {
    this.#ours = ours;
  }

  begin(): void {
    this.#round++;
  }

  /** One value per figure, contender and round. */
  add(what: string, unit: string, contender: string, value: number): void {
    const figure = this.#figures.get(what) ?? { unit, values: new Map<string, Map<number, number>>() };
    this.#figures.set(what, figure);
    const rounds = figure.values.get(contender) ?? new Map<number, number>();
    figure.values.set(contender, rounds.set(this.#round, value));
  }

  publish(report: Report): void {
    for (const [what, { unit, values }] of this.#figures) {
      for (const [server, rounds] of values) report.add(what, median([...rounds.values()]), unit, { server });
    }
    for (const [what, figure] of this.#figures) {
      const ours = figure.values.get(this.#ours);
      if (ours === undefined) continue;
      const peers = new Map([...figure.values].filter(([name]) => name !== this.#ours));
      if (peers.size > 1) peers.set('the best', bestOf([...peers.values()], figure.unit));
      for (const [peer, rounds] of peers) {
        const ratios = [...rounds].flatMap(([round, value]) => (ours.has(round) ? ours.get(round)! / value : []));
        report.add(`ours / peer: ${what}`, median(ratios), 'times', { peer, rounds: ratios.length });
      }
    }
  }
}

/** Best value of each round: the shortest time, or the highest rate. */
function bestOf(peers: readonly Map<number, number>[], unit: string): Map<number, number> {
  const best = new Map<number, number>();
  const pick = unit === 'ms' ? Math.min : Math.max;
  for (const rounds of peers) {
    for (const [round, value] of rounds) best.set(round, pick(best.get(round) ?? value, value));
  }
  return best;
}
