// Pulling from a local server that speaks the hub's API: whole, cut, refused, spoiled, by two processes at once.
import { spawn, type ChildProcess } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pullModel, type PullOptions } from '../../../../workers/model/hub/pull.ts';
import { findSnapshot } from '../../../../workers/model/hub/store.ts';
import { describeEncoder } from '../../../../workers/model/compile-encoder.ts';
import { listLocal, removeLocal, verifyLocal } from '../../../../workers/model/hub/manage.ts';
import { resolveModel } from '../../../../workers/model/resolve-model.ts';
import type { CompileProgress } from '../../../../workers/messages/models.ts';
import { TINY_CONFIG, tinyTensors, writeSafetensors } from '../checkpoint.ts';
import { FakeHub, refuse, sha1, type FakeModel } from './fake-hub.ts';

const SEED = Number(process.env.SEED ?? 20_261_122);
const ID = 'acme/tiny';
const WEIGHTS = 'model.safetensors';
const patience = { attempts: 4, firstDelayMs: 1, maxDelayMs: 5, stallMs: 300 };

let hub: FakeHub;
let root: string;
let model: FakeModel;

beforeEach(async () => {
  root = fs.mkdtempSync(path.join(os.tmpdir(), 'tokenwire-hub-'));
  const source = path.join(root, 'source');
  writeSafetensors(source, TINY_CONFIG, tinyTensors(TINY_CONFIG, SEED), 'F32');
  fs.writeFileSync(path.join(source, 'tokenizer.json'), JSON.stringify({ model: { vocab: { a: 0 } } }));
  fs.writeFileSync(path.join(source, 'README.md'), 'not needed');
  hub = await FakeHub.start(SEED);
  model = hub.add(ID, source);
});

afterEach(async () => {
  await hub.stop();
  fs.rmSync(root, { recursive: true, force: true });
});

const modelsDir = (): string => path.join(root, 'models');
const access = (token = '') => ({ endpoint: hub.endpoint, token, modelsDir: modelsDir() });

function pull(options: Partial<PullOptions> = {}, token = ''): ReturnType<typeof pullModel> {
  return pullModel({ name: { id: ID, revision: 'main' }, hub: access(token), patience, ...options });
}

const manage = () => ({ hub: access(), cacheDir: path.join(root, 'cache'), onProgress: () => {} });

function refuseConfig(): void {
  throw new Error('no such family');
}

function expectWhole(directory: string): void {
  for (const name of ['config.json', 'tokenizer.json', WEIGHTS]) {
    expect(fs.readFileSync(path.join(directory, name)).equals(model.files.get(name)!.content)).toBe(true);
  }
  const left = fs.readdirSync(directory).filter((name) => name.includes('.part'));
  expect(left).toEqual([]);
}

