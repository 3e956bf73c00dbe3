// How results leave a bench: one JSON line each on stdout, with what is needed to judge it later (machine, runtime,
// commit, seed, date), and for people a table on stderr at the end. Made by run.ts, filled by the benches.
import { execFileSync } from 'node:child_process';
import { availableParallelism, cpus } from 'node:os';

export interface Result {
  bench: string;
  what: string;
  /** Parameters of this result, such as {streams: 16, transport: 'native'}. */
  at: Readonly<Record<string, string | number>>;
  value: number;
  unit: string;
}

export interface Circumstances {
  machine: { cpu: string; cores: number };
  node: string;
  /** Short hash, with + when files differ from it; 'unknown' without git. */
  commit: string;
  seed: number;
  /** ISO date and time of the start. */
  date: string;
}

/** A client that keeps one core busier than this may be what limits a result. */
const CLIENT_LIMIT_SHARE = 0.9;

export class Report {
  readonly results: Result[] = [];
  readonly #bench: string;
  readonly #circumstances: Circumstances;
  readonly #out: (line: string) => void;

  constructor(bench: string, circumstances: Circumstances, out: (line: string) => void) {
    this.#bench = bench;
    this.#circumstances = circumstances;
    this.#out = out;
  }

  /** Writes one result; numbers are kept to five significant digits. */
  add(what: string, value: number, unit: string, at: Result['at'] = {}): void {
    const rounded = Number.isFinite(value) ? Number(value.toPrecision(5)) : null;
    const result = { bench: this.#bench, what, at, value: rounded ?? NaN, unit };
    this.results.push(result);
    this.#out(JSON.stringify({ ...result, value: rounded, ...this.#circumstances }));
  }

  /** `share`: CPU time of the client process per wall time; 1 is one core. */
  client(share: number, at: Result['at'] = {}): void {
    const verdict = share >= CLIENT_LIMIT_SHARE ? 'yes' : 'no';
    this.add('client CPU', share * 100, '% of a core', { ...at, clientWasTheLimit: verdict });
  }

  table(): string {
    const rows = this.results.map(({ what, at, value, unit }) => [
      what,
      Object.entries(at)
        .map(([name, each]) => `${name} ${each}`)
        .join(', '),
      Number.isNaN(value) ? '-' : String(value),
      unit,
    ]);
    const width = (column: number): number => Math.max(0, ...rows.map((row) => row[column]!.length));
    const widths = [width(0), width(1), width(2)] as const;
    return rows
      .map(
        ([what = '', at = '', value = '', unit = '']) =>
          `${what.padEnd(widths[0])}  ${at.padEnd(widths[1])}  ${value.padStart(widths[2])} ${unit}`,
      )
      .join('\n');
  }
}

export function readCircumstances(seed: number): Circumstances {
  return {
    machine: { cpu: cpus()[0]?.model.trim() ?? 'unknown', cores: availableParallelism() },
    node: process.version,
    commit: readCommit(),
    seed,
    date: new Date().toISOString(),
  };
}

function git(...args: string[]): string {
  const options = { cwd: import.meta.dirname, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] } as const;
  return execFileSync('git', args, { ...options, stdio: [...options.stdio] }).trim();
}

function readCommit(): string {
  try {
    const hash = git('rev-parse', '--short', 'HEAD');
    return git('status', '--porcelain', '--untracked-files=no') === '' ? hash : `${hash}+`;
  } catch {
    return 'unknown';
  }
}
