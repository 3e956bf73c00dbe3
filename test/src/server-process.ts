// The server as a process of its own: for tests of start, signals and crashes.
import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const running = new Set<ChildProcess>();

process.on('exit', killAll);

/** Ends what a failed test left behind. */
export function killAll(): void {
  for (const child of running) child.kill('SIGKILL');
}

export interface Started {
  child: ChildProcess;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  output(): string;
  /** Resolves when stdout and stderr together match. */
  says(pattern: RegExp): Promise<RegExpExecArray>;
}

/** Starts with the fake model on a free port unless `env` says otherwise; nothing else is inherited. */
export function start(script: 'main' | 'supervisor', args: string[] = [], env: Record<string, string> = {}): Started {
  const file = fileURLToPath(new URL(`../../src/${script}.ts`, import.meta.url));
  const child = spawn(process.execPath, [file, ...args], {
    env: { PATH: process.env.PATH, MODEL: 'fake:stepMs=2', PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let output = '';
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (data) => {
      output += String(data);
      for (const check of waiting) check();
    });
  }
  const ended = new Promise<Awaited<Started['ended']>>((resolve) => {
    child.on('close', (code, signal) => {
      running.delete(child);
      resolve({ code, signal });
    });
  });
  return {
    child,
    ended,
    output: () => output,
    says: (pattern) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          const match = pattern.exec(output);
          if (match) resolve(match);
        };
        waiting.add(check);
        check();
        void ended.then(() => reject(new Error(`ended without saying ${pattern}: ${output}`)));
      }),
  };
}

/** Matches the log once all models serve; group 1 is the URL. */
export const READY = /"ready: [^"]* on (http:\/\/[\d.]+:\d+)/;

export function ask(url: string, fields: object = {}): Promise<Response> {
  const messages = [{ role: 'user', content: 'Hi' }];
  return fetch(`${url}/v1/chat/completions`, { method: 'POST', body: JSON.stringify({ messages, ...fields }) });
}
