// The admin API over real HTTP, against a stand-in that keeps a list: who may call, what bodies are accepted, what is told.
import { afterEach, describe, expect, it } from 'vitest';
import { ServiceError } from '../../../protocol/errors.ts';
import type { ModelAdmin, ModelView } from '../../../src/engine/model-admin.ts';
import { startTestApp, type TestApp, type TestAppOptions } from './test-app.ts';

const view: ModelView = {
  id: 'm',
  aliases: ['alias'],
  spec: 'org/m',
  origin: 'hub org/m',
  state: 'ready',
  isDefault: true,
  progress: null,
  failure: null,
  contextLength: 4096,
  quantization: '8-bit',
  weightsBytes: 1000,
  kvType: 'float32',
  kvBytes: 2000,
  kvUsedBytes: 1500,
  running: 1,
  waiting: 2,
  active: 3,
  retired: 0,
  readyAtMs: 5000,
  lastUsedMs: null,
};

class Scripted implements ModelAdmin {
  readonly calls: unknown[] = [];
  readonly kvMemory = { totalBytes: 10, freeBytes: 4 };
  refusal: ServiceError | null = null;
  list = (): ModelView[] => [view];
  load: ModelAdmin['load'] = (source, { onProgress, ...options } = {}) => {
    this.calls.push(['load', source, options]);
    if (this.refusal?.code === 'conflict') return Promise.reject(this.refusal);
    for (const done of [0.1, 0.1, 0.5])
      onProgress?.({ ...view, state: 'loading', progress: { phase: 'compiling', done } });
    return this.refusal ? Promise.reject(this.refusal) : Promise.resolve(view);
  };
  unload: ModelAdmin['unload'] = (...call) => {
    this.calls.push(['unload', ...call]);
    return Promise.resolve(view);
  };
  reload: ModelAdmin['reload'] = (...call) => {
    this.calls.push(['reload', ...call]);
    return Promise.resolve({ loaded: ['a'], swapped: [], unloaded: [], unchanged: ['m'], failed: [] });
  };
}

let test: TestApp | null = null;
let admin: Scripted;

function start(options: TestAppOptions = {}): void {
  admin = new Scripted();
  test = startTestApp({ admin, ...options });
}

afterEach(async () => {
  await test?.stop();
  test = null;
});

