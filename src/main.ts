// The server process: settings, start, signals, end. It never calls process.exit once engines exist: that aborts the
// process while a thread is inside a run. Instead everything is stopped in order and the event loop runs empty.
import { fileURLToPath } from 'node:url';
import packageJson from '../package.json' with { type: 'json' };
import { startApp, type App } from './app.ts';
import { ConfigError } from './config-values.ts';
import { describeConfig, loadConfig } from './config.ts';
import type { ModelSource } from './engine/model-admin.ts';
import { readModelsFile } from './engine/models-file.ts';
import { startEngines, type EngineSet } from './engine/models.ts';
import { messageOf } from './engine/model-view.ts';
import { helpText } from './help.ts';
import { reload } from './http/admin.ts';
import { createLog, type Log } from './log.ts';
import { showProgress } from './progress.ts';
import { ListenError } from './server.ts';
import type { Config } from './settings.ts';
import { loadWebPage } from './web/static-files.ts';
import { CloseCode } from '../protocol/constants.ts';
import { ServiceError } from '../protocol/errors.ts';

const EXIT_CONFIG = 2;
/** After our own bug: enough to tell clients and end engines, not to wait for answers. */
const BUG_DRAIN_MS = 1000;
/** Time for a cooperative end once answers are over; after it the process is killed rather than left hanging. */
const WATCHDOG_MS = 10_000;
/** npm and the terminal may both deliver the same Ctrl-C. */
const SAME_SIGNAL_MS = 400;
/** Time for the last frames before the process kills itself. */
const FATAL_FLUSH_MS = 200;

function fail(message: string): void {
  process.stderr.write(`tokenwire: ${message}\n`);
  process.exitCode = EXIT_CONFIG;
}

function main(): void {
  if (process.argv.slice(2).some((arg) => arg === '--help' || arg === '-h')) {
    process.stdout.write(helpText());
    return;
  }
  ServiceError.notesStack = false;
  try {
    run(loadConfig());
  } catch (error) {
    if (!(error instanceof ConfigError) && !(error instanceof ListenError)) throw error;
    fail(error.message);
  }
}

function run(config: Config): void {
  const log = createLog(config.logLevel);
  const sources = modelSources(config);
  let engines: EngineSet | null = null;
  const app = startApp(config, log, `tokenwire/${packageJson.version}`, () => {
    // Undocumented: tests do not wait for the half minute after which a worker is taken for hung.
    const hangMs = Number(process.env.HANG_TIMEOUT_MS) || undefined;
    const debugOwners = process.env.NODE_ENV === 'test';
    const hub = { endpoint: config.hubEndpoint, token: config.hubToken, modelsDir: config.modelsDir };
    engines = startEngines({
      ...config,
      models: sources,
      hub,
      queue: config,
      log,
      debugOwners,
      ...(hangMs === undefined ? {} : { hangMs }),
    });
    return engines;
  });
  // Before anybody can know that the server is there: a signal must never find no handler.
  const shutdown = handleSignals(app, config, log);
  log.info(
    { pid: process.pid },
    `tokenwire ${packageJson.version} listens on ${app.server.url} (${describeConfig(config)})`,
  );
  void loadWebPage(app.services.web, inClients('web'), inClients('index.ts'), (reason) =>
    log.warn({ reason }, 'the chat page could not be built; the APIs are not affected'),
  );
  watchEngines(app, engines!, config, log, shutdown);
}

function inClients(name: string): string {
  return fileURLToPath(new URL(`../clients/${name}`, import.meta.url));
}

/** Throws ConfigError. */
function modelSources({ models, modelsFile }: Config): ModelSource[] {
  if (modelsFile === '') return models.map((spec) => ({ spec }));
  try {
    return readModelsFile(modelsFile);
  } catch (error) {
    throw new ConfigError(`MODELS_FILE ${messageOf(error)}`, { cause: error });
  }
}

type Shutdown = (drainMs: number, exitCode: number) => void;

function watchEngines(app: App, engines: EngineSet, config: Config, log: Log, shutdown: Shutdown): void {
  const startedAt = performance.now();
  const hideProgress = showProgress(engines, log);
  engines.onFatal = (reason) => {
    log.fatal({ reason }, 'the engines cannot go on; the process ends and is started again by its parent');
    app.sockets.goaway('worker_lost', 1000);
    app.sockets.closeAll(CloseCode.restart, 'restart');
    // An orderly end would wait for a thread that does not answer.
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), FATAL_FLUSH_MS);
  };
  engines.loaded.then(
    () => {
      hideProgress();
      if (app.services.isDraining) return;
      const names = engines.engines.map(({ model }) => model.id).join(', ');
      log.info(`ready: ${names} on ${app.server.url} after ${Math.round(performance.now() - startedAt)} ms`);
    },
    (error: unknown) => {
      hideProgress();
      if (app.services.isDraining) return;
      const wanted = engines.admin.list().map(({ spec }) => spec);
      log.fatal({ reason: (error as Error).message }, `cannot load ${wanted.join(', ')}`);
      shutdown(0, EXIT_CONFIG);
    },
  );
}

/** Returns what ends the process in order. A second call or signal hurries the first one. */
function handleSignals(app: App, config: Config, log: Log): Shutdown {
  let hurry: (() => void) | null = null;
  let lastSignalAt = -Infinity;
  const shutdown: Shutdown = (drainMs, exitCode) => {
    if (hurry) {
      hurry();
      return;
    }
    process.exitCode = exitCode;
    const hurried = new Promise<void>((resolve) => {
      hurry = resolve;
    });
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), drainMs + WATCHDOG_MS).unref();
    app.stop(drainMs, hurried).then(
      () => log.info('stopped'),
      (error: unknown) => {
        log.fatal({ err: error }, 'the end failed because of a bug');
        process.kill(process.pid, 'SIGKILL');
      },
    );
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    const now = performance.now();
    const isSame = now - lastSignalAt < SAME_SIGNAL_MS;
    lastSignalAt = now;
    if (isSame) return;
    const { active } = app.services.responses;
    if (hurry) log.info(`${signal} again: ending ${active} running answers`);
    else log.info(`${signal}: draining, ${active} running answers get ${config.drainTimeoutMs / 1000} s`);
    shutdown(config.drainTimeoutMs, 0);
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  process.on('SIGHUP', onSignal);
  process.on('SIGUSR2', () => {
    if (hurry) return;
    reload(app.services).then(
      (report) => log.info(report, 'SIGUSR2: looked at the models again'),
      (error: unknown) => log.error({ reason: messageOf(error) }, 'SIGUSR2: the models stay as they are'),
    );
  });
  const onBug = (error: unknown): void => {
    log.fatal({ err: error }, 'an unexpected error: the process ends');
    process.exitCode = 1;
    if (!hurry) shutdown(BUG_DRAIN_MS, 1);
  };
  process.on('uncaughtException', onBug);
  process.on('unhandledRejection', onBug);
  // Started by the supervisor: if it is killed, nobody is left to end this process.
  process.on('disconnect', () => {
    if (!hurry) shutdown(config.drainTimeoutMs, 0);
  });
  process.channel?.unref();
  return shutdown;
}

main();
