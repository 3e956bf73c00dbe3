import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadWebPage } from '../../../src/web/static-files.ts';
import { startTestApp, type TestApp } from '../http/test-app.ts';

let test: TestApp;
const dir = mkdtempSync(join(tmpdir(), 'tokenwire-web-'));
beforeAll(() => {
  test = startTestApp();
});
afterAll(async () => {
  rmSync(dir, { recursive: true });
  await test.stop();
});

const load = async (): Promise<string[]> => {
  const problems: string[] = [];
  await loadWebPage(test.app.services.web, dir, sdk, (reason) => problems.push(reason));
  return problems;
};

const sdk = new URL('../../../clients/index.ts', import.meta.url).pathname;

const get = (path: string) => fetch(test.url + path);

describe('loadWebPage', () => {
  it('serves a page that says so when there is none', async () => {
    expect(await load()).toHaveLength(1);
    const page = await fetch(`${test.url}/`);
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('not part of this installation');
  });

  it('serves the same page when the script does not compile, with the reason for the log', async () => {
    writeFileSync(join(dir, 'index.html'), '<p>page');
    writeFileSync(join(dir, 'main.ts'), 'const = ;');
    const problems = await load();
    expect(problems.join()).toMatch(/error/i);
    expect(problems.join()).not.toContain('\n');
    expect(await (await fetch(`${test.url}/`)).text()).toContain('not part of this installation');
  });

  it('bundles the script and serves files of known kinds, and nothing else', async () => {
    writeFileSync(join(dir, 'part.ts'), 'export const part: string = "of the page";');
    writeFileSync(join(dir, 'main.ts'), 'import { part } from "./part.ts"; document.title = part;');
    writeFileSync(join(dir, 'styles.css'), 'p { color: red }');
    writeFileSync(join(dir, 'favicon.svg'), '<svg/>');
    writeFileSync(join(dir, 'notes.txt'), 'private');
    expect(await load()).toEqual([]);
    expect(await (await get('/')).text()).toBe('<p>page');
    const script = await get('/main.js');
    expect(script.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    expect(await script.text()).toMatch(/document\.title="of the page"|"of the page"/);
    const module = await get('/sdk.js');
    expect(module.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    const { connect } = (await import(`data:text/javascript,${encodeURIComponent(await module.text())}`)) as object & {
      connect?: unknown;
    };
    expect(connect).toBeTypeOf('function');
    expect((await get('/styles.css')).headers.get('content-type')).toBe('text/css; charset=utf-8');
    expect((await get('/favicon.svg')).headers.get('content-type')).toBe('image/svg+xml');
    for (const path of ['/notes.txt', '/main.ts', '/part.ts']) expect((await get(path)).status).toBe(404);
  });
});