const post = (path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${test!.url}/v1/admin/models/${path}`, {
    method: 'POST',
    headers,
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
const errorOf = async (answer: Response): Promise<unknown> => {
  const { error } = (await answer.json()) as { error: { code: string; param: string | null } };
  return [answer.status, error.code, error.param];
};

describe('/v1/admin/models', () => {
  it('lists what there is', async () => {
    start();
    const answer = await fetch(`${test!.url}/v1/admin/models`);
    expect(await answer.json()).toEqual({
      object: 'list',
      data: [
        {
          id: 'm',
          object: 'model',
          aliases: ['alias'],
          source: 'org/m',
          origin: 'hub org/m',
          state: 'ready',
          default: true,
          progress: null,
          failure: null,
          context_length: 4096,
          quantization: '8-bit',
          weights_bytes: 1000,
          kv_type: 'float32',
          kv_bytes: 2000,
          kv_used_bytes: 1500,
          running: 1,
          waiting: 2,
          active: 3,
          retired: 0,
          ready_at: 5,
          last_used_at: null,
        },
      ],
      kv_memory: { total_bytes: 10, free_bytes: 4 },
      memory: { available_bytes: expect.any(Number), resident_bytes: expect.any(Number) },
    });
  });

  it('is for operators only', async () => {
    start({ apiKeys: [{ tenant: 'a', key: 'chat-key' }], adminKeys: [{ tenant: 'ops', key: 'root-key' }] });
    const paths: [string, string][] = [
      ['GET', ''],
      ['POST', '/load'],
      ['POST', '/unload'],
      ['POST', '/reload'],
    ];
    const ask = (method: string, path: string, key?: string): Promise<Response> =>
      fetch(`${test!.url}/v1/admin/models${path}`, { method, headers: key ? { authorization: `Bearer ${key}` } : {} });
    for (const [method, path] of paths) {
      expect(await errorOf(await ask(method, path))).toEqual([401, 'invalid_api_key', null]);
      expect(await errorOf(await ask(method, path, 'wrong'))).toEqual([401, 'invalid_api_key', null]);
      expect(await errorOf(await ask(method, path, 'chat-key'))).toEqual([403, 'not_allowed', null]);
      expect([200, 400]).toContain((await ask(method, path, 'root-key')).status);
    }
    expect(admin.calls).toEqual([['reload']]);
    const foreign = await fetch(`${test!.url}/v1/admin/models`, { headers: { origin: 'https://evil.example' } });
    expect(await errorOf(foreign)).toEqual([403, 'not_allowed', null]);
  });

  it('loads with all that can be said', async () => {
    start();
    const names = { id: 'x', aliases: ['a', 'b'], context_length: 1024 };
    expect((await post('load', { model: 'org/m', ...names, default: true, stream: false })).status).toBe(200);
    expect((await post('load', { model: './path', replace: 'm', id: null })).status).toBe(200);
    expect(admin.calls).toEqual([
      ['load', { spec: 'org/m', id: 'x', aliases: ['a', 'b'], contextLength: 1024 }, { isDefault: true }],
      ['load', { spec: './path' }, { replace: 'm' }],
    ]);
  });

  it('unloads and reloads', async () => {
    start();
    expect(await (await post('unload', { model: 'm', force: true })).json()).toEqual({
      id: 'm',
      object: 'model',
      unloaded: true,
    });
    expect(await (await post('reload', '')).json()).toMatchObject({
      object: 'reload',
      loaded: ['a'],
      unchanged: ['m'],
    });
    expect(admin.calls).toEqual([['unload', 'm', { isForced: true }], ['reload']]);
  });

  it.each([
    ['load', {}, 'model'],
    ['load', { model: '' }, 'model'],
    ['load', { model: 7 }, 'model'],
    ['load', { model: 'x'.repeat(1025) }, 'model'],
    ['load', { model: 'm', id: 'default' }, 'id'],
    ['load', { model: 'm', id: 'a b' }, 'id'],
    ['load', { model: 'm', id: 'x'.repeat(129) }, 'id'],
    ['load', { model: 'm', aliases: 'a' }, 'aliases'],
    ['load', { model: 'm', aliases: ['a', ''] }, 'aliases[1]'],
    ['load', { model: 'm', aliases: Array.from({ length: 17 }, (_, i) => `a${i}`) }, 'aliases'],
    ['load', { model: 'm', context_length: 8 }, 'context_length'],
    ['load', { model: 'm', context_length: 1.5 }, 'context_length'],
    ['load', { model: 'm', replace: true }, 'replace'],
    ['load', { model: 'm', stream: 'yes' }, 'stream'],
    ['load', { model: 'm', default: 1 }, 'default'],
    ['load', { model: 'm', quantization: 4 }, 'quantization'],
    ['unload', {}, 'model'],
    ['unload', { model: ['m'] }, 'model'],
    ['unload', { model: 'm', force: 'yes' }, 'force'],
    ['unload', { model: 'm', now: true }, 'now'],
    ['reload', { file: '/etc/passwd' }, 'file'],
    ['load', '[]', null],
    ['load', '{', null],
  ])('refuses %s of %j by name', async (path, body, param) => {
    start();
    const [status, , named] = (await errorOf(await post(path, body))) as [number, string, string | null];
    expect([status, named]).toEqual([400, param]);
    expect(admin.calls).toEqual([]);
  });

  it('refuses bodies that are too large, other methods, and what comes while it drains', async () => {
    start();
    expect((await post('load', { model: 'x'.repeat(70_000) })).status).toBe(413);
    expect((await fetch(`${test!.url}/v1/admin/models/load`)).status).toBe(405);
    test!.app.services.isDraining = true;
    expect(await errorOf(await post('load', { model: 'm' }))).toEqual([503, 'shutting_down', null]);
  });

  it('tells what went wrong in the form and with the status of other errors', async () => {
    start();
    admin.refusal = new ServiceError('conflict', 'the name m is taken');
    expect(await errorOf(await post('load', { model: 'm' }))).toEqual([409, 'conflict', null]);
    expect(await errorOf(await post('load', { model: 'm', stream: true }))).toEqual([409, 'conflict', null]);
  });

  it('streams each new progress once, then the model, then the end', async () => {
    start();
    const answer = await post('load', { model: 'm', stream: true });
    expect(answer.headers.get('content-type')).toContain('text/event-stream');
    const events = (await answer.text()).trim().split('\n\n');
    const read = events.slice(0, -1).map((event) => JSON.parse(event.slice(6)) as { state: string; progress: unknown });
    expect(read.map(({ state, progress }) => [state, progress])).toEqual([
      ['loading', { phase: 'compiling', done: 0.1 }],
      ['loading', { phase: 'compiling', done: 0.5 }],
      ['ready', null],
    ]);
    expect(events.at(-1)).toBe('data: [DONE]');
  });

  it('ends the stream with the error when the load fails in its course', async () => {
    start();
    admin.refusal = new ServiceError('invalid_request', 'config.json: no such family', { param: 'model' });
    const events = (await (await post('load', { model: 'm', stream: true })).text()).trim().split('\n\n');
    expect(JSON.parse(events.at(-1)!.slice(6))).toEqual({
      error: {
        message: 'config.json: no such family',
        type: 'invalid_request_error',
        param: 'model',
        code: 'invalid_request',
      },
    });
  });

  it('needs no key without any, but shows models that load to nobody else', async () => {
    start({ isReady: false });
    expect(await (await fetch(`${test!.url}/v1/models`)).json()).toEqual({ object: 'list', data: [] });
  });
});
