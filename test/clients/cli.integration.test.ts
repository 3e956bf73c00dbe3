// The terminal chat as its own process: piped, and on a pseudo-terminal made by script(1).
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { Op } from '../../protocol/messages.ts';
import type { CreateOptions } from '../../protocol/messages.ts';
import { FakeServer, words } from './support/fake-server.ts';
import type { FakeServerOptions } from './support/fake-server.ts';
import { until } from './support/until.ts';

const program = fileURLToPath(new URL('../../clients/cli/chat.ts', import.meta.url));
const servers: FakeServer[] = [];
const children: ChildProcess[] = [];

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const server of servers.splice(0)) await server.stop();
});

async function serve(options: FakeServerOptions = {}): Promise<FakeServer> {
  const server = await FakeServer.start(options);
  servers.push(server);
  return server;
}

/** Runs the program with this input to its end. */
async function run(args: string[], input: string): Promise<{ out: string; err: string; code: number | null }> {
  const child = spawn(process.execPath, [program, ...args], { stdio: 'pipe' });
  children.push(child);
  const result = { out: '', err: '', code: null as number | null };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (result.out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (result.err += text));
  child.stdin.end(input);
  await once(child, 'close');
  result.code = child.exitCode;
  return result;
}

describe('The terminal chat with a piped input', () => {
  it('prints the answer alone to stdout, the usage to stderr, and ends', async () => {
    const server = await serve();
    const args = ['--url', server.url, '--temperature', '0', '--max-tokens', '9', '--system', 'Be brief.'];
    const result = await run(args, 'Hello there, 你好\n');
    expect(result).toMatchObject({ out: 'Hello there, 你好\n', code: 0 });
    expect(result.err).toMatch(/^8 \+ \d+ tokens · \d+ tok\/s · TTFT \d+ ms\n$/);
    const creates = server.peer.messages(Op.Create).map((message) => message[3] as CreateOptions);
    expect(creates[0]?.sampling).toEqual({ temperature: 0, maxTokens: 9 });
    expect(server.peer.messages(Op.OpenSession)[0]?.[3]).toEqual({ system: 'Be brief.' });
  });

  it('says how to start a server when there is none', async () => {
    const gone = await FakeServer.start();
    const { url } = gone;
    await gone.stop();
    const result = await run(['--url', url], 'hi');
    expect(result).toEqual({ out: '', err: `no server at ${url}; start one with: npm start\n`, code: 1 });
  });

  it.each([
    [['--nope'], 'hi', 2, 'unknown option --nope'],
    [[], '  \n', 1, 'nothing to ask'],
  ])('%j with input %j ends with a clear line', async (args, input, code, message) => {
    const server = await serve();
    const result = await run(['--url', server.url, ...args], input);
    expect(result).toMatchObject({ out: '', code });
    expect(result.err).toContain(message);
  });

  it('ends with the reason when the answer fails', async () => {
    const error = { code: 'overloaded', message: 'Too much to do.' };
    const server = await serve({ script: () => ({ pieces: ['half'], error }) });
    expect(await run(['--url', server.url], 'hi')).toEqual({ out: 'half\n', err: 'Too much to do.\n', code: 1 });
  });

  it('passes on every byte of an answer, also those that a terminal would obey', async () => {
    const server = await serve({ script: () => ({ pieces: ['a\u001b[2J', '\tb'] }) });
    expect((await run(['--url', server.url], 'hi')).out).toBe('a\u001b[2J\tb\n');
  });

  it('prints its help', async () => {
    const result = await run(['--help'], '');
    expect(result.out).toContain('npm run chat');
    expect(result.code).toBe(0);
  });
});

/** Runs the program on a pseudo-terminal and waits for its prompt. */
async function openTerminal(
  server: FakeServer,
): Promise<{ type(text: string): void; shown(): string; child: ChildProcess }> {
  const command = `'${process.execPath}' '${program}' --url ${server.url}`;
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    stdio: 'pipe',
    env: { ...process.env, TERM: 'xterm' },
  });
  children.push(child);
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  await until(() => out.includes('> '));
  return { type: (text) => void child.stdin.write(text), shown: () => out, child };
}

/** util-linux has script(1) with -c; other systems have another one, or none. */
const hasScript = /util-linux/.test(spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout ?? '');
if (!hasScript) console.warn('terminal tests skipped: no script(1) of util-linux to make a pseudo-terminal');

describe.skipIf(!hasScript)('The terminal chat on a terminal', () => {
  it('cancels the running answer with Ctrl-C, goes on, and leaves with Ctrl-D', async () => {
    let isHeld = true;
    const pieces = words('one two three four five six seven');
    const server = await serve({ script: () => ({ pieces, isHeld: () => isHeld }) });
    const terminal = await openTerminal(server);
    terminal.type('count\r');
    await until(() => terminal.shown().includes('two'));
    terminal.type('\u0003');
    await until(() => terminal.shown().includes('stopped'));
    expect(terminal.shown()).not.toContain('seven');
    expect(terminal.shown()).toContain('\u001b[2m8 + ');
    isHeld = false;
    terminal.type('again\r');
    await until(() => terminal.shown().includes('seven'));
    const closed = once(terminal.child, 'close');
    terminal.type('\u0004');
    await closed;
    expect(terminal.child.exitCode).toBe(0);
    await until(() => server.sessions.size === 0);
  });

  it('shows what a model says and does not obey it', async () => {
    const terminal = await openTerminal(await serve({ script: () => ({ pieces: ['a\u001b[2J', '\u009bb'] }) }));
    terminal.type('hi\r');
    await until(() => terminal.shown().includes('TTFT'));
    expect(terminal.shown()).toContain('a\uFFFD[2J\uFFFDb');
  });

  it('leaves with Ctrl-C twice at the prompt, and says so after the first', async () => {
    const terminal = await openTerminal(await serve());
    terminal.type('\u0003');
    await until(() => terminal.shown().includes('Ctrl-C again'));
    const closed = once(terminal.child, 'close');
    terminal.type('\u0003');
    await closed;
    expect(terminal.child.exitCode).toBe(0);
  });

  it('tells of a lost connection and goes on when it is back', async () => {
    const server = await serve();
    const terminal = await openTerminal(server);
    server.drop();
    await until(() => terminal.shown().includes('connected again'));
    expect(terminal.shown()).toContain('connection lost');
    terminal.type('still here\r');
    await until(() => terminal.shown().includes('TTFT'));
    expect(terminal.shown().match(/still here/g)?.length).toBe(2);
  });
});
