// The real front end on a free port with the scripted engine behind it: for integration tests of HTTP and sockets.
import { pino } from 'pino';
import type { ServiceError } from '../../../protocol/errors.ts';
import { startApp, type App, type AppConfig, type AppEngines } from '../../../src/app.ts';
import type { Embeddings } from '../../../src/engine/embedder.ts';
import type { ModelAdmin } from '../../../src/engine/model-admin.ts';
import { findFakeEngine } from './find-engine.ts';
import { FakeEngine } from '../support/fake-engine.ts';

export interface TestApp {
  app: App;
  engine: FakeEngine;
  /** http://127.0.0.1:PORT */
  url: string;
  /** Everything the server logged, as JSON lines. */
  logLines: string[];
  /** Steps the engine every millisecond until `stop`. */
  play(): void;
  pause(): void;
  stop(): Promise<void>;
}

export interface TestAppOptions extends Partial<AppConfig> {
  isReady?: boolean;
  loadingError?: ServiceError;
  embeddings?: Embeddings;
  admin?: ModelAdmin;
}

const refused = (): Promise<never> => Promise.reject(new Error('this engine set never changes'));
const noAdmin: ModelAdmin = {
  list: () => [],
  kvMemory: { totalBytes: 0, freeBytes: 0 },
  load: refused,
  unload: refused,
  reload: refused,
};

export function startTestApp(options: TestAppOptions = {}): TestApp {
  const engine = new FakeEngine();
  engine.isReady = options.isReady ?? true;
  if (!engine.isReady) engine.progress = { phase: 'compiling', done: 0.5 };
  const engines: AppEngines = {
    engines: [engine],
    embeddings: options.embeddings ?? null,
    find: (model) => findFakeEngine(engine, model),
    get isReady() {
      return engine.isReady;
    },
    get progress() {
      return engine.progress ? [{ model: engine.model.id, ...engine.progress }] : [];
    },
    admin: options.admin ?? noAdmin,
    get onStepEnd() {
      return engine.onStepEnd;
    },
    set onStepEnd(callback) {
      engine.onStepEnd = callback;
    },
    onModelsChanged: null,
    onModelGone: null,
    onStepStats: null,
    onWorkerRestart: null,
    stop: () => Promise.resolve(),
  };
  const logLines: string[] = [];
  const log = pino({ level: 'info', base: null }, { write: (line: string) => void logLines.push(line) });
  const config: AppConfig = {
    host: '127.0.0.1',
    port: 0,
    apiKeys: [],
    allowedOrigins: [],
    tlsCert: '',
    tlsKey: '',
    maxConnections: 1000,
    ...options,
  };
  const app = startApp(config, log, 'tokenwire/test', () => engines);
  let timer: NodeJS.Timeout | null = null;
  const pause = (): void => {
    if (timer) clearInterval(timer);
    timer = null;
  };
  return {
    app,
    engine,
    url: app.server.url,
    logLines,
    play() {
      timer ??= setInterval(() => engine.step(), 1);
    },
    pause,
    async stop() {
      // The engine must go on for running answers to end.
      timer ??= setInterval(() => engine.step(), 1);
      await app.stop(0);
      pause();
    },
  };
}

/** Longest wait for what takes milliseconds where nothing else computes. */
const WAIT_MS = 60_000;

/** Polls until the claim holds; fails after WAIT_MS with its name. */
export async function until(name: string, claim: () => boolean): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!claim()) {
    if (performance.now() > deadline) throw new Error(`not within ${WAIT_MS} ms: ${name}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
