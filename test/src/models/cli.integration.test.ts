// `npm run models` and a server with MODEL=org/name, as processes, against a local server that speaks the hub's API.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findShape, makeCheckpoint } from '../../../bench/make-checkpoint.ts';
import { FakeHub, type FakeModel } from '../../workers/model/hub/fake-hub.ts';
import { ask, killAll, READY, start } from '../server-process.ts';

const ID = 'acme/Tiny-Chat';
const TOKEN = 'hf_secret';
const cli = fileURLToPath(new URL('../../../src/models/cli.ts', import.meta.url));
let root: string;
let hub: FakeHub;
let model: FakeModel;

beforeAll(async () => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), 'tokenwire-models-'));
  makeCheckpoint(path.join(root, 'source'), findShape('tiny'), 1);
  hub = await FakeHub.start(1);
  model = hub.add(ID, path.join(root, 'source'), { lfsFrom: 100_000, token: TOKEN });
});
afterEach(killAll);
afterAll(async () => {
  await hub.stop();
  fs.rmSync(root, { recursive: true, force: true });
});

const env = () => ({ CACHE_DIR: path.join(root, 'cache'), HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN });

async function models(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [cli, ...args], { env: { PATH: process.env.PATH, ...env() } });
  let out = '';
  let err = '';
  child.stdout.on('data', (data) => (out += String(data)));
  child.stderr.on('data', (data) => (err += String(data)));
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { code, out, err };
}

describe('a server with MODEL=org/name', () => {
  it('downloads, tells how far it is, becomes ready and answers; the next start needs no hub', async () => {
    hub.delayMs = 60;
    const started = start('main', [], { ...env(), MODEL: ID, MAX_CONTEXT: '256', SLOTS: '4' });
    const [, url] = await started.says(/listens on (http:\/\/[\d.]+:\d+)/);
    type Ready = { models?: { model: string; phase: string; bytes?: { done: number; total: number } }[] };
    const seen: Ready[] = [];
    for (let isLoading = true; isLoading;) {
      const response = await fetch(`${url}/readyz`);
      isLoading = response.status === 503;
      seen.push((await response.json()) as Ready);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const downloading = seen.flatMap(({ models: list }) => list ?? []).filter(({ phase }) => phase === 'downloading');
    expect(downloading.length).toBeGreaterThan(3);
    const total = downloading.at(-1)!.bytes!.total;
    expect(total).toBeGreaterThan(model.files.get('model.safetensors')!.content.length);
    const done = downloading.map(({ bytes }) => bytes!.done);
    expect(done).toEqual(done.toSorted((a, b) => a - b));
    hub.delayMs = 0;
    for (const name of ['tiny-chat', ID]) {
      const answer = await ask(url!, { model: name, max_tokens: 4, ignore_eos: true });
      expect(await answer.json()).toMatchObject({ model: 'tiny-chat', usage: { completion_tokens: 4 } });
    }
    expect(started.output()).toContain(`"origin":"hub ${ID} (commit ${model.commit.slice(0, 8)})"`);
    expect(started.output()).not.toContain(TOKEN);
    started.child.kill('SIGTERM');
    await started.ended;

    const requests = hub.seen.length;
    const again = start('main', [], { ...env(), MODEL: `hub:${ID}`, MAX_CONTEXT: '256', SLOTS: '4' });
    await again.says(READY);
    expect(hub.seen.length).toBe(requests);
    again.child.kill('SIGTERM');
    await again.ended;
  });

  it('ends at once on SIGTERM while it downloads, and goes on the next time', async () => {
    await models('remove', ID);
    hub.delayMs = 300;
    const started = start('main', [], { ...env(), MODEL: ID });
    await started.says(/loading: downloading/);
    started.child.kill('SIGTERM');
    expect(await started.ended).toEqual({ code: 0, signal: null });
    hub.delayMs = 0;
    expect((await models()).out).toMatch(/partial/);
  });

  it('ends with code 2 and one clear line when there is no such model', async () => {
    const started = start('supervisor', [], { ...env(), MODEL: 'acme/none' });
    expect((await started.ended).code).toBe(2);
    expect(started.output()).toContain('acme/none: the hub has no such model');
    expect(started.output()).not.toMatch(/\n\s+at /);
  });
});

describe('npm run models', () => {
  it('pulls, lists, verifies, mends and removes', async () => {
    expect(await models('pull', ID)).toMatchObject({ code: 0, err: expect.stringMatching(/downloading/) });
    const { out } = await models('list', '--json');
    const [local] = (JSON.parse(out) as { models: { id: string; state: string }[] }).models;
    expect(local).toMatchObject({ id: ID, state: 'complete', revisions: ['main'], commit: model.commit });
    expect(await models('verify', ID)).toMatchObject({ code: 0 });

    const file = path.join(root, 'cache', 'hub', ID, model.commit, 'tokenizer.json');
    const bytes = fs.readFileSync(file);
    bytes[20]! ^= 1;
    fs.writeFileSync(file, bytes);
    const wrong = await models('verify', ID);
    expect(wrong.code).toBe(1);
    expect(wrong.out).toMatch(/^wrong: tokenizer\.json/);
    expect((await models('pull', ID)).code).toBe(0);
    expect((await models('verify', ID)).code).toBe(0);
  });

  it('removes what was compiled, too', async () => {
    const started = start('main', [], { ...env(), MODEL: ID, MAX_CONTEXT: '256', SLOTS: '4' });
    await started.says(READY);
    started.child.kill('SIGTERM');
    await started.ended;
    expect((await models()).out).toMatch(/complete {2}1 \(/);
    const compiled = path.join(root, 'cache', 'models');
    const entries = () => fs.readdirSync(compiled).filter((name) => name.startsWith('tiny-chat-'));
    expect(entries().length).toBeGreaterThan(0);
    expect(await models('remove', ID)).toMatchObject({ code: 0 });
    expect(entries()).toEqual([]);
    expect((await models()).out).toMatch(/^no models of the hub in /);
  });

  it('fails with code 1 at the hub and 2 on the command line, in one line', async () => {
    expect(await models('verify', ID)).toMatchObject({ code: 1, err: expect.stringMatching(/not on this machine/) });
    const none = await models('pull', 'acme/none');
    expect(none).toMatchObject({ code: 1, err: expect.stringMatching(/acme\/none: the hub has no such model\n$/) });
    expect(none.err).not.toContain(TOKEN);
    expect(await models('pull', 'not a name')).toMatchObject({ code: 1 });
    expect(await models('push')).toMatchObject({ code: 2, out: '' });
    expect((await models('--help')).out).toContain('npm run models -- pull ID');
  });
});
