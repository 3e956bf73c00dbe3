// Which files a name means: paths, numbered parts, folders, packages and pieces in packages.
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { findGguf } from '../../../../workers/model/gguf/files.ts';
import { temporaryFolder } from '../kit.ts';

const root = fs.realpathSync(temporaryFolder());
afterAll(() => fs.rmSync(root, { recursive: true }));

function touch(...names: string[]): void {
  for (const name of names) {
    fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    fs.writeFileSync(path.join(root, name), 'x');
  }
}
const at = (name: string): string => path.join(root, name);

const find = (name: string): ReturnType<typeof findGguf> => findGguf(name, [at('elsewhere'), at('node_modules')]);

describe('findGguf', () => {
  it('takes the path of a file', () => {
    touch('one/Tiny-Q4_0.gguf');
    expect(findGguf(at('one/Tiny-Q4_0.gguf'))).toMatchObject({
      shards: [[at('one/Tiny-Q4_0.gguf')]],
      name: 'Tiny-Q4_0',
    });
    expect(() => findGguf(at('one/other.gguf'))).toThrow('there is no such file');
    expect(findGguf('no-such-folder/other.gguf')).toBeNull();
  });

  it('takes any of numbered parts for all of them', () => {
    const names = [1, 2, 3].map((no) => `split/big-0000${no}-of-00003.gguf`);
    touch(...names);
    for (const name of names) {
      expect(findGguf(at(name))).toMatchObject({ shards: names.map((each) => [at(each)]), name: 'big' });
    }
    expect(findGguf(at('split'))?.shards).toHaveLength(3);
    fs.rmSync(at(names[1]!));
    expect(() => findGguf(at(names[0]!))).toThrow('big-00002-of-00003.gguf: this part of the model is missing');
    touch('split/odd-00001-of-00000.gguf');
    expect(() => findGguf(at('split/odd-00001-of-00000.gguf'))).toThrow('cannot be one of 0 parts');
  });

  it('takes a folder with one model, leaves pictures’ part out, and asks which of several', () => {
    touch('folder/a.gguf', 'folder/mmproj-a.gguf');
    expect(findGguf(at('folder'))?.name).toBe('a');
    touch('folder/b.gguf');
    expect(() => findGguf(at('folder'))).toThrow('it holds several models (a.gguf, b.gguf); name one of the files');
    touch('folder/config.json');
    expect(findGguf(at('folder'))).toBeNull();
    expect(findGguf(at('no-such-folder'))).toBeNull();
  });

  it('takes a package that holds a file, and packages that hold pieces of one', () => {
    touch('node_modules/gguf-tiny/tiny.gguf');
    touch('node_modules/@acme/halves-part1/model.part', 'node_modules/@acme/halves-part2/model.part');
    touch('node_modules/no-model/index.js');
    expect(find('gguf-tiny')).toMatchObject({ name: 'tiny', origin: 'GGUF in npm package gguf-tiny' });
    const pieces = [1, 2].map((no) => at(`node_modules/@acme/halves-part${no}/model.part`));
    for (const name of ['@acme/halves-part1', '@acme/halves']) {
      expect(find(name)).toMatchObject({ shards: [pieces], name: 'halves' });
    }
    expect(find('no-model')).toBeNull();
    expect(find('no such')).toBeNull();
  });
});
