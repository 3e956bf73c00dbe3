import { defineConfig } from 'vitest/config';

// Kinds of tests by file name (STYLE: unit, integration, model, browser). Each is a project, so that `npm test`
// can run and print them part by part; all but unit use real threads and run one file at a time.
const kinds = ['integration', 'model', 'browser'] as const;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: kinds.map((kind) => `test/**/*.${kind}.test.ts`),
          pool: 'threads',
          // They take milliseconds; the limit is for a machine that does other things besides.
          testTimeout: 30_000,
          hookTimeout: 30_000,
        },
      },
      ...kinds.map((kind) => ({
        test: {
          name: kind,
          include: [`test/**/*.${kind}.test.ts`],
          pool: 'forks' as const,
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Real processes on a shared machine: one second chance, which the report shows. Unit tests have none.
          retry: process.env.CI ? 1 : 0,
        },
      })),
    ],
  },
});
