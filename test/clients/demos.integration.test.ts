// The demonstrations as people run them, on the real server with the fake model.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readFlags } from '../../clients/demos/flags.ts';
import { RealServer } from './support/real-server.ts';

const folder = fileURLToPath(new URL('../../clients/demos/', import.meta.url));
let server: RealServer;

beforeAll(async () => {
  server = await RealServer.start({ MODEL: 'fake:stepMs=5' });
});

afterAll(() => server.stop());

function run(name: string, args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [`${folder}${name}.ts`, ...args], { timeout: 150_000 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err });
    });
  });
}

describe('The demonstrations', () => {
  it('cut the network in the middle of an answer and lose nothing', async () => {
    const { code, out } = await run('cut-network', ['--url', server.url, '--tokens', '800']);
    expect(out).toContain('2 cuts, 800 tokens; the text is the same as uncut');
    expect(out).toContain('0 tokens lost, 0 doubled');
    expect(out.match(/resumed behind event/g)?.length).toBe(2);
    expect(code).toBe(0);
  });

  it('type like an editor and count what was computed for nobody', async () => {
    // The address as the SDK and the terminal chat take it.
    const url = server.url.replace('http', 'ws');
    const { out } = await run('ide-typing', ['--url', url, '--text', 'export const a', '--tokens', '64']);
    const rows = [...out.matchAll(/^(.+?) +generated +(\d+) +in time +(\d+) +wasted +([0-9.]+) %/gm)];
    expect(rows.map(([, name]) => name)).toEqual([
      'supersede',
      'cancel + resend',
      'HTTP abort + resend',
      'left to run',
    ]);
    const wasted = rows.map(([, , , , percent]) => Number(percent));
    // A few per cent on an idle machine; a busy one delays keys and answers alike. What is left to run is wasted on any.
    expect(wasted[0]).toBeLessThan(60);
    expect(wasted[3]).toBeGreaterThan(wasted[0] ?? 0);
  });

  it.each(['cut-network', 'ide-typing'])(
    '%s explains itself, refuses what it does not know and needs a server',
    async (name) => {
      expect(await run(name, ['--help'])).toMatchObject({ code: 0, out: expect.stringContaining('--url') as string });
      expect(await run(name, ['--nope'])).toMatchObject({ code: 2, err: expect.stringContaining('--nope') as string });
      const gone = await run(name, ['--url', 'http://127.0.0.1:9']);
      expect(gone).toMatchObject({ code: 1, err: expect.stringContaining('no server answers') as string });
    },
  );
});

describe('Flags of a demonstration', () => {
  it('are read in both forms and refused without a value', () => {
    const defaults = { url: 'u', rate: '10' };
    expect(readFlags(['--url', 'x', '--rate=5'], defaults).values).toEqual({ url: 'x', rate: '5' });
    expect(readFlags(['--url'], defaults).error).toBe('--url needs a value');
    expect(readFlags(['url'], defaults).error).toBe('unknown argument url');
  });
});
