// What the bench `peers` draws from its measurements: ratios per round, gaps, and its addresses.
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../bench/flags.ts';
import { parseUrl } from '../../bench/peers/contenders.ts';
import { IncrementalText } from '../../bench/peers/incremental-text.ts';
import { longestGap } from '../../bench/peers/latency.ts';
import { Rounds } from '../../bench/peers/rounds.ts';
import { Report } from '../../bench/report.ts';

describe('Rounds', () => {
  it('compares values of one round only, also with the best of that round', () => {
    const circumstances = { machine: { cpu: 'none', cores: 2 }, node: 'v22', commit: 'c', seed: 1, date: 'd' };
    const report = new Report('peers', circumstances, () => {});
    const rounds = new Rounds('us');
    const figures = [
      { us: 100, a: 50, b: 25 },
      { us: 10, a: 4, b: 5 },
    ];
    for (const figure of figures) {
      rounds.begin();
      for (const [name, value] of Object.entries(figure)) rounds.add('rate', 'tokens/s', name, value);
      rounds.add('time', 'ms', 'us', 10);
      rounds.add('time', 'ms', 'a', 20);
      // Given up after the first round.
      if (figure.us === 100) rounds.add('time', 'ms', 'b', 5);
    }
    rounds.publish(report);
    const value = (what: string, name: string): number | undefined =>
      report.results.find((each) => each.what === what && Object.values(each.at)[0] === name)?.value;
    expect(value('rate', 'us')).toBe(55);
    expect(value('ours / peer: rate', 'a')).toBe(2.25);
    expect(value('ours / peer: rate', 'b')).toBe(3);
    expect(value('ours / peer: rate', 'the best')).toBe(2);
    expect(value('ours / peer: time', 'b')).toBe(2);
    expect(value('ours / peer: time', 'the best')).toBe(1.25);
    expect(value('ours / peer: time', 'us')).toBeUndefined();
  });
});

describe('longestGap', () => {
  it('counts gaps that end within the window, wherever they began', () => {
    expect(longestGap([{ arrivals: [0, 90, 110, 120, 200] }], 100, 125)).toBe(20);
    expect(longestGap([{ arrivals: [0, 150] }, { arrivals: [140, 149] }], 100, 151)).toBe(150);
  });

  it('counts a gap that still lasts at the end', () => {
    expect(longestGap([{ arrivals: [100, 110] }], 105, 400)).toBe(290);
  });
});

describe('parseUrl', () => {
  it('takes an address with and without /v1', () => {
    expect(parseUrl('llama=http://127.0.0.1:8080')).toEqual({ name: 'llama', url: 'http://127.0.0.1:8080' });
    expect(parseUrl('x.y-1=https://host/api/v1/')).toEqual({ name: 'x.y-1', url: 'https://host/api' });
  });

  it.each(['http://127.0.0.1', 'a=', 'a=ftp://host', 'a=http://', 'a b=http://host', 'tokenwire=http://host'])(
    'refuses %s',
    (value) => {
      expect(() => parseUrl(value)).toThrow(UsageError);
    },
  );
});

describe('IncrementalText', () => {
  it('holds back what ends inside a character', () => {
    const text = new IncrementalText<number>((ids) => Buffer.from(ids).toString());
    const pieces = [...Buffer.from('aü€b')].map((byte) => text.push(byte));
    expect(pieces).toEqual(['a', '', 'ü', '', '', '€', 'b']);
  });

  it('gives up on what never becomes one', () => {
    const text = new IncrementalText<number>(() => '\ufffd');
    const pieces = Array.from({ length: 8 }, (_, id) => text.push(id));
    expect(pieces.filter((piece) => piece !== '')).toHaveLength(1);
  });
});
