// The SDK as a package: packed, unpacked into an empty project, imported by plain Node, and type-checked by a consumer.
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildSdk } from '../../clients/build-sdk.ts';
import { FakeServer } from './support/fake-server.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const project = mkdtempSync(join(tmpdir(), 'tokenwire-consumer-'));
const installed = join(project, 'node_modules/tokenwire-sdk');
let size: { bytes: number; gzipBytes: number };

beforeAll(async () => {
  const built = join(project, 'built');
  size = await buildSdk(built);
  // npm decides what belongs to the package; nothing is fetched.
  const packed = execFileSync('npm', ['pack', '--json', '--pack-destination', project], { cwd: built });
  const [{ filename }] = JSON.parse(packed.toString()) as [{ filename: string }];
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['-xzf', join(project, filename), '-C', installed, '--strip-components=1']);
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
});

afterAll(() => rmSync(project, { recursive: true, force: true }));

describe('The SDK as a package', () => {
  it('is one small module that needs nothing of Node', () => {
    const module = readFileSync(join(installed, 'index.js'), 'utf8');
    expect(size.gzipBytes).toBeLessThan(32 << 10);
    for (const name of builtinModules) expect(module).not.toMatch(new RegExp(`from ?["'](node:)?${name}["']`));
    expect(module).not.toContain('require(');
  });

  it('has a manifest, a license and a readme that names the package', () => {
    const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as Record<string, unknown>;
    expect(manifest).toMatchObject({ name: 'tokenwire-sdk', type: 'module', license: 'Apache-2.0' });
    expect(manifest).not.toHaveProperty('private');
    expect(manifest).not.toHaveProperty('dependencies');
    expect(readFileSync(join(installed, 'LICENSE'), 'utf8')).toContain('Apache');
    expect(readFileSync(join(installed, 'README.md'), 'utf8')).toContain("from 'tokenwire-sdk'");
  });

  it('streams an answer in plain Node', async () => {
    const server = await FakeServer.start();
    try {
      const program = `
        import { connect } from 'tokenwire-sdk';
        const client = connect(process.argv[2]);
        for await (const text of client.session().send('hello from the package')) process.stdout.write(text);
        client.close();
      `;
      writeFileSync(join(project, 'run.mjs'), program);
      const { stdout } = await promisify(execFile)(process.execPath, ['run.mjs', server.url], { cwd: project });
      expect(stdout).toBe('hello from the package');
    } finally {
      await server.stop();
    }
  });

  it('keeps U+FEFF at the start of text, of every length, as browsers decode it', async () => {
    const pieces = Array.from({ length: 160 }, (_, length) => `\uFEFF${'é'.repeat(length)}`);
    const server = await FakeServer.start({ script: () => ({ pieces, pauseMs: 0 }) });
    try {
      const program = `
        import { connect } from 'tokenwire-sdk';
        const client = connect(process.argv[2]);
        const pieces = [];
        for await (const text of client.session().send('go', { offsets: true })) pieces.push(text);
        console.log(JSON.stringify(pieces.join('')));
        client.close();
      `;
      writeFileSync(join(project, 'marks.mjs'), program);
      const { stdout } = await promisify(execFile)(process.execPath, ['marks.mjs', server.url], { cwd: project });
      expect(JSON.parse(stdout)).toBe(pieces.join(''));
    } finally {
      await server.stop();
    }
  });

  it('type-checks in a strict project that looks into libraries, and refuses what is wrong there', () => {
    const good = `
      import { connect, ConnectionLostError } from 'tokenwire-sdk';
      import type { Finished, ResponseEvent, SendOptions } from 'tokenwire-sdk';
      const options: SendOptions = { temperature: 0.3, supersede: 'lane', onState: ({ state }) => console.log(state) };
      const response = connect('ws://127.0.0.1:1').session({ class: 'ide' }).send('x', options);
      export const finished: Promise<Finished> = response.finished;
      export async function all(): Promise<ResponseEvent[]> {
        const events: ResponseEvent[] = [];
        for await (const event of response.events()) events.push(event);
        return events;
      }
      export const at = (error: unknown): number | undefined =>
        error instanceof ConnectionLostError ? error.position?.lastSeq : undefined;
    `;
    const config = {
      compilerOptions: {
        target: 'es2024',
        lib: ['es2024', 'dom'],
        module: 'nodenext',
        moduleResolution: 'nodenext',
        strict: true,
        noEmit: true,
        skipLibCheck: false,
        types: [],
      },
      files: ['use.ts'],
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify(config));
    const check = (text: string): string => {
      writeFileSync(join(project, 'use.ts'), text);
      try {
        execFileSync(join(root, 'node_modules/.bin/tsc'), ['--project', project], { encoding: 'utf8', stdio: 'pipe' });
        return '';
      } catch (error) {
        return (error as { stdout: string }).stdout;
      }
    };
    expect(check(good)).toBe('');
    expect(check(good.replace("'ide'", "'fast'"))).toContain('use.ts');
  });
});