describe('pulling a model', () => {
  it('brings the files that are needed, all of one commit, and tells how far it is in bytes', async () => {
    const reports: CompileProgress[] = [];
    const { directory, manifest } = await pull({ onProgress: (report) => reports.push(report) });
    expectWhole(directory);
    expect(fs.existsSync(path.join(directory, 'README.md'))).toBe(false);
    expect(manifest.commit).toBe(model.commit);
    const total = ['config.json', 'tokenizer.json', WEIGHTS].reduce(
      (sum, name) => sum + model.files.get(name)!.content.length,
      0,
    );
    expect(reports.at(-1)).toEqual({ phase: 'downloading', done: 1, bytes: { done: total, total } });
    expect(hub.seen.filter(({ url }) => url.includes('/resolve/')).every(({ url }) => url.includes(model.commit))).toBe(
      true,
    );
  });

  it('uses a whole local copy without the network, until it is asked to look again', async () => {
    const { directory } = await pull();
    const { length } = hub.seen;
    expect((await pull()).directory).toBe(directory);
    expect(hub.seen.length).toBe(length);
    await hub.stop();
    expect((await pull()).directory).toBe(directory);
    await expect(pull({ isRefresh: true })).rejects.toThrow(/ECONNREFUSED \(gave up after 4 tries\)/);
    hub = await FakeHub.start(SEED);
  });

  it('takes unchanged files over when the revision moved on', async () => {
    await pull();
    const before = hub.numFileAnswers;
    model.commit = sha1('second');
    model.files.set('config.json', { content: Buffer.from(JSON.stringify(TINY_CONFIG, null, 1)), isLfs: false });
    const { directory } = await pull({ isRefresh: true });
    expectWhole(directory);
    expect(hub.numFileAnswers - before).toBe(1);
    expect((await pull()).directory).toBe(directory);
  });

  it('goes on with the part of a commit that was overtaken while it was downloaded', async () => {
    const stop = new AbortController();
    hub.delayMs = 20;
    const onProgress = (): void => {
      const part = path.join(modelsDir(), ID, model.commit, `${WEIGHTS}.part`);
      if ((fs.statSync(part, { throwIfNoEntry: false })?.size ?? 0) > 100_000) stop.abort(new Error('stopped'));
    };
    await expect(pull({ signal: stop.signal, onProgress })).rejects.toThrow('stopped');
    hub.delayMs = 0;
    hub.seen.length = 0;
    model.commit = sha1('second');
    expectWhole((await pull()).directory);
    expect(hub.numFileAnswers).toBe(1);
    expect(hub.seen.at(-1)!.range).toMatch(/^bytes=\d{6,}-$/);
  });

  it('does not trust a file of another commit that only looks the same', async () => {
    const { directory } = await pull();
    const bytes = fs.readFileSync(path.join(directory, WEIGHTS));
    bytes[100]! ^= 1;
    fs.writeFileSync(path.join(directory, WEIGHTS), bytes);
    model.commit = sha1('second');
    expectWhole((await pull({ isRefresh: true })).directory);
    // And leaves the other commit as it was.
    expect(fs.readFileSync(path.join(directory, WEIGHTS)).equals(bytes)).toBe(true);
  });

  it('stops before the weights when the config is of no use', async () => {
    await expect(pull({ checkConfig: refuseConfig })).rejects.toThrow('no such family');
    expect(hub.seen.some(({ where }) => where === 'storage')).toBe(false);
  });
});

