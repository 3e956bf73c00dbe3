// The web page, bundled into memory once and served from a map: there is no path from a request to the disk.
// main.ts loads it at start; routes.ts asks it for every GET that is no endpoint.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import type { Exchange } from '../http/exchange.ts';
import { bundleModules } from './bundle.ts';

interface StaticFile {
  body: Buffer;
  contentType: string;
  etag: string;
}

/** Only our own script, style and socket; an injected one does not run. */
const SECURITY_HEADERS: readonly [string, string][] = [
  [
    'content-security-policy',
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
      "connect-src 'self' ws: wss:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  ],
  ['x-content-type-options', 'nosniff'],
  ['referrer-policy', 'no-referrer'],
  ['cross-origin-opener-policy', 'same-origin'],
  ['cache-control', 'no-cache'],
];

const MISSING_PAGE = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tokenwire</title>
<h1>Tokenwire</h1>
<p>The server runs, but its chat page is not part of this installation (clients/web is missing or could not be built).
The APIs work: <a href="/v1/models">/v1/models</a>, <a href="/readyz">/readyz</a>.</p>
</html>
`;

/** Served for the moment that bundling takes. */
const STARTING_PAGE = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>Tokenwire</title>
<p>Tokenwire is starting…</p>
</html>
`;

export class StaticFiles {
  readonly #files = new Map<string, StaticFile>();

  /** Adds or replaces a file under its exact URL path. */
  set(path: string, contentType: string, body: Buffer): void {
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
    this.#files.set(path, { body, contentType, etag });
  }

  /** Answers GET or HEAD when there is such a file; false when there is none. */
  serve(exchange: Exchange): boolean {
    const file = this.#files.get(exchange.path === '/' ? '/index.html' : exchange.path);
    if (!file) return false;
    const headers: [string, string][] = [...SECURITY_HEADERS, ['etag', file.etag]];
    const known = exchange.header('if-none-match');
    if (known === '*' || known.split(',').some((tag) => tag.trim().replace(/^W\//, '') === file.etag)) {
      exchange.send(304, '', '', headers);
    } else {
      exchange.send(200, file.contentType, file.body, headers);
    }
    return true;
  }
}

const JAVASCRIPT = 'text/javascript; charset=utf-8';

/** Loaded from the folder as they are, by their extension. */
const CONTENT_TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.webmanifest': 'application/manifest+json',
};

/**
 * Fills `files` with the page below `dir` (main.ts bundled as /main.js, everything with a known extension as it is) and
 * with the SDK, whose entry is `sdk`, as /sdk.js.
 * Never rejects: a page that is missing or broken must not keep the API from starting, so it is replaced by one that
 * says so, and `onProblem` hears why.
 */
export async function loadWebPage(
  files: StaticFiles,
  dir: string,
  sdk: string,
  onProblem: (reason: string) => void,
): Promise<void> {
  const html = CONTENT_TYPES['.html']!;
  files.set('/index.html', html, Buffer.from(STARTING_PAGE));
  try {
    const [page, module] = await bundleModules([join(dir, 'main.ts'), sdk]);
    files.set('/main.js', JAVASCRIPT, page!);
    files.set('/sdk.js', JAVASCRIPT, module!);
    const names = await readdir(dir);
    if (!names.includes('index.html')) throw new Error('index.html is missing');
    for (const name of names) {
      const contentType = CONTENT_TYPES[extname(name)];
      if (contentType !== undefined) files.set(`/${name}`, contentType, await readFile(join(dir, name)));
    }
  } catch (error) {
    onProblem((error as Error).message.split('\n')[0]!);
    files.set('/index.html', html, Buffer.from(MISSING_PAGE));
  }
}
