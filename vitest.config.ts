import { defineConfig } from 'vitest/config';

// Kinds of tests by file name (STYLE: unit, integration, model, browser). Each is a project, so that `npm test`
// can run and print them part by part; all but unit use real threads and run one file at a time.
const kinds = ['integration', 'model', 'browser'] as const;

/** A second, vitest's own limit, is short on a machine that does other things besides. */
const expect = { poll: { timeout: 30_000 } };

export default defineConfig({
  test: {
    teardownTimeout: 60_000,
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: kinds.map((kind) => `test/**/*.${kind}.test.ts`),
          pool: 'threads',
          // They take milliseconds; the limit is for a machine that does other things besides.
          testTimeout: 60_000,
          hookTimeout: 60_000,
          expect,
        },
      },
      ...kinds.map((kind) => ({
        test: {
          name: kind,
          include: [`test/**/*.${kind}.test.ts`],
          pool: 'forks' as const,
          fileParallelism: false,
          // Only to end what hangs; the first that needs the default model compiles it.
          testTimeout: 300_000,
          hookTimeout: 600_000,
          expect,
        },
      })),
    ],
  },
});
