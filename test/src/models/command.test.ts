import { describe, expect, it } from 'vitest';
import { settings } from '../../../src/settings.ts';
import { help, readCommand } from '../../../src/models/command.ts';
import { isSuccess, reportLines } from '../../../src/models/report.ts';

describe('npm run models', () => {
  it('reads a command, a model and settings in any order', () => {
    expect(readCommand([], {})!.action).toEqual({ kind: 'list' });
    const command = readCommand(['--models-dir', '/m', 'pull', 'org/name', '--json', '--hub-endpoint=http://h/'], {
      HF_TOKEN: 'hf_x',
      CACHE_DIR: '/c',
      PORT: 'wrong, and nobody asks',
    })!;
    expect(command.action).toEqual({ kind: 'pull', name: 'org/name' });
    expect(command.isJson).toBe(true);
    const expected = { modelsDir: '/m', cacheDir: '/c', hubEndpoint: 'http://h', hubToken: 'hf_x' };
    expect(command.config).toMatchObject(expected);
  });

  it('explains itself and its settings', () => {
    expect(readCommand(['pull', '--help'], {})).toBeNull();
    for (const { name } of [settings.modelsDir, settings.hubToken]) expect(help).toContain(name);
  });

  it.each([
    [['push'], 'unknown command push; there are list, pull, verify and remove'],
    [['pull'], 'pull needs the name of a model: org/name or org/name@revision'],
    [['pull', 'a/b', 'c/d'], 'pull takes one model, got a/b c/d'],
    [['list', 'a/b'], 'list takes no argument, got a/b'],
    [['list', '--port', '1'], 'unknown argument --port; --help lists all'],
    [['list', '--models-dir'], '--models-dir needs a value'],
    [
      ['list', '--hub-endpoint', 'ftp://x'],
      'HUB_ENDPOINT must be an address like https://huggingface.co, got "ftp://x"',
    ],
    [['list', '--hub-token', 'a b'], 'HUB_TOKEN must be printable characters without blanks'],
  ])('refuses %j', (args, message) => {
    expect(() => readCommand(args, {})).toThrow(message);
  });

  it('lists models as a table', () => {
    const model = {
      id: 'org/name',
      commit: 'a'.repeat(40),
      revisions: ['main'],
      bytes: 2e9,
      state: 'complete' as const,
    };
    const compiled = [{ folder: '/c/models/name-1', bytes: 1e9 }];
    expect(reportLines({ kind: 'list', models: [{ ...model, compiled }] }, '/m')).toEqual([
      'model     revision  commit    size  state     compiled',
      'org/name  main      aaaaaaaa  2 GB  complete  1 (1 GB)',
    ]);
    expect(reportLines({ kind: 'list', models: [] }, '/m')).toEqual(['no models of the hub in /m']);
  });

  it('names the files that verify found wrong, and fails then', () => {
    const right = { commit: 'a'.repeat(40), path: 'config.json', bytes: 1, isRight: true };
    const wrong = { ...right, path: 'model.safetensors', isRight: false };
    expect(isSuccess({ kind: 'verify', files: [right] })).toBe(true);
    const report = { kind: 'verify' as const, files: [right, wrong] };
    expect(isSuccess(report)).toBe(false);
    expect(reportLines(report, '/m')[0]).toBe('wrong: model.safetensors (commit aaaaaaaa)');
  });
});
