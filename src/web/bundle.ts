// The only door to esbuild: the page's TypeScript → one browser module. Takes some tens of milliseconds, once per start.
import { build, stop } from 'esbuild';

/** Minified ES module of `entry` with everything it imports. Rejects with esbuild's message. */
export async function bundlePage(entry: string): Promise<Buffer> {
  try {
    return await bundle(entry);
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
