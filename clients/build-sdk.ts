// `npm run build:sdk`: makes dist/sdk, the SDK as a package that can be published: one ES module, its types, and the
// text around them. The types keep the folders of the source; only the endings of their imports change.
import { execFileSync } from 'node:child_process';
import { cpSync, globSync, mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('../', import.meta.url));

/** Makes the package in `folder`, replacing what is there. Returns the size of the module in bytes. */
export async function buildSdk(folder: string): Promise<{ bytes: number; gzipBytes: number }> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await build({
    entryPoints: [join(root, 'clients/index.ts')],
    outfile: join(folder, 'index.js'),
    bundle: true,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    // The parts of MessagePack that browsers can run; Node takes them too.
    conditions: ['browser'],
    target: 'es2022',
    minify: true,
    legalComments: 'none',
    logLevel: 'silent',
  });
  declareTypes(folder);
  const { version, license } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
  const manifest = {
    name: 'tokenwire-sdk',
    version,
    description:
      'Client of the Tokenwire server: many chats over one WebSocket, answers that survive a lost connection',
    license,
    type: 'module',
    sideEffects: false,
    main: './index.js',
    types: './types/clients/index.d.ts',
    exports: {
      '.': { types: './types/clients/index.d.ts', default: './index.js' },
      './package.json': './package.json',
    },
    files: ['index.js', 'types'],
    // The global WebSocket and Promise.withResolvers.
    engines: { node: '>=22' },
  };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(join(folder, 'README.md'), readme());
  cpSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  const module = readFileSync(join(folder, 'index.js'));
  return { bytes: module.length, gzipBytes: gzipSync(module, { level: 9 }).length };
}

interface Manifest {
  version: string;
  license: string;
}

/** Runs the compiler for declarations alone, over what the entry reaches. */
function declareTypes(folder: string): void {
  const work = mkdtempSync(join(tmpdir(), 'tokenwire-sdk-'));
  try {
    const types = join(folder, 'types');
    const config = {
      extends: join(root, 'tsconfig.json'),
      compilerOptions: {
        noEmit: false,
        declaration: true,
        emitDeclarationOnly: true,
        rewriteRelativeImportExtensions: true,
        rootDir: root,
        outDir: types,
        typeRoots: [join(root, 'node_modules/@types')],
        types: [],
      },
      include: [],
      files: [join(root, 'clients/index.ts')],
    };
    const file = join(work, 'tsconfig.json');
    writeFileSync(file, JSON.stringify(config));
    execFileSync(join(root, 'node_modules/.bin/tsc'), ['--project', file], { stdio: ['ignore', 'pipe', 'inherit'] });
    for (const name of globSync('**/*.d.ts', { cwd: types })) {
      const path = join(types, name);
      writeFileSync(path, readFileSync(path, 'utf8').replace(/(from '\.[^']*|import\("\.[^"]*)\.ts(['"])/g, '$1.js$2'));
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The first part of the folder's README: what the SDK is and how it is used. */
function readme(): string {
  const text = readFileSync(join(root, 'clients/README.md'), 'utf8');
  const usage = text.slice(text.indexOf('```ts'), text.indexOf('## Files'));
  const head =
    '# tokenwire-sdk\n\nThe client of a Tokenwire server, for browsers and Node 22 or later. No dependency.\n\n';
  return head + usage.replaceAll("'./clients/index.ts'", "'tokenwire-sdk'").trimEnd() + '\n';
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2] ?? join(root, 'dist/sdk');
  const { bytes, gzipBytes } = await buildSdk(folder);
  console.log(`${folder}: index.js ${(bytes / 1024).toFixed(1)} KiB, ${(gzipBytes / 1024).toFixed(1)} KiB with gzip`);
}
