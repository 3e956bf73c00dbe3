// What `npm start` runs: a small parent that starts the server again when it dies, so that an abort inside native code
// costs the running answers and not the service. Exit 0 and 2 (wrong setting) are final; signals are passed on.
import { spawn, type ChildProcess } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { loadConfig } from './config.ts';

const FIRST_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 30_000;
/** A server that lived this long failed for a new reason. */
const STABLE_MS = 60_000;
const EXIT_CONFIG = 2;

const mainFile = fileURLToPath(new URL('./main.ts', import.meta.url));
const args = process.argv.slice(2);
let child: ChildProcess | null = null;
let restart: NodeJS.Timeout | null = null;
let isStopping = false;
let backoffMs = FIRST_BACKOFF_MS;

function isWanted(): boolean {
  if (args.some((arg) => arg === '--help' || arg === '-h')) return false;
  try {
    return loadConfig(args).supervise;
  } catch {
    // main.ts says what is wrong.
    return false;
  }
}

function start(): void {
  restart = null;
  const startedAt = performance.now();
  // The channel carries nothing; its end tells the child that we are gone.
  child = spawn(process.execPath, [...process.execArgv, mainFile, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  child.on('error', (error) => process.stderr.write(`tokenwire: cannot start the server: ${error.message}\n`));
  child.on('exit', (code, signal) => {
    child = null;
    if (isStopping || code === 0 || code === EXIT_CONFIG) {
      process.exitCode = code ?? 128 + constants.signals[signal!];
      for (const name of [...passedOn, RELOAD]) process.removeAllListeners(name);
      return;
    }
    if (performance.now() - startedAt > STABLE_MS) backoffMs = FIRST_BACKOFF_MS;
    const how = signal ? `was ended by ${signal}` : `ended with code ${code}`;
    process.stderr.write(`tokenwire: the server ${how}; starting again in ${backoffMs / 1000} s\n`);
    restart = setTimeout(start, backoffMs);
    backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS);
  });
}

const passedOn = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
/** Looks at the models again; the server goes on. */
const RELOAD = 'SIGUSR2';

if (isWanted()) {
  for (const name of passedOn) {
    process.on(name, () => {
      isStopping = true;
      if (restart) clearTimeout(restart);
      restart = null;
      child?.kill(name);
    });
  }
  process.on(RELOAD, () => child?.kill(RELOAD));
  start();
} else {
  await import('./main.ts');
}
