// `npm run models`: lists, pulls, verifies and removes models of the hub. The work runs on a thread of the CPU pool, as
// it does for the server; here are the terminal and the exit codes. Ctrl-C may end it at any time: pull goes on later.
import { ConfigError } from '../config-values.ts';
import { runModelsAction } from '../engine/pool.ts';
import { drawBar } from '../progress.ts';
import type { CompileProgress } from '../../workers/messages/models.ts';
import { help, readCommand, type Command } from './command.ts';
import { isSuccess, reportLines } from './report.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const CLEAR_LINE = '\r\u001B[K';

function fail(message: string, code: number): void {
  process.stderr.write(`models: ${message}\n`);
  process.exitCode = code;
}

async function main(): Promise<void> {
  let command: Command | null;
  try {
    command = readCommand(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    fail(error.message, EXIT_USAGE);
    return;
  }
  if (command === null) process.stdout.write(help);
  else await run(command);
}

async function run({ action, isJson, config }: Command): Promise<void> {
  const hub = { endpoint: config.hubEndpoint, token: config.hubToken, modelsDir: config.modelsDir };
  const progress = showProgress(action.kind === 'list' ? '' : action.name);
  try {
    const report = await runModelsAction(action, { hub, cacheDir: config.cacheDir }, progress.show);
    progress.clear();
    process.stdout.write(
      isJson ? `${JSON.stringify(report)}\n` : `${reportLines(report, config.modelsDir).join('\n')}\n`,
    );
    if (!isSuccess(report)) process.exitCode = EXIT_FAILED;
  } catch (error) {
    progress.clear();
    fail((error as Error).message, EXIT_FAILED);
  }
}

/** A bar where there is a terminal, else one line per phase. */
function showProgress(subject: string): { show(progress: CompileProgress): void; clear(): void } {
  const out = process.stderr;
  let lastPhase = '';
  return {
    show(progress) {
      if (out.isTTY) out.write(`${CLEAR_LINE}${drawBar(subject, progress, out.columns)}`);
      else if (progress.phase !== lastPhase) out.write(`${subject}: ${progress.phase}\n`);
      lastPhase = progress.phase;
    },
    clear() {
      if (out.isTTY && lastPhase !== '') out.write(CLEAR_LINE);
    },
  };
}

await main();
