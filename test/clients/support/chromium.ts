// Finds and starts a real Chromium. Without one, browser tests skip and say why; in CI that is a failure.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import type { Browser } from 'playwright-core';

const commonPaths = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/usr/bin/google-chrome-stable',
  '/snap/bin/chromium',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
];

/** Path of the browser, or null with the reason printed. Throws in CI when there is none. */
export function findChromium(): string | null {
  const asked = process.env['CHROMIUM_PATH'];
  const found = asked !== undefined && asked !== '' ? asked : commonPaths.find((path) => existsSync(path));
  if (found !== undefined && existsSync(found)) return found;
  const reason = `no Chromium found (${asked ?? 'CHROMIUM_PATH is not set, nor is one in the usual places'})`;
  if (process.env['CI']) throw new Error(reason);
  console.warn(`browser tests skipped: ${reason}`);
  return null;
}

/** The caller closes it. */
export function launchChromium(executablePath: string): Promise<Browser> {
  return chromium.launch({
    executablePath,
    headless: true,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}
