// The example page, made without the SDK, in a real browser against the real server: another origin, one question.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { extname } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Browser } from 'playwright-core';
import { findChromium, launchChromium } from './support/chromium.ts';
import { RealServer } from './support/real-server.ts';

const executable = findChromium();
const folder = new URL('../../clients/examples/browser/', import.meta.url);
const types: Record<string, string> = { '.html': 'text/html', '.js': 'text/javascript' };

const files = createServer((request, response) => {
  const name = new URL(request.url ?? '/', 'http://x').pathname.slice(1) || 'index.html';
  readFile(new URL(name, folder)).then(
    (body) => response.setHeader('content-type', types[extname(name)] ?? 'text/plain').end(body),
    () => response.writeHead(404).end(),
  );
});

describe.skipIf(executable === null)('The example page', () => {
  let browser: Browser;
  let server: RealServer;
  let origin = '';
  beforeAll(async () => {
    await new Promise<void>((resolve) => files.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${(files.address() as AddressInfo).port}`;
    server = await RealServer.start({ MODEL: 'fake:stepMs=3', ALLOWED_ORIGINS: origin });
    browser = await launchChromium(executable!);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
    files.close();
  });

  it('asks over the socket and streams the answer', async () => {
    const page = await browser.newPage();
    page.setDefaultTimeout(90_000);
    await page.goto(`${origin}/index.html?server=ws://127.0.0.1:${server.port}`);
    await page.locator('#question').fill('!!say Good morning !!');
    await page.getByRole('button', { name: 'Ask' }).click();
    await page.locator('#status', { hasText: /^stop, \d+ tokens$/ }).waitFor();
    expect(await page.locator('#answer').textContent()).toBe('Good morning ');
  });

  it('stops an answer', async () => {
    const page = await browser.newPage();
    page.setDefaultTimeout(90_000);
    await page.goto(`${origin}/index.html?server=ws://127.0.0.1:${server.port}`);
    await page.locator('#question').fill(`!!say ${'on and '.repeat(400)}!!`);
    await page.getByRole('button', { name: 'Ask' }).click();
    await page.locator('#answer', { hasText: /on and/ }).waitFor();
    await page.getByRole('button', { name: 'Stop' }).click();
    await page.locator('#status', { hasText: /^cancelled, \d+ tokens$/ }).waitFor();
  });
});
