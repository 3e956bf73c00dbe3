// The server as users run it: src/main.ts in a process of its own, on a free port of 127.0.0.1. Starts it, waits until
// it is ready, reads its metrics and its CPU time and memory (Linux), and ends it by its process id.
import { spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const START_TIMEOUT_MS = 900_000;
const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 4;
const MAX_COMPLAINTS = 100;
/** Of utime and stime in /proc; 100 on every Linux that Node supports. */
const TICKS_PER_SECOND = 100;

/** Compiled models are kept here between benches, so that only the first one compiles. */
export function defaultCacheDir(): string {
  return join(tmpdir(), 'tokenwire-bench-cache');
}

export interface StartOptions {
  /** Settings by environment name; PORT, HOST and LOG_LEVEL are ours. */
  settings?: Record<string, string>;
  cacheDir: string;
  /** So many models may still be loading when the server counts as started; 0 waits for /readyz. */
  modelsLoading?: number;
}

export class ServerProcess {
  readonly url: string;
  readonly pid: number;
  /** From spawn to the first 200 of /readyz, milliseconds. */
  readonly readyMs: number;
  /** Lines of its log of level error and above, the first hundred. */
  readonly complaints: readonly string[];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, url: string, readyMs: number, complaints: readonly string[]) {
    this.#child = child;
    this.complaints = complaints;
    this.url = url;
    this.pid = child.pid!;
    this.readyMs = readyMs;
  }

  /** Throws an Error with the server's output when it ends before it is ready. */
  static async start(options: StartOptions): Promise<ServerProcess> {
    const started = performance.now();
    const child = spawn(process.execPath, [MAIN], {
      env: {
        ...process.env,
        ...options.settings,
        CACHE_DIR: options.cacheDir,
        PORT: '0',
        HOST: '127.0.0.1',
        LOG_LEVEL: 'info',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    const complaints: string[] = [];
    const url = await new Promise<string>((resolve, reject) => {
      const onData = (chunk: Buffer): void => {
        const text = chunk.toString();
        if (output.length < 1 << 16) output += text;
        for (const line of text.split('\n')) {
          if (/"level":[56]0/.test(line) && complaints.length < MAX_COMPLAINTS) complaints.push(line);
        }
        const match = /listens on (https?:\/\/[^\s"]+)/.exec(output);
        if (match !== null) resolve(match[1]!);
      };
      child.stdout.on('data', onData);
      child.stderr.on('data', onData);
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`the server ended with ${code}:\n${output}`)));
    });
    while ((await modelsLoading(url)) > (options.modelsLoading ?? 0)) {
      const { exitCode } = child;
      if (exitCode !== null) throw new Error(`the server ended with ${exitCode}:\n${output}`);
      if (performance.now() - started > START_TIMEOUT_MS) {
        child.kill('SIGKILL');
        throw new Error(`the server was not ready after ${START_TIMEOUT_MS / 1000} s:\n${output}`);
      }
      await sleep(POLL_MS);
    }
    return new ServerProcess(child, url, performance.now() - started, complaints);
  }

  get streamUrl(): string {
    return `${this.url.replace('http', 'ws')}/v1/stream`;
  }

  async metrics(): Promise<Metrics> {
    return new Metrics(await (await fetch(`${this.url}/metrics`)).text());
  }

  /** CPU seconds so far: of the main thread, and of all other threads by id. Null where there is no /proc. */
  cpu(): CpuTimes | null {
    try {
      const threads = new Map<number, number>();
      for (const id of readdirSync(`/proc/${this.pid}/task`)) {
        threads.set(Number(id), cpuSeconds(`/proc/${this.pid}/task/${id}/stat`));
      }
      return { main: threads.get(this.pid) ?? 0, threads };
    } catch {
      return null;
    }
  }

  /** Kilobytes of a line of /proc/PID/smaps_rollup or status, such as Private_Dirty or VmRSS. NaN where there is none. */
  memoryKb(name: string): number {
    const file = name.startsWith('Vm') ? 'status' : 'smaps_rollup';
    try {
      const text = readFileSync(`/proc/${this.pid}/${file}`, 'utf8');
      return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? NaN);
    } catch {
      return NaN;
    }
  }

  /** Ends it in order; kills it when that takes too long. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGTERM');
    // The second signal skips the drain: benches have no answers worth waiting for.
    setTimeout(() => this.#child.kill('SIGTERM'), 1000).unref();
    const watchdog = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await ended;
    clearTimeout(watchdog);
  }
}

export interface CpuTimes {
  main: number;
  threads: Map<number, number>;
}

/** Shares of one core between two readings: of the main thread, and of the others, busiest first. */
export function cpuShares(before: CpuTimes, after: CpuTimes, wallMs: number): { main: number; others: number[] } {
  const share = (seconds: number): number => (seconds * 1000) / wallMs;
  const others = [...after.threads].map(([id, seconds]) => share(seconds - (before.threads.get(id) ?? 0)));
  const main = share(after.main - before.main);
  others.splice(others.indexOf(main), 1);
  return { main, others: others.sort((a, b) => b - a) };
}

function cpuSeconds(statFile: string): number {
  // The command's name is in parentheses and may hold spaces; utime and stime are fields 14 and 15.
  const text = readFileSync(statFile, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Models that the server still has to load; Infinity when it says nothing. */
export async function modelsLoading(url: string): Promise<number> {
  try {
    const answer = await fetch(`${url}/readyz`);
    const body = (await answer.json()) as { models?: unknown[] };
    return answer.status === 200 ? 0 : (body.models?.length ?? Infinity);
  } catch {
    return Infinity;
  }
}

/** The text of /metrics, for sums and histograms. */
export class Metrics {
  readonly #lines: readonly string[];

  constructor(text: string) {
    this.#lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  }

  /** Sum of all series of this name (without the tokenwire_ prefix) whose labels contain `label`. */
  value(name: string, label = ''): number {
    let total = 0;
    for (const line of this.#lines) {
      const match = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (match?.[1] === `tokenwire_${name}` && (match[2] ?? '').includes(label)) total += Number(match[3]);
    }
    return total;
  }

  /** Cumulative counts by upper bound. */
  buckets(name: string, label = ''): Map<number, number> {
    const counts = new Map<number, number>();
    for (const line of this.#lines) {
      const match = /^(\w+)_bucket\{(.*)\} (\S+)$/.exec(line);
      if (match?.[1] !== `tokenwire_${name}` || !match[2]!.includes(label)) continue;
      const bound = /le="([^"]+)"/.exec(match[2]!)?.[1];
      const upper = bound === '+Inf' ? Infinity : Number(bound);
      counts.set(upper, (counts.get(upper) ?? 0) + Number(match[3]));
    }
    return counts;
  }
}

/** Quantile of what a histogram counted between two readings, linear within its bucket; NaN when nothing was. */
export function histogramQuantile(before: Map<number, number>, after: Map<number, number>, p: number): number {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const count = (bound: number): number => (after.get(bound) ?? 0) - (before.get(bound) ?? 0);
  const total = count(bounds.at(-1) ?? Infinity);
  if (!(total > 0)) return NaN;
  let lower = 0;
  let below = 0;
  for (const upper of bounds) {
    const upTo = count(upper);
    if (upTo >= p * total) {
      if (upper === Infinity) return lower;
      return lower + ((upper - lower) * (p * total - below)) / (upTo - below);
    }
    lower = upper;
    below = upTo;
  }
  return lower;
}
