import { describe, expect, it } from 'vitest';
import { DEFAULT_URL, help, readOptions } from '../../clients/cli/options.ts';

describe('Options of the terminal chat', () => {
  it('have defaults', () => {
    expect(readOptions([], {})).toEqual({
      url: DEFAULT_URL,
      model: null,
      system: null,
      temperature: null,
      maxTokens: null,
      key: null,
      wantsHelp: false,
    });
  });

  it('are taken with a space or an equals sign', () => {
    const args = ['--url=http://host:1', '--model', 'm', '--system=a = b', '--temperature', '0.5', '--max-tokens=7'];
    expect(readOptions([...args, '--key', 'k'], { API_KEY: 'other' })).toEqual({
      url: 'http://host:1',
      model: 'm',
      system: 'a = b',
      temperature: 0.5,
      maxTokens: 7,
      key: 'k',
      wantsHelp: false,
    });
  });

  it('take an address without a scheme, and the key from the environment', () => {
    expect(readOptions(['--url', 'localhost:9000'], { API_KEY: 'k' })).toMatchObject({
      url: 'ws://localhost:9000',
      key: 'k',
    });
  });

  it.each([
    [['--nope'], 'unknown option --nope'],
    [['hello'], 'unknown option hello'],
    [['--model'], '--model needs a value'],
    [['--temperature', 'hot'], '--temperature: hot is not a number from 0 to 2'],
    [['--temperature='], '--temperature:  is not a number'],
    [['--temperature', '2.1'], '--temperature: 2.1'],
    [['--max-tokens', '0'], '--max-tokens: 0 is not a whole number'],
    [['--max-tokens', '1.5'], '--max-tokens: 1.5'],
    [['--url', 'ftp://x'], '--url: ftp://x is not an address'],
    [['--url', 'http://'], '--url: http:// is not an address'],
  ])('%j is refused with a clear line', (args, message) => {
    expect(() => readOptions(args, {})).toThrow(message);
  });

  it('are all in the help', () => {
    for (const name of ['--url', '--model', '--system', '--temperature', '--max-tokens', '--key', '--help']) {
      expect(help).toContain(name);
    }
    expect(readOptions(['--help'], {}).wantsHelp).toBe(true);
  });
});
