// The real server as a process of its own, alone or under its supervisor: started on a free port of this machine, ended
// by its process id. Every end-to-end test talks to one of these and to nothing inside it.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../support/free-port.ts';
import { testCache } from '../../support/test-cache.ts';

/** Compiling the default model for the first time takes its time. */
const READY_MS = 240_000;
const POLL_MS = 15;
/** Gauges come from the engine threads, at most ten times a second. */
const GAUGE_MS = 300;
/** A server that does not end by then has failed its test; it must not outlive the run. */
const STOP_MS = 60_000;

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface StartOptions {
  /** `supervisor` is what `npm start` runs. */
  script?: 'main' | 'supervisor';
  /** False: return as soon as the process runs, without waiting for /readyz. */
  waits?: boolean;
}

/** Nothing else of the environment reaches a server; and a busy machine is no reason to send anybody away. */
const machine = { PATH: process.env.PATH, QUEUE_TIMEOUT: '600' };

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export class TestServer {
  readonly port: number;
  /** The process started here: the supervisor's id when there is one. */
  readonly pid: number;
  /** Of the process started here, once its output is closed too. */
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  #output = '';

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.pid = child.pid!;
    this.#child = child;
    running.add(child);
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output += chunk.toString();
      });
    }
    this.exited = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        running.delete(child);
        resolve({ code, signal });
      });
    });
  }

  /** Settings by environment name; the port is fixed, so that a restarted server is found again. */
  static async start(settings: Record<string, string> = {}, options: StartOptions = {}): Promise<TestServer> {
    const port = await freePort();
    const file = fileURLToPath(new URL(`../../../src/${options.script ?? 'main'}.ts`, import.meta.url));
    const child = spawn(process.execPath, [file], {
      env: { ...machine, CACHE_DIR: testCache, HOST: '127.0.0.1', PORT: String(port), ...settings },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const server = new TestServer(port, child);
    if (options.waits !== false) await server.ready();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get streamUrl(): string {
    return `ws://127.0.0.1:${this.port}/v1/stream`;
  }

  /** Everything the process has written. */
  get output(): string {
    return this.#output;
  }

  /** Process ids of the servers so far, oldest first: more than one under a supervisor that restarted. */
  get serverPids(): number[] {
    return [...this.#output.matchAll(/"pid":(\d+)/g)].map((match) => Number(match[1]));
  }

  /** Fulfils when /readyz says so; rejects with the output when the process ends before. */
  async ready(timeoutMs = READY_MS): Promise<void> {
    await this.#until('ready', timeoutMs, () =>
      fetch(`${this.url}/readyz`).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
  }

  /** Fulfils when the output matches. */
  async says(pattern: RegExp, timeoutMs = 60_000): Promise<void> {
    await this.#until(`saying ${pattern}`, timeoutMs, () => Promise.resolve(pattern.test(this.#output)));
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** SIGTERM, then the way it ended. */
  async stop(): Promise<Exit> {
    this.signal('SIGTERM');
    const force = setTimeout(() => this.signal('SIGKILL'), STOP_MS);
    const exit = await this.exited;
    clearTimeout(force);
    return exit;
  }

  /** Values of one metric, added over its labels. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line.startsWith(`tokenwire_${name}`));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  /** Resident memory of the server, MiB. */
  async memoryMiB(): Promise<number> {
    return (await this.metric('process_resident_memory_bytes')) / 2 ** 20;
  }

  /** Fulfils when nothing has run or waited for a moment; parked responses do neither. */
  async idle(timeoutMs = 60_000): Promise<void> {
    let quietSinceMs = Infinity;
    await this.#until('idle', timeoutMs, async () => {
      const numRunning = await this.metric('requests_running');
      if (numRunning + (await this.metric('requests_waiting')) > 0) quietSinceMs = Infinity;
      else if (quietSinceMs === Infinity) quietSinceMs = performance.now();
      return performance.now() - quietSinceMs > GAUGE_MS;
    });
  }

  async #until(what: string, timeoutMs: number, check: () => Promise<boolean>): Promise<void> {
    const endMs = performance.now() + timeoutMs;
    while (!(await check())) {
      const { exitCode, signalCode } = this.#child;
      if (exitCode !== null || signalCode !== null) {
        // What it wrote last may still be on its way.
        await this.exited;
        if (await check()) return;
        throw new Error(`the server ended (${exitCode ?? signalCode}) instead of ${what}:\n${this.#output}`);
      }
      if (performance.now() > endMs) throw new Error(`not ${what} in ${timeoutMs} ms:\n${this.#output.slice(-4000)}`);
      await sleep(POLL_MS);
    }
  }
}
