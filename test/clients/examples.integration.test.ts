// The example clients, written by others from protocol/README.md and vectors.json alone, hold the same scripted
// conversation with the real server: two turns, a tool call, a cancel, history, and a resume after a dropped connection.
import { execFile, execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RealServer } from './support/real-server.ts';

const example = (path: string): string => fileURLToPath(new URL(`../../clients/examples/${path}`, import.meta.url));
const PYTHON = '/usr/bin/python3';

function hasPython(): boolean {
  try {
    execFileSync(PYTHON, ['-c', 'import msgpack, websockets'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const runsPython = hasPython();
if (!runsPython) {
  const reason = `the Python example needs ${PYTHON} with msgpack and websockets`;
  if (process.env.CI) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

function run(command: string, args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: 150_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? (typeof error.code === 'number' ? error.code : 1) : 0, stdout, stderr });
    });
  });
}

/** Each prints one JSON line per step and exits 0 when everything matched. */
function expectSteps(result: { code: number; stdout: string; stderr: string }): void {
  expect(result.code, result.stdout + result.stderr).toBe(0);
  const lines = result.stdout.trim().split('\n');
  expect(lines.length).toBeGreaterThanOrEqual(5);
  for (const line of lines) expect(() => JSON.parse(line) as unknown, line).not.toThrow();
}

describe('Example clients', () => {
  let server: RealServer;
  beforeAll(async () => {
    server = await RealServer.start({ MODEL: 'fake:stepMs=3', LOG_LEVEL: 'warn' });
  });
  afterAll(() => server.stop());

  it('in plain browser JavaScript', async () => {
    const url = `ws://127.0.0.1:${server.port}`;
    expectSteps(await run(process.execPath, [example('browser/conversation.js'), url]));
  });

  it('in plain browser JavaScript decodes every frame of the vectors', async () => {
    const { code, stdout, stderr } = await run(process.execPath, [
      example('browser/vectors.js'),
      fileURLToPath(new URL('../../protocol/vectors.json', import.meta.url)),
    ]);
    expect(code, stdout + stderr).toBe(0);
  });

  it.skipIf(!runsPython)('in Python', async () => {
    expectSteps(await run(PYTHON, [example('python/conversation.py'), `ws://127.0.0.1:${server.port}`]));
  });
});
