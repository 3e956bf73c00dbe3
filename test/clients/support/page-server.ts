// The chat page in front of the scripted server: bundled as the real server does it, with the same kind of policy.
import { readFile } from 'node:fs/promises';
import { bundleModules } from '../../../src/web/bundle.ts';
import { FakeServer } from './fake-server.ts';
import type { FakeServerOptions } from './fake-server.ts';

const folder = new URL('../../../clients/web/', import.meta.url);
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'";

let files: Promise<Map<string, { type: string; body: Buffer }>> | null = null;

async function load(): Promise<Map<string, { type: string; body: Buffer }>> {
  const read = (name: string): Promise<Buffer> => readFile(new URL(name, folder));
  return new Map([
    ['/', { type: 'text/html; charset=utf-8', body: await read('index.html') }],
    ['/styles.css', { type: 'text/css; charset=utf-8', body: await read('styles.css') }],
    ['/favicon.svg', { type: 'image/svg+xml', body: await read('favicon.svg') }],
    [
      '/main.js',
      {
        type: 'text/javascript; charset=utf-8',
        body: (await bundleModules([new URL('main.ts', folder).pathname]))[0]!,
      },
    ],
  ]);
}

/** A scripted server that also serves the page. */
export async function startPageServer(options: FakeServerOptions = {}): Promise<FakeServer> {
  files ??= load();
  const known = await files;
  return FakeServer.start({
    ...options,
    onRequest: (request, response) => {
      const file = known.get((request.url ?? '/').split('?')[0] ?? '/');
      if (file === undefined) {
        response.writeHead(404).end();
        return;
      }
      response.writeHead(200, { 'content-type': file.type, 'content-security-policy': policy }).end(file.body);
    },
  });
}
