// The only door to esbuild: TypeScript for browsers → one module per entry. Takes some tens of milliseconds, once per start.
import { build, stop } from 'esbuild';

/** Minified ES modules of the entries, each with everything it imports. Rejects with esbuild's message. */
export async function bundleModules(entries: readonly string[]): Promise<Buffer[]> {
  try {
    return await Promise.all(entries.map(bundle));
  } finally {
    // esbuild is a process of its own, of no use any more.
    await stop();
  }
}

async function bundle(entry: string): Promise<Buffer> {
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    minify: true,
    legalComments: 'none',
    logLevel: 'silent',
  });
  return Buffer.from(result.outputFiles[0]!.contents);
}
