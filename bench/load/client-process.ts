// A helper process of a bench: forks a script of this folder, hands it jobs and waits for their results. One process per
// kind of load keeps the generator's work off the bench's and the server's threads, and lets its CPU be counted.
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

type Answer<Result> = { ready: true } | { result: Result } | { error: string };

export class ClientProcess<Job extends object, Result> {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  /** `script`: file name beside this one; it says `ready` when it listens. */
  static async start<Job extends object, Result>(script: string): Promise<ClientProcess<Job, Result>> {
    const file = fileURLToPath(new URL(`./${script}`, import.meta.url));
    const client = new ClientProcess<Job, Result>(fork(file, { serialization: 'advanced' }));
    await client.#answer();
    return client;
  }

  /** One at a time. Rejects when the job fails or the process ends. */
  async run(job: Job): Promise<Result> {
    const answer = this.#answer();
    this.#child.send(job);
    const message = await answer;
    if ('result' in message) return message.result;
    throw new Error('error' in message ? message.error : 'the client process answered out of turn');
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.disconnect();
    await ended;
  }

  #answer(): Promise<Answer<Result>> {
    return new Promise((resolve, reject) => {
      const onExit = (code: number | null): void => reject(new Error(`the client process ended with ${code}`));
      this.#child.once('exit', onExit);
      this.#child.once('message', (message) => {
        this.#child.off('exit', onExit);
        resolve(message as Answer<Result>);
      });
    });
  }
}
