// Flags of the benches: every form that is accepted, and every one that is refused.
import { describe, expect, it } from 'vitest';
import { flagHelp, parseFlags, UsageError, type FlagSpecs } from '../../bench/flags.ts';

const specs: FlagSpecs = {
  rounds: { kind: 'integer', fallback: '3', meaning: 'rounds' },
  streams: { kind: 'list', fallback: '1,4', meaning: 'streams' },
  model: { kind: 'text', fallback: 'small', meaning: 'model' },
  url: { kind: 'texts', fallback: '', meaning: 'servers' },
  table: { kind: 'switch', fallback: '', meaning: 'table' },
};

describe('parseFlags', () => {
  it('takes the fallbacks when nothing is given', () => {
    const flags = parseFlags([], specs);
    expect(flags.integer('rounds')).toBe(3);
    expect(flags.list('streams')).toEqual([1, 4]);
    expect(flags.text('model')).toBe('small');
    expect(flags.isOn('table')).toBe(false);
  });

  it('reads a value behind a space and behind an equals sign', () => {
    const flags = parseFlags(['--rounds', '7', '--streams=16,32', '--model=a=b', '--table'], specs);
    expect(flags.integer('rounds')).toBe(7);
    expect(flags.list('streams')).toEqual([16, 32]);
    expect(flags.text('model')).toBe('a=b');
    expect(flags.isOn('table')).toBe(true);
  });

  it('collects a flag that may be given several times', () => {
    expect(parseFlags(['--url', 'a=1', '--url=b=2,3'], specs).texts('url')).toEqual(['a=1', 'b=2,3']);
    expect(parseFlags([], specs).texts('url')).toEqual([]);
    expect(() => parseFlags(['--url'], specs)).toThrow('--url needs a value');
  });

  it.each([
    [['--speed', '1'], 'unknown flag --speed'],
    [['--toString', '1'], 'is no flag'],
    [['--constructor', '1'], 'unknown flag --constructor'],
    [['rounds'], 'is no flag'],
    [['-r', '1'], 'is no flag'],
    [['--rounds'], '--rounds needs a value'],
    [['--rounds='], '--rounds needs a value'],
    [['--rounds', '1.5'], 'no whole number'],
    [['--rounds', '-1'], 'no whole number'],
    [['--rounds', '1e9'], 'no whole number'],
    [['--streams', '1,,2'], 'no list of whole numbers'],
    [['--streams', 'many'], 'no list of whole numbers'],
    [['--table=1'], '--table takes no value'],
  ])('refuses %j', (args, message) => {
    expect(() => parseFlags(args, specs)).toThrow(UsageError);
    expect(() => parseFlags(args, specs)).toThrow(message);
  });

  it('lists every flag with its meaning and fallback', () => {
    expect(flagHelp(specs)).toHaveLength(5);
    expect(flagHelp(specs)[0]).toMatch(/--rounds +rounds \(3\)/);
  });
});
