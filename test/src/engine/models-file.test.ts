import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isModelName, parseModelsFile, readModelsFile } from '../../../src/engine/models-file.ts';

describe('parseModelsFile', () => {
  it('reads a model per line, with names and context, quotes and comments', () => {
    const text =
      '# mine\r\n\n  org/name@v1 alias=a,b\n"/srv/my models/x" id=coder context=8192\nfake:stepMs=2;prefillUs=1\n';
    expect(parseModelsFile(text)).toEqual([
      { spec: 'org/name@v1', aliases: ['a', 'b'] },
      { spec: '/srv/my models/x', id: 'coder', contextLength: 8192 },
      { spec: 'fake:stepMs=2;prefillUs=1' },
    ]);
  });

  it.each([
    ['', 'names no model'],
    ['# only this', 'names no model'],
    ['a\nb quick', 'line 2: quick is none of'],
    ['a id=', 'line 1: id= is none of'],
    ['a id=default', 'line 1: id=default is none of'],
    ['a alias=x,', 'line 1: alias=x, is none of'],
    ['a context=8', 'line 1: context=8 is none of'],
    ['a context=many', 'line 1: context=many is none of'],
    ['a\na', 'line 2: a is there twice'],
    ['a id=x\nb alias=x', 'line 2: x is there twice'],
    ['""', 'line 1: names no model'],
  ])('refuses %j', (text, why) => expect(() => parseModelsFile(text)).toThrow(why));

  it('names the file that cannot be read', () => {
    const directory = mkdtempSync(join(tmpdir(), 'tokenwire-models-file-'));
    try {
      const file = join(directory, 'models');
      expect(() => readModelsFile(file)).toThrow(`${file}: ENOENT`);
      writeFileSync(file, 'a b c');
      expect(() => readModelsFile(file)).toThrow(`${file}: line 1`);
      writeFileSync(file, 'a');
      expect(readModelsFile(file)).toEqual([{ spec: 'a' }]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('knows names from anything else', () => {
    expect(['a', 'Qwen/Qwen3-0.6B@main', 'a.b_c:8b'].every(isModelName)).toBe(true);
    expect(['', 'default', 'a b', 'a,b', '"', 'x'.repeat(129), 'ä'].some(isModelName)).toBe(false);
  });
});
