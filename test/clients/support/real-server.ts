// The real server as a process of its own, for tests that need it whole: killed like a crash, started again on its port.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../support/free-port.ts';
import { testCache } from '../../support/test-cache.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
/** Compiling the default model for the first time takes its time. */
const READY_MS = 240_000;
/** A server that does not end by then must not outlive the run. */
const STOP_MS = 60_000;
/** Nothing else of the environment reaches a server; and a busy machine is no reason to send anybody away. */
const machine = { PATH: process.env['PATH'], CACHE_DIR: testCache, QUEUE_TIMEOUT: '600' };

/** What a failed test leaves behind ends with the process of the tests. */
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export class RealServer {
  readonly port: number;
  readonly #environment: Record<string, string>;
  #process: ChildProcess | null = null;
  #log = '';

  private constructor(port: number, environment: Record<string, string>) {
    this.port = port;
    this.#environment = environment;
  }

  /** Fulfils when the server is ready. */
  static async start(environment: Record<string, string>): Promise<RealServer> {
    const server = new RealServer(await freePort(), environment);
    await server.restart();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async restart(): Promise<void> {
    const child = spawn(process.execPath, ['src/main.ts'], {
      cwd: root,
      env: {
        ...machine,
        ...this.#environment,
        PORT: String(this.port),
        HOST: '127.0.0.1',
        SUPERVISE: '0',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    running.add(child);
    child.once('exit', () => running.delete(child));
    const keep = (chunk: Buffer): void => {
      this.#log = (this.#log + chunk.toString()).slice(-4000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const endMs = performance.now() + READY_MS;
    while (!(await this.#isReady())) {
      if (child.exitCode !== null || child.signalCode !== null)
        throw new Error(`the server ended with ${child.exitCode}:\n${this.#log}`);
      if (performance.now() > endMs) throw new Error(`the server did not get ready:\n${this.#log}`);
      await sleep(50);
    }
  }

  /** Ends it without any goodbye. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  /** Asks it to end, and waits for that. */
  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    const force = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await exited;
    clearTimeout(force);
  }

  async #isReady(): Promise<boolean> {
    try {
      return (await fetch(`${this.url}/readyz`)).ok;
    } catch {
      return false;
    }
  }
}
