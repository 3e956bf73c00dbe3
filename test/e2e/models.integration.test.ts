// Models that come and go in a running server, as its operator does it: by the admin API, by MODELS_FILE and a signal.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { TestServer } from './support/test-server.ts';

let directory = '';
let server: TestServer | null = null;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokenwire-models-'));
});
afterEach(async () => {
  await server?.stop();
  server = null;
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const file = (): string => join(directory, 'models');
const settings = { EMBEDDING_MODEL: 'off', WORKERS: '1', THREADS: '1', MAX_CONTEXT: '1024', LOG_LEVEL: 'info' };

const ask = async (model: string, maxTokens: number): Promise<{ status: number; text: string; code?: string }> => {
  const answer = await fetch(`${server!.url}/v1/chat/completions`, {
    method: 'POST',
    body: JSON.stringify({
      model,
      messages: [{ role: 'user', content: 'a story' }],
      max_tokens: maxTokens,
      ignore_eos: true,
      temperature: 0,
    }),
  });
  const body = (await answer.json()) as {
    choices?: { message: { content: string } }[];
    error?: { code: string };
  };
  return { status: answer.status, text: body.choices?.[0]?.message.content ?? '', code: body.error?.code ?? '' };
};
const listed = async (): Promise<string[]> => {
  const { data } = (await (await fetch(`${server!.url}/v1/models`)).json()) as { data: { id: string }[] };
  return data.map(({ id }) => id);
};
const admin = async (path: string, body: object): Promise<{ status: number; body: Record<string, unknown> }> => {
  const answer = await fetch(`${server!.url}/v1/admin/models/${path}`, { method: 'POST', body: JSON.stringify(body) });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};

describe('A server whose models change', () => {
  it('applies MODELS_FILE on SIGUSR2 while answers run, keeps what it has when the file is wrong', async () => {
    writeFileSync(file(), '# two\nfake:stepMs=4 id=old alias=chat\nfake: id=gone\n');
    server = await TestServer.start({ ...settings, MODELS_FILE: file() }, { script: 'supervisor' });
    expect(await listed()).toEqual(['old', 'gone']);
    await ask('gone', 4);
    const running = ask('chat', 400);
    await expect.poll(() => server!.metric('requests_running')).toBe(1);
    writeFileSync(file(), 'fake:stepMs=1 id=old alias=chat\nfake: id=new\n');
    server.signal('SIGUSR2');
    await expect.poll(listed).toEqual(['old', 'new']);
    await server.says(/"swapped":\["old"\]/);
    const { text } = await ask('old', 400);
    expect(await running).toEqual({ status: 200, text, code: '' });
    expect(await (await fetch(`${server.url}/metrics`)).text()).not.toContain('model="gone"');
    expect((await ask('gone', 4)).code).toBe('model_not_found');
    writeFileSync(file(), 'fake: id=');
    server.signal('SIGUSR2');
    await server.says(/the models stay as they are/);
    expect((await admin('reload', {})).status).toBe(400);
    expect(await listed()).toEqual(['old', 'new']);
  });

  it('loads, swaps and unloads by the admin API, and sleeps and wakes by itself', async () => {
    server = await TestServer.start({ ...settings, MODEL: 'fake:', MODEL_IDLE_TIMEOUT: '0.5' });
    expect((await admin('load', { model: 'fake:stepMs=1', id: 'second', aliases: ['two'] })).status).toBe(200);
    expect((await admin('load', { model: 'fake:stepMs=1', id: 'fake' })).body).toMatchObject({
      error: { code: 'conflict' },
    });
    expect((await ask('two', 4)).status).toBe(200);
    expect((await admin('load', { model: 'nothing-here' })).body).toMatchObject({ error: { param: 'model' } });
    const states = async (): Promise<string[]> => {
      const { data } = (await (await fetch(`${server!.url}/v1/admin/models`)).json()) as {
        data: { id: string; state: string }[];
      };
      return data.map(({ id, state }) => `${id} ${state}`);
    };
    await expect.poll(states).toEqual(['fake unloaded', 'second unloaded', 'nothing-here failed']);
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
    expect(await listed()).toEqual(['fake', 'second']);
    expect((await ask('default', 4)).status).toBe(200);
    expect((await admin('unload', { model: 'nothing-here' })).status).toBe(200);
    expect((await admin('unload', { model: 'fake' })).status).toBe(200);
    expect((await admin('unload', { model: 'two' })).status).toBe(200);
    expect(await ask('default', 4)).toMatchObject({ status: 404, code: 'model_not_found' });
    const probe = await fetch(`${server.url}/readyz`);
    expect([probe.status, await probe.json()]).toEqual([503, { status: 'no model', models: [] }]);
    expect((await server.stop()).code).toBe(0);
    server = null;
  });

  it('ends at once for a models file that is wrong', async () => {
    writeFileSync(file(), 'fake: quick\n');
    server = await TestServer.start({ ...settings, MODELS_FILE: file() }, { waits: false });
    expect(await server.exited).toMatchObject({ code: 2 });
    expect(server.output).toContain('MODELS_FILE');
    expect(server.output).toContain('line 1: quick is none of id=NAME');
    server = null;
  });
});
