// Settings of engines over the fake model, for tests of threads without an app: small, silent, every owner checked.
import { tmpdir } from 'node:os';
import type { EngineOptions } from '../../../src/engine/options.ts';

const quiet = { info() {}, warn() {}, error() {} };

export function fakeOptions(models: EngineOptions['models'], options: Partial<EngineOptions>): EngineOptions {
  return {
    models,
    workers: 1,
    threads: 1,
    speculation: true,
    solo: true,
    slots: 16,
    maxContext: 2048,
    kvMemoryBytes: 1 << 24,
    kvType: 'auto',
    products: 'auto',
    cacheDir: tmpdir(),
    log: quiet,
    debugOwners: true,
    ...options,
  };
}