describe('a connection that breaks', () => {
  it.each([1, 2, 3, 4, 5])('is taken up again where it was cut, whatever the places (seed %i)', async (seed) => {
    await hub.stop();
    hub = await FakeHub.start(SEED + seed);
    hub.models.set(ID, model);
    hub.cutChance = 0.8;
    const { directory } = await pull({ patience: { ...patience, attempts: 50 } });
    expectWhole(directory);
    const resumed = hub.seen.filter(({ range }) => range !== undefined);
    for (const { range } of resumed) expect(range).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it('goes on from the part of an earlier process', async () => {
    const stop = new AbortController();
    hub.delayMs = 20;
    const onProgress = ({ bytes }: CompileProgress): void => {
      const there = fs.statSync(path.join(modelsDir(), ID, model.commit, `${WEIGHTS}.part`), { throwIfNoEntry: false });
      if (bytes && there && there.size > 100_000) stop.abort(new Error('stopped'));
    };
    await expect(pull({ signal: stop.signal, onProgress })).rejects.toThrow('stopped');
    hub.delayMs = 0;
    hub.seen.length = 0;
    expectWhole((await pull()).directory);
    const [first] = hub.seen.filter(({ where }) => where === 'storage');
    expect(Number(/^bytes=(\d+)-$/.exec(first!.range!)![1])).toBeGreaterThan(100_000);
    expect(hub.numFileAnswers).toBe(1);
  });

  it('begins anew when the part is of another content, and when the server cannot go on', async () => {
    const place = path.join(modelsDir(), ID, model.commit);
    const { content } = model.files.get(WEIGHTS)!;
    fs.mkdirSync(place, { recursive: true });
    for (const [part, etag] of [
      [Buffer.alloc(5000, 1), '"another"'],
      [Buffer.alloc(5000, 1), null],
      [Buffer.concat([content, Buffer.from('!')]), null],
      [Buffer.alloc(content.length, 1), null],
    ] as const) {
      fs.rmSync(path.join(place, WEIGHTS), { force: true });
      fs.rmSync(path.join(place, 'hub.json'), { force: true });
      fs.writeFileSync(path.join(place, `${WEIGHTS}.part`), part);
      if (etag !== null) fs.writeFileSync(path.join(place, `${WEIGHTS}.part.etag`), etag);
      expectWhole((await pull()).directory);
    }
  });

  it('counts as broken when nothing arrives any more', async () => {
    let isSilent = true;
    hub.fault = (_request, response, where) => {
      if (where !== 'storage' || !isSilent) return false;
      isSilent = false;
      response.writeHead(200).write('x');
      return true;
    };
    await expect(pull()).resolves.toBeDefined();
    expect(isSilent).toBe(false);
  });

  it('is given up after a bounded number of tries, and the next pull goes on', async () => {
    hub.fault = (_request, response, where) => where === 'storage' && Boolean(response.destroy());
    await expect(pull()).rejects.toThrow(/acme\/tiny\/model\.safetensors: .* \(gave up after 4 tries\)/);
    expect(hub.seen.filter(({ where }) => where === 'storage')).toHaveLength(4);
    hub.fault = null;
    expectWhole((await pull()).directory);
  });
});

describe('a token', () => {
  it('goes to the hub and never to where it redirects', async () => {
    model.token = 'hf_secret';
    await pull({}, 'hf_secret');
    const storage = hub.seen.filter(({ where }) => where === 'storage');
    expect(storage.length).toBeGreaterThan(0);
    expect(storage.map(({ authorization }) => authorization)).toEqual(storage.map(() => undefined));
    for (const { where, authorization } of hub.seen)
      if (where === 'hub') expect(authorization).toBe('Bearer hf_secret');
  });

  it('is not sent again when the storage redirects back to the hub', async () => {
    hub.fault = (request, response, where) => {
      if (where !== 'storage') return false;
      const back = `${hub.endpoint}/api/resolve-cache/models${request.url!.split('?')[0]}`;
      response.writeHead(302, { location: back }).end();
      return true;
    };
    expectWhole((await pull({}, 'hf_secret')).directory);
    const fetched = hub.seen.filter(({ url }) => url.includes('resolve-cache') && url.endsWith(WEIGHTS));
    expect(fetched.map(({ authorization }) => authorization)).toEqual([undefined]);
  });

  it('is asked for, or called wrong, and never repeated', async () => {
    model.token = 'hf_secret';
    await expect(pull()).rejects.toThrow(/no such model, or it is private \(401\): private models need HUB_TOKEN/);
    const wrong = await pull({}, 'hf_wrong').catch((error: Error) => error);
    expect((wrong as Error).message).toMatch(/the hub has no such model/);
    hub.fault = (_request, response) => {
      refuse(response, 403, null);
      return true;
    };
    await expect(pull({}, 'hf_wrong')).rejects.toThrow(/HUB_TOKEN may not read this model \(403\)/);
    expect(JSON.stringify((wrong as Error).message)).not.toContain('hf_wrong');
  });

  it('does not help where terms have to be accepted, which the message says', async () => {
    model.isGated = true;
    await expect(pull()).rejects.toThrow(/gated: accept its terms at http:\/\/127\.0\.0\.1:\d+\/acme\/tiny, then set/);
    await expect(pull({}, 'hf_secret')).rejects.toThrow(/gated: its terms have to be accepted at .*HUB_TOKEN/);
  });
});

describe('a hub that says no', () => {
  it('is believed at once when trying again cannot help', async () => {
    await expect(pull({ name: { id: 'acme/none', revision: 'main' } }, 'hf_x')).rejects.toThrow('no such model');
    await expect(pull({ name: { id: ID, revision: 'v9' } })).rejects.toThrow(
      'acme/tiny@v9: the model has no such revision',
    );
    expect(hub.seen).toHaveLength(2);
  });

  it.each([429, 500, 503])('is asked again after %i, not before Retry-After', async (status) => {
    let refusals = 0;
    const askedAt: number[] = [];
    hub.fault = (_request, response) => {
      askedAt.push(performance.now());
      if (refusals++ > 0) return false;
      refuse(response, status, null, { 'retry-after': '1' });
      return true;
    };
    expectWhole((await pull()).directory);
    expect(askedAt[1]! - askedAt[0]!).toBeGreaterThan(950);
  });

  it('is not asked for ever', async () => {
    hub.fault = (_request, response) => {
      refuse(response, 500, null);
      return true;
    };
    await expect(pull()).rejects.toThrow(/answered status 500 \(gave up after 4 tries\)/);
  });

  it('must be a hub', async () => {
    hub.fault = (_request, response) => Boolean(response.end('<html>hello</html>'));
    await expect(pull()).rejects.toThrow(/not JSON; is HUB_ENDPOINT a hub\?/);
  });
});

describe('content that is not what the list says', () => {
  it.each(['config.json', WEIGHTS])('is refused by its checksum after a second try: %s', async (name) => {
    hub.spoil = (file, content) => {
      const spoiled = Buffer.from(content);
      if (file === name) spoiled[7]! ^= 1;
      return spoiled;
    };
    await expect(pull()).rejects.toThrow(`acme/tiny/${name}: checksum mismatch`);
    const directory = path.join(modelsDir(), ID, model.commit);
    expect(fs.readdirSync(directory).filter((file) => file.startsWith(name))).toEqual([]);
    expect(findSnapshot(modelsDir(), { id: ID, revision: 'main' })).toBeNull();
  });

  it('is refused when it has another length', async () => {
    hub.spoil = (file, content) => (file === 'config.json' ? Buffer.concat([content, Buffer.from(' ')]) : content);
    await expect(pull()).rejects.toThrow(/listed with \d+ bytes, but sent with \d+/);
  });

  it('is refused when it does not end where it should', async () => {
    hub.fault = (request, response, where) => {
      if (where !== 'storage') return false;
      // Without a length, in chunks.
      response.writeHead(200);
      response.end(Buffer.alloc(model.files.get(WEIGHTS)!.content.length + 1));
      return true;
    };
    await expect(pull()).rejects.toThrow(/more than the \d+ bytes of the list arrive/);
    hub.fault = null;
    expectWhole((await pull()).directory);
  });

  it.each([
    ['ftp://127.0.0.1/x', 'redirected from http: to ftp:, which is not followed'],
    ['http://[', 'redirected to nowhere'],
    [null, 'redirected to nowhere'],
    ['', 'more than 5 redirects'],
  ])('is not looked for at %j', async (location, message) => {
    hub.fault = (_request, response, where) => {
      if (where !== 'storage') return false;
      response.writeHead(302, location === null ? {} : { location }).end();
      return true;
    };
    await expect(pull()).rejects.toThrow(message);
  });

  it.each(['../config.json', '/etc/passwd', 'a/../../b', 'a\\..\\b', 'onnx//x', 'C:x'])(
    'is refused when a name leads elsewhere: %s',
    async (rfilename) => {
      model.editSiblings = (siblings) => siblings.push({ ...siblings[0], rfilename });
      await expect(pull()).rejects.toThrow(/which leads elsewhere/);
      expect(hub.numFileAnswers).toBe(0);
    },
  );

  it.each([-1, 1.5, 1e300, '12', 2 ** 50])('is refused when a size is absurd: %s', async (size) => {
    model.editSiblings = (siblings) => {
      const weights = siblings.find(({ rfilename }) => rfilename === WEIGHTS)!;
      Object.assign(weights, { size, lfs: { ...(weights['lfs'] as object), size } });
    };
    await expect(pull()).rejects.toThrow(/bytes/);
    expect(hub.numFileAnswers).toBe(0);
  });

  it('is not begun when the disk cannot hold it', async () => {
    model.editSiblings = (siblings) => {
      const weights = siblings.find(({ rfilename }) => rfilename === WEIGHTS)!;
      Object.assign(weights, { lfs: { ...(weights['lfs'] as object), size: 2 ** 42 - 2 ** 20 } });
    };
    await expect(pull()).rejects.toThrow(/4,194,304 MiB are still to be downloaded .* \(MODELS_DIR\)/);
    expect(hub.numFileAnswers).toBe(0);
  });
});

describe('two processes', () => {
  it('that pull at once download every file once', async () => {
    hub.delayMs = 30;
    const outputs = await Promise.all([1, 2].map(() => runScript(pullScript())));
    expect(outputs[0]).toBe(outputs[1]);
    expectWhole(outputs[0]!);
    expect(hub.numFileAnswers).toBe(3);
  });

  it('share the work when the first is killed', async () => {
    hub.delayMs = 60;
    const first = runScript(pullScript(), (child) => {
      const timer = setInterval(() => {
        if (!hub.seen.some(({ where }) => where === 'storage')) return;
        clearInterval(timer);
        setTimeout(() => child.kill('SIGKILL'), 200);
      }, 5);
    });
    await expect.poll(() => hub.seen.length).toBeGreaterThan(0);
    const second = await runScript(pullScript());
    expect(await first).toBe('');
    expectWhole(second);
    expect(hub.seen.at(-1)!.range).toMatch(/^bytes=[1-9]\d+-$/);
  });
});

function pullScript(): string {
  const module = new URL('../../../../workers/model/hub/pull.ts', import.meta.url).href;
  const options = { name: { id: ID, revision: 'main' }, hub: access() };
  return `
    import { pullModel } from ${JSON.stringify(module)};
    const { directory } = await pullModel(${JSON.stringify(options)});
    console.log(directory);`;
}

function runScript(script: string, onStart: (child: ChildProcess) => void = () => {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onStart(child);
    let output = '';
    child.stdout.on('data', (data) => (output += String(data)));
    child.on('error', reject);
    child.on('close', () => resolve(output.trim()));
  });
}

describe('a model on the disk', () => {
  it('is listed with its state', async () => {
    expect(listLocal(manage())).toEqual([]);
    const { directory } = await pull();
    expect(listLocal(manage())).toMatchObject([
      { id: ID, commit: model.commit, revisions: ['main'], state: 'complete', compiled: [] },
    ]);
    fs.truncateSync(path.join(directory, WEIGHTS), 10);
    expect(listLocal(manage())).toMatchObject([{ state: 'damaged' }]);
    fs.rmSync(path.join(directory, 'hub.json'));
    expect(listLocal(manage())).toMatchObject([{ state: 'partial' }]);
  });

  it('is verified: a flipped byte is found, not served any more, and mended by the next pull', async () => {
    const { directory } = await pull();
    expect((await verifyLocal(ID, manage())).map(({ isRight }) => isRight)).toEqual([true, true, true]);
    const file = path.join(directory, WEIGHTS);
    const bytes = fs.readFileSync(file);
    bytes[bytes.length - 1]! ^= 128;
    fs.writeFileSync(file, bytes);
    const wrong = (await verifyLocal(ID, manage())).filter(({ isRight }) => !isRight);
    expect(wrong.map((result) => result.path)).toEqual([WEIGHTS]);
    expect(findSnapshot(modelsDir(), { id: ID, revision: 'main' })).toBeNull();
    await expect(verifyLocal(ID, manage())).rejects.toThrow(/not finished; pull goes on/);
    const before = hub.numFileAnswers;
    expectWhole((await pull()).directory);
    expect(hub.numFileAnswers - before).toBe(1);
  });

  it('is removed, one revision or all, and nothing else', async () => {
    await pull();
    const first = model.commit;
    model.commit = sha1('second');
    await pull({ isRefresh: true });
    await removeLocal(`${ID}@${first}`, manage());
    expect(listLocal(manage())).toMatchObject([{ commit: model.commit, state: 'complete' }]);
    expect((await pull()).manifest.commit).toBe(model.commit);
    expect(await removeLocal(ID, manage())).toBeGreaterThan(0);
    expect(listLocal(manage())).toEqual([]);
    await expect(removeLocal(ID, manage())).rejects.toThrow('not on this machine');
    await expect(removeLocal('../x', manage())).rejects.toThrow(/written org\/name/);
  });
});

describe('a name in MODEL', () => {
  it('means a directory or a package first, and the hub with hub: in front', async () => {
    const cwd = process.cwd();
    try {
      process.chdir(root);
      writeSafetensors(path.join(root, ID), TINY_CONFIG, tinyTensors(TINY_CONFIG, 1), 'F32');
      const local = await resolveModel({ model: ID, cacheDir: root, hub: access() });
      expect(local.origin).toBe(`directory ${fs.realpathSync(path.join(root, ID))}`);
      const fromHub = await resolveModel({ model: `hub:${ID}`, cacheDir: root, hub: access() });
      expect(fromHub).toMatchObject({ id: 'tiny', aliases: [ID] });
      expect(fromHub.origin).toBe(`hub ${ID} (commit ${model.commit.slice(0, 8)})`);
    } finally {
      process.chdir(cwd);
    }
  });

  it('that is nowhere is refused with everything that was looked for', async () => {
    const none = resolveModel({ model: 'acme/none', cacheDir: root, hub: access('hf_x') });
    await expect(none).rejects.toThrow(
      'the hub has no such model (there is no directory or npm package acme/none either)',
    );
    await expect(resolveModel({ model: 'acme/none', cacheDir: root })).rejects.toThrow('no hub is set');
    await expect(resolveModel({ model: 'no such', cacheDir: root })).rejects.toThrow(
      'it is no name of a model on the hub',
    );
  });
});

const pooling = { pooling_mode_mean_tokens: true, pooling_mode_cls_token: false };

/** As sentence-transformers writes them, without weights worth the name. */
function addEncoder(files: Record<string, object>): void {
  const source = path.join(root, 'encoder');
  const config = {
    model_type: 'bert',
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    vocab_size: 96,
  };
  const all = {
    'config.json': {
      ...config,
      intermediate_size: 128,
      max_position_embeddings: 64,
      hidden_act: 'gelu',
      type_vocab_size: 2,
    },
    'tokenizer.json': { model: { vocab: { a: 0 } } },
    'modules.json': [],
    'sentence_bert_config.json': { max_seq_length: 48 },
    ...files,
  };
  for (const [name, content] of Object.entries(all)) {
    fs.mkdirSync(path.dirname(path.join(source, name)), { recursive: true });
    fs.writeFileSync(path.join(source, name), JSON.stringify(content));
  }
  fs.writeFileSync(path.join(source, WEIGHTS), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]));
  hub.add('acme/Embed', source);
}
const describeIt = () => describeEncoder({ model: 'acme/Embed', cacheDir: path.join(root, 'cache'), hub: access() });

describe('an embedding model of the hub', () => {
  it('comes with the files that say how its texts become vectors', async () => {
    addEncoder({ '1_Pooling/config.json': pooling });
    await expect(describeIt()).resolves.toMatchObject({
      id: 'embed',
      aliases: ['acme/Embed'],
      dimensions: 64,
      maxTokens: 48,
    });
    const names = hub.seen.map(({ url }) => url).join(' ');
    for (const name of ['modules.json', '1_Pooling/config.json', WEIGHTS]) expect(names).toContain(name);
  });

  it('of another way is refused before its weights are downloaded', async () => {
    addEncoder({ '1_Pooling/config.json': { ...pooling, pooling_mode_mean_tokens: false } });
    await expect(describeIt()).rejects.toThrow('pooling_mode_mean_tokens is false');
    expect(hub.seen.map(({ url }) => url).join(' ')).not.toContain(WEIGHTS);
  });
});
