// A peer's wrapper in a process of its own: forked, waited for until it listens, ended by its process id. The wrappers
// end by themselves when their parent is gone.
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { PeerStarted } from './sse-front.ts';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 5000;
const MAX_OUTPUT = 2000;

export class PeerProcess {
  readonly url: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, url: string) {
    this.#child = child;
    this.url = url;
  }

  /** `script`: file name beside this one. Throws an Error with its last output when it does not come to listen. */
  static async start(script: string, args: readonly string[]): Promise<PeerProcess> {
    const file = fileURLToPath(new URL(`./${script}`, import.meta.url));
    const child = fork(file, [...args], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    let output = '';
    const onData = (data: Buffer): void => {
      output = (output + data.toString()).slice(-MAX_OUTPUT);
    };
    child.stdout!.on('data', onData);
    child.stderr!.on('data', onData);
    try {
      const url = await new Promise<string>((resolve, reject) => {
        const late = (): void => reject(new Error(`it did not listen within ${START_TIMEOUT_MS / 1000} s`));
        const timer = setTimeout(late, START_TIMEOUT_MS);
        child.once('message', (message: PeerStarted) => {
          clearTimeout(timer);
          if ('url' in message) resolve(message.url);
          else reject(new Error(message.error));
        });
        child.once('error', reject);
        child.once('exit', (code, signal) => {
          clearTimeout(timer);
          reject(new Error(`it ended with ${code ?? signal}: ${output.trim()}`));
        });
      });
      return new PeerProcess(child, url);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** Ends it; kills it when it is busy. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.connected) child.disconnect();
    const watchdog = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await ended;
    clearTimeout(watchdog);
  }
}
