import { afterEach, describe, expect, it } from 'vitest';
import { ask, killAll, READY, start } from './server-process.ts';

afterEach(killAll);

describe('npm start', () => {
  it('explains all settings with --help and starts nothing', async () => {
    for (const script of ['main', 'supervisor'] as const) {
      const help = start(script, ['--help']);
      expect((await help.ended).code).toBe(0);
      expect(help.output()).toContain('--max-context');
    }
  });

  it.each<[title: string, args: string[], env: Record<string, string>, message: RegExp]>([
    ['a wrong value', ['--port', 'x'], {}, /^tokenwire: PORT must be a whole number from 0 to 65535, got "x"\n$/],
    ['an unknown flag', ['--nonsense'], {}, /^tokenwire: unknown argument --nonsense; --help lists all settings\n$/],
    [
      'a public host without keys',
      [],
      { HOST: '0.0.0.0' },
      /^tokenwire: HOST 0\.0\.0\.0 can be reached by others.*\n$/,
    ],
    ['half of TLS', [], { TLS_CERT: 'x.pem' }, /^tokenwire: TLS_CERT is set but TLS_KEY is not\n$/],
    [
      'an address of another machine',
      [],
      { HOST: '192.0.2.1', ALLOW_OPEN: '1' },
      /^tokenwire: cannot listen on 192.*\n$/,
    ],
  ])('stops with one line and code 2 on %s, and is not started again', async (_title, args, env, message) => {
    const started = start('supervisor', args, env);
    expect((await started.ended).code).toBe(2);
    expect(started.output()).toMatch(message);
  });

  it('stops with code 2 when a model does not exist', async () => {
    const started = start('supervisor', [], { MODEL: '/nowhere/no-model' });
    expect((await started.ended).code).toBe(2);
    expect(started.output()).toMatch(/cannot load \/nowhere\/no-model/);
    expect(started.output()).not.toMatch(/\n\s+at /);
  });

  it('listens, becomes ready, answers, and exits 0 on SIGTERM under load', async () => {
    const started = start('supervisor', ['--drain-timeout', '200ms']);
    const [, url] = await started.says(READY);
    expect((await ask(url!, { max_tokens: 5 })).status).toBe(200);
    const long = { ignore_eos: true, max_tokens: 4000, stream: true };
    const answers = await Promise.all(Array.from({ length: 8 }, () => ask(url!, long)));
    const texts = Promise.all(answers.map((answer) => answer.text()));
    started.child.kill('SIGTERM');
    expect(await started.ended).toEqual({ code: 0, signal: null });
    for (const text of await texts) expect(text).toContain('"code":"shutting_down"');
    expect(started.output()).toMatch(/SIGTERM: draining, 8 running answers get 0.2 s/);
  });

  it('lets running answers finish within DRAIN_TIMEOUT', async () => {
    const started = start('main');
    const [, url] = await started.says(READY);
    const answer = await ask(url!, { ignore_eos: true, max_tokens: 100, stream: true });
    started.child.kill('SIGTERM');
    expect(await answer.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect((await started.ended).code).toBe(0);
  });

  it('ends at once on a second signal', async () => {
    const started = start('main');
    const [, url] = await started.says(READY);
    const answer = await ask(url!, { ignore_eos: true, max_tokens: 4000, stream: true });
    started.child.kill('SIGINT');
    await started.says(/SIGINT: draining/);
    await new Promise((resolve) => setTimeout(resolve, 500));
    started.child.kill('SIGINT');
    // Else it would have run to its own end.
    expect(await answer.text()).toContain('"code":"shutting_down"');
    expect((await started.ended).code).toBe(0);
  });

  it('takes two deliveries of the same Ctrl-C for one', async () => {
    const started = start('main');
    const [, url] = await started.says(READY);
    const answer = await ask(url!, { ignore_eos: true, max_tokens: 100, stream: true });
    started.child.kill('SIGINT');
    started.child.kill('SIGINT');
    expect(await answer.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect((await started.ended).code).toBe(0);
  });
});

describe('a bug outside any request', () => {
  it.each(['throw new Error("boom")', 'Promise.reject(new Error("boom"))'])(
    'is logged, answers end, and the exit code is 1: %s',
    async (bug) => {
      const source = `import { isMainThread } from 'node:worker_threads';
        if (isMainThread) process.once('SIGUSR2', () => { ${bug}; });`;
      const started = start('main', [], {
        NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(source)}`,
      });
      const [, url] = await started.says(READY);
      const answer = await ask(url!, { ignore_eos: true, max_tokens: 4000, stream: true });
      started.child.kill('SIGUSR2');
      expect(await answer.text()).toContain('"code":"shutting_down"');
      expect(await started.ended).toEqual({ code: 1, signal: null });
      expect(started.output()).toContain('an unexpected error');
      expect(started.output()).toContain('boom');
    },
  );
});

describe('supervisor', () => {
  it('starts the server again after a crash, with growing pauses, and ends on SIGTERM', async () => {
    const started = start('supervisor');
    const crash = async (count: number): Promise<void> => {
      await started.says(new RegExp(`(?:${READY.source}[^]*){${count}}`));
      const pids = [...started.output().matchAll(/"pid":(\d+)/g)].map((match) => Number(match[1]));
      expect(new Set(pids).size).toBe(count);
      // What an abort inside native code looks like to the parent.
      process.kill(pids.at(-1)!, 'SIGABRT');
    };
    await crash(1);
    await started.says(/was ended by SIGABRT; starting again in 0\.5 s/);
    await crash(2);
    await started.says(/was ended by SIGABRT; starting again in 1 s/);
    await started.says(new RegExp(`(?:${READY.source}[^]*){3}`));
    const [, url] = [...started.output().matchAll(new RegExp(READY, 'g'))].at(-1)!;
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    started.child.kill('SIGTERM');
    expect((await started.ended).code).toBe(0);
  });

  it('takes the server along when it is killed itself', async () => {
    const started = start('supervisor');
    const [, url] = await started.says(READY);
    started.child.kill('SIGKILL');
    const deadline = performance.now() + 60_000;
    let isGone = false;
    while (!isGone && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      isGone = await fetch(`${url}/healthz`).then(
        () => false,
        () => true,
      );
    }
    expect(isGone).toBe(true);
  });

  it('runs the server in its own process with SUPERVISE=0', async () => {
    const started = start('supervisor', ['--supervise', '0']);
    await started.says(READY);
    started.child.kill('SIGKILL');
    expect((await started.ended).signal).toBe('SIGKILL');
    expect(started.output()).not.toContain('starting again');
  });
});
