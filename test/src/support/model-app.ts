// The real front end on real engine threads, and the official client before it: for tests on real weights. Each compiles
// into a folder of its own, which goes with it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { pino } from 'pino';
import { startApp, type App } from '../../../src/app.ts';
import { loadConfig } from '../../../src/config.ts';
import { startEngines, type EngineSet } from '../../../src/engine/models.ts';

export interface ModelApp {
  app: App;
  engines: EngineSet;
  client: OpenAI;
  stop(): Promise<void>;
}

/** Fulfils when all models are loaded. `flags` as on the command line; default: the default model. */
export async function startModelApp(flags: readonly string[] = []): Promise<ModelApp> {
  const cacheDir = mkdtempSync(join(tmpdir(), 'tokenwire-model-app-'));
  const config = loadConfig(['--port', '0', '--cache-dir', cacheDir, ...flags], {});
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
    client: new OpenAI({ baseURL: `${app.server.url}/v1`, apiKey: 'none', maxRetries: 0 }),
    async stop() {
      await app.stop(0);
      rmSync(cacheDir, { recursive: true, force: true });
    },
  };
}
