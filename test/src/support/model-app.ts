// The real front end on real engine threads, and the official client before it: for tests on real weights.
import OpenAI from 'openai';
import { pino } from 'pino';
import { startApp, type App } from '../../../src/app.ts';
import { loadConfig } from '../../../src/config.ts';
import { startEngines, type EngineSet } from '../../../src/engine/models.ts';
import { testCache } from '../../support/test-cache.ts';

export interface ModelApp {
  app: App;
  engines: EngineSet;
  client: OpenAI;
  stop(): Promise<void>;
}

/** Fulfils when all models are loaded. `flags` as on the command line; default: the default model. */
export async function startModelApp(flags: readonly string[] = []): Promise<ModelApp> {
  const config = loadConfig(['--port', '0', '--cache-dir', testCache, ...flags], {});
  const log = pino({ level: 'silent' });
  const started: EngineSet[] = [];
  const app = startApp(config, log, 'tokenwire/test', () => {
    const engines = startEngines({ ...config, log, debugOwners: true });
    started.push(engines);
    return engines;
  });
  const engines = started[0]!;
  await engines.loaded;
  return {
    app,
    engines,
    // As scripts do: a server too busy to check the form of an answer in time asks to come again.
    client: new OpenAI({ baseURL: `${app.server.url}/v1`, apiKey: 'none', maxRetries: 30 }),
    stop: () => app.stop(0),
  };
}
